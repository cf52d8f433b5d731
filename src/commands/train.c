/* catdpo train */
#include "catdpo/train/trainer.h"

#include "catdpo/commands/cli.h"
#include "catdpo/rundir/status.h"

int command_train(const CommandLine *line, MPI_Comm world)
{
    Error err = { 0 };
    Trainer t = { 0 };
    const TrainOptions options = {
        .config = line->config,
        .set_count = line->set_count,
        .sets = line->sets,
        .overwrite = command_option(line, "--overwrite") != NULL,
        .take_over = command_option(line, "--take-over") != NULL,
        .resume = command_option(line, "--resume"),
        .allow = command_option(line, "--allow"),
    };
    if (!train(&t, &options, world, &err)) log_error(&t.run.log, &err);
    if (t.run.writer && t.run.rank == 0)
        (void)status_write(t.run.writer, err.exit_status, *err.message ? err.message : t.ending, t.step, t.total_steps);
    trainer_free(&t);
    return err.exit_status;
}
