/* catdpo: the table of commands, and what happens before and after one runs. */
#include "catdpo/blas_check.h"
#include "catdpo/commands.h"

static const CommandOption train_options[] = {
    {"--overwrite", NULL, NULL, "replace the run that run.dir holds", false},
    {"--resume", "FILE", NULL, "go on from the newest good checkpoint of run.dir, or from FILE", true},
    {"--allow", "LIST", NULL, "differences that --resume accepts, such as data,schedule (the refusal names them)", false},
    {"--take-over", NULL, NULL, "go on in the place of a copy that still writes to run.dir; that one stops", false},
    {0},
};

static const char *const splits[] = {"heldout", "train", NULL};

static const CommandOption eval_options[] = {
    {"--model", "FILE", NULL, "model or checkpoint to evaluate instead of model.path", false},
    {"--split", "NAME", splits, "pairs to evaluate on, instead of data.heldout", false},
    {"--out", "FILE", NULL, "file for the results (default: eval.h5 in the run directory)", false},
    {0},
};

static const Command commands[] = {
    {
        .name = "train",
        .summary = "align a model on preference pairs (objectives catdpo, safedpo and dpo)",
        .help =
            "Trains the model in model.path on the pairs in data.path and writes to the run directory run.dir:\n"
            "config.cfg (the settings as resolved), metrics.h5, log.jsonl, reference.h5 (the reference model's\n"
            "log-probabilities, made once and reused while data and model stay the same) and checkpoints/, each of\n"
            "which is itself a model: at intervals (checkpoint.*), at the end, when the file checkpoint.request appears\n"
            "in the run directory, and before the program stops on a signal (TERM, INT, USR1, USR2) or for its time\n"
            "limit. --resume goes on from there, on any number of ranks and any grid; the same command line with\n"
            "--resume starts a run that has no checkpoint yet.\n"
            "The number of ranks is replicas x rows x columns of the process grid: see parallel.* in --help-config.\n",
        .examples = "  mpirun -n 2 catdpo train run.cfg\n"
                    "  mpirun -n 2 catdpo train run.cfg --resume\n"
                    "  mpirun -n 4 catdpo train run.cfg --set 'parallel.grid=[2,2]' --set run.dir=runs/second\n"
                    "  mpirun -n 2 catdpo train run.cfg --set objective.type=dpo --set run.dir=runs/baseline\n",
        .options = train_options,
        .run = command_train,
    },
    {
        .name = "eval",
        .summary = "accuracy, violation rate and reward margin of a model for each harm category",
        .help =
            "Runs a model over pairs it was not trained on and reports, for each category and over all of them,\n"
            "accuracy (how often the chosen response gained more than the rejected one), violation rate (as\n"
            "margin.signal defines it) and mean reward margin, with counts and 95 % confidence intervals, the worst\n"
            "category and the gap between best and worst: as a table on stdout and in an HDF5 file.\n",
        .examples = "  mpirun -n 2 catdpo eval run.cfg\n"
                    "  mpirun -n 2 catdpo eval run.cfg --model runs/first/checkpoints/final.h5 --out "
                    "runs/first/eval-after.h5\n",
        .options = eval_options,
        .run = command_eval,
    },
    {
        .name = "check",
        .summary = "is a file whole? every kind of file that catdpo and catdpo-analysis write",
        .help =
            "Verifies models, checkpoints, pairs, metrics, references and evaluations: structure, attributes,\n"
            "checksums of every byte, finite numbers, and what must hold between them. Prints for each file what it\n"
            "is, and `ok` or the first thing that is wrong with it. A directory stands for the files of the run in it.\n"
            "Needs neither mpirun nor an allocation, and memory for one file of pairs at most. Exit status 2 if a\n"
            "file is damaged, missing or none of these.\n",
        .examples = "  catdpo check model.h5 pairs.h5\n"
                    "  catdpo check runs/first\n"
                    "  catdpo check runs/first/checkpoints/*.h5\n",
        .files = true,
        .run = command_check,
    },
    {0},
};

int main(int argc, char *argv[])
{
    Cli cli;
    Error err = {0};
    if (!cli_parse(&cli, argc, argv, commands, &err) || cli.action != CLI_RUN) { /* no MPI needed for this */
        bool speaks = cli_launch_rank() == 0;
        if (err.exit_status == EXIT_DONE && speaks) cli_answer(&cli, commands, stdout, &err);
        if (err.exit_status != EXIT_DONE && speaks) fprintf(stderr, "catdpo: %s\n", err.message);
        cli_free(&cli);
        return err.exit_status;
    }

    if (cli.line.command->files) { /* one process, also if mpirun started several */
        int status = cli_launch_rank() == 0 ? cli.line.command->run(&cli.line, MPI_COMM_NULL) : EXIT_DONE;
        cli_free(&cli);
        return status;
    }

    blas_repair(argv); /* may start the program again */
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    int exit_status = cli.line.command->run(&cli.line, MPI_COMM_WORLD);
    cli_free(&cli);
    MPI_Finalize();
    return exit_status;
}
