/* catdpo train */
#include "catdpo/train/trainer.h"

#include "catdpo/commands/cli.h"
#include "catdpo/core/stop.h"
#include "catdpo/optim/schedule.h"
#include "catdpo/rundir/status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- one step --------------------------------------------------------------------------------------------------- */

/* The head has the log-probs of some pairs: their loss, what it says to the margins and metrics, and its gradient. */
static void pair_gradient(void *context, const Batch *batch, int first, int count, const SequenceResult *result,
                          float *coefficient)
{
    Trainer *t = context;
    const Pairs *pairs = &t->run.pairs;
    int me;
    CHECK_MPI(MPI_Comm_rank(t->run.grid.comm, &me));
    for (int i = first; i < first + count; i++) {
        int64_t p = batch->pair[i];
        const SequenceResult *both = &result[2 * i];
        PairLogProbs logps = { both[PAIR_CHOSEN].logp,
                               both[PAIR_REJECTED].logp,
                               t->reference[PAIR_CHOSEN][p],
                               t->reference[PAIR_REJECTED][p],
                               pairs_completion(pairs, PAIR_CHOSEN, p),
                               pairs_completion(pairs, PAIR_REJECTED, p) };
        double offset = margin_offset(&t->margins, pairs_categories(pairs, p), pairs->margin_applies[p]);
        PairLoss loss = pair_loss(t->margins.beta, offset, &logps);
        coefficient[2 * i + PAIR_CHOSEN] = (float)(loss.coefficient / t->pair_count);
        coefficient[2 * i + PAIR_REJECTED] = -coefficient[2 * i + PAIR_CHOSEN];
        if (batch->counter[i] == me) tally_add(&t->tally, &t->margins, pairs, p, &logps, &loss, offset, both);
    }
}

static void choose_pairs(Trainer *t)
{
    t->pair_count = sampler_step(&t->sampler, t->step, t->pair);
    for (int i = t->pair_count; i < t->sampler.per_step; i++) t->pair[i] = -1;
    for (int i = 0; i < t->pair_count; i++)
        t->num_tokens += pairs_length(&t->run.pairs, PAIR_CHOSEN, t->pair[i]) +
                         pairs_length(&t->run.pairs, PAIR_REJECTED, t->pair[i]);
    batcher_plan(&t->run.batcher, t->pair, t->pair_count);
}

/* A step whose numbers are not finite changes nothing; whether the run goes on is for the settings to say. The same on
 * all ranks. */
static bool may_skip(Trainer *t, StepMetrics *row, Error *err)
{
    const Config *config = &t->run.config;
    bool skip = config->optimizer.nonfinite == NONFINITE_SKIP && t->skipped < config->optimizer.max_skipped;
    row->skipped = 1;
    t->skipped++;
    if (skip)
        log_warn(&t->run.log, "step %lld is skipped: the loss is %g and the gradient's norm %g", (long long)t->step,
                 row->loss, row->grad_norm);
    return skip || error_fault(err,
                               "step %lld: the loss is %g and the gradient's norm %g: lower optimizer.learning_rate, "
                               "and look at the pairs of "
                               "this step in metrics.h5 (/train/pairs); optimizer.nonfinite = \"skip\" leaves out up "
                               "to %lld such steps",
                               (long long)t->step, row->loss, row->grad_norm, (long long)config->optimizer.max_skipped);
}

static bool train_step(Trainer *t, StepMetrics *row, Error *err)
{
    Run *run = &t->run;
    Transformer *model = &run->model;
    const Config *config = &run->config;
    *row = (StepMetrics){ .step = t->step };
    tally_clear(&t->tally);

    timer_start(run->timer, PHASE_BATCH);
    choose_pairs(t);
    timer_stop(run->timer);
    if (run->batcher.passes == 0) /* this replica has no pair in the step */
        memset(model->gradients, 0, (size_t)model->gradient_bytes);
    for (int pass = 0; pass < run->batcher.passes; pass++)
        transformer_pass(model, batcher_pass(&run->batcher, pass), pair_gradient, t, pass > 0);

    timer_start(run->timer, PHASE_MARGINS);
    tally_reduce(&t->tally, run->world);
    tally_fill(&t->tally, &t->margins, row);
    timer_stop(run->timer);

    timer_start(run->timer, PHASE_REDUCE);
    optimizer_reduce(&t->optimizer, model->gradients);
    timer_stop(run->timer);
    timer_start(run->timer, PHASE_OPTIMIZER);
    row->grad_norm = optimizer_norm(&t->optimizer, model->gradients);
    row->learning_rate =
        config->optimizer.learning_rate * schedule_factor((ScheduleType)config->schedule.type, config->schedule.warmup,
                                                          config->schedule.floor, t->step, t->total_steps);
    bool finite = isfinite(row->loss) && isfinite(row->grad_norm); /* the same numbers on all ranks */
    if (finite)
        row->clipped =
            optimizer_update(&t->optimizer, model->weights, model->gradients, row->learning_rate, row->grad_norm);
    timer_stop(run->timer);
    if (!finite) return may_skip(t, row, err);
    timer_start(run->timer, PHASE_REDUCE);
    optimizer_spread(&t->optimizer, model->weights);
    timer_stop(run->timer);
    timer_start(run->timer, PHASE_MARGINS);
    margin_update(&t->margins, t->tally.counts, t->step);
    timer_stop(run->timer);
    return true;
}

/* ---- before and after ------------------------------------------------------------------------------------------- */

static bool allocate_logps(double *logps[PAIR_SIDES], int64_t pairs, Error *err)
{
    for (int side = 0; side < PAIR_SIDES; side++)
        if (!(logps[side] = calloc((size_t)pairs + 1, sizeof(double))))
            return error_fault(err, "out of memory for the log-probs of %lld pairs", (long long)pairs);
    return true;
}

static bool allocate(Trainer *t, Error *err)
{
    Run *run = &t->run;
    const Config *config = &run->config;
    t->pair = calloc((size_t)config->batch.pairs, sizeof *t->pair);
    t->phase_seconds = calloc(PHASES, sizeof *t->phase_seconds);
    return ((t->pair && t->phase_seconds) ||
            error_fault(err, "out of memory for a step of %lld pairs", (long long)config->batch.pairs)) &&
           allocate_logps(t->reference, run->pairs.count, err) &&
           (!config->checkpoint.best || (allocate_logps(t->heldout_reference, run->heldout.count, err) &&
                                         allocate_logps(t->heldout, run->heldout.count, err))) &&
           margin_create(&t->margins, config, run->pairs.category_count, err) &&
           tally_create(&t->tally, run->pairs.category_count, err) &&
           sampler_create(&t->sampler, &run->pairs, (Sampling)config->batch.sampling, (uint64_t)config->run.seed,
                          (int)config->batch.pairs, err);
}

/* A run directory holds one run: another one must not replace it by accident. On rank 0. */
static bool refuse_second_run(const Run *run, bool overwrite, bool resume, Error *err)
{
    char path[FILE_PATH];
    run_path(run, "metrics.h5", path);
    if (overwrite && resume)
        return error_usage(
            err, "--overwrite and --resume exclude each other: the one replaces a run, the other goes on with it");
    return overwrite || resume || access(path, F_OK) != 0 ||
           error_usage(err,
                       "%s holds a run already: go on with it by --resume, replace it with --overwrite, or choose "
                       "another run.dir",
                       run->config.run.dir);
}

static bool open_run(Trainer *t, const CommandLine *line, MPI_Comm world, Error *err)
{
    Run *run = &t->run;
    static const char *const required[] = { "run.dir", "model.path", "data.path", NULL };
    bool overwrite = command_option(line, "--overwrite") != NULL, resume = command_option(line, "--resume") != NULL;
    if (!run_begin(run, line->config, line->set_count, line->sets, required, world, err) ||
        !error_agree(world, run->rank > 0 || refuse_second_run(run, overwrite, resume, err), err) ||
        !run_own_folder(run, command_option(line, "--take-over") != NULL, err) ||
        !run_open(run, "train", run->config.model.path, true, err))
        return false;
    run_watch(run);
    if (run->pairs.count == 0)
        return error_usage(err, "%s has no training pairs: /train is empty. Prepare it again with some",
                           run->config.data.path);
    if (!error_agree(world, allocate(t, err), err)) return false;
    memcpy(t->start_digest, run->model_info.weights_digest, WEIGHTS_DIGEST);
    const Config *config = &run->config;
    t->total_steps = config->schedule.steps > 0
                         ? config->schedule.steps
                         : (int64_t)ceil(config->schedule.epochs * (double)t->sampler.steps_per_epoch);
    t->best = INFINITY;
    return error_agree(world, run->rank > 0 || !overwrite || save_clear(t, err), err);
}

static bool prepare(Trainer *t, const CommandLine *line, MPI_Comm world, Error *err)
{
    Run *run = &t->run;
    const char *from = command_option(line, "--resume"), *allowed = command_option(line, "--allow");
    if (!open_run(t, line, world, err)) return false;
    const Config *config = &run->config;
    const OptimizerSettings settings = { config->optimizer.beta1,         config->optimizer.beta2,
                                         config->optimizer.epsilon,       config->optimizer.weight_decay,
                                         config->optimizer.max_grad_norm, config->optimizer.shard };
    if (!(from ? resume_check(t, from, allowed, err) : run_reference_digest(run, t->reference_digest, err)) ||
        !run_reference(run, &run->batcher, "train", t->reference[PAIR_CHOSEN], t->reference[PAIR_REJECTED], err) ||
        (config->checkpoint.best &&
         !run_reference(run, &run->heldout_batcher, config->data.heldout, t->heldout_reference[PAIR_CHOSEN],
                        t->heldout_reference[PAIR_REJECTED], err)) ||
        !optimizer_create(&t->optimizer, &run->model.parameters, &run->grid, &settings, err))
        return false;
    bool found = false;
    if (from && !resume_load(t, from, &found, err)) return false;
    if (from && !found)
        log_info(&run->log, "resume   nothing to go on from in %s: starting at the beginning", config->run.dir);
    return (found || run_load_model(run, config->model.path, err)) && record_open(t, err);
}

/* How to end the run without losing anything; Ctrl-C is the wrong way. */
static void say_how_to_stop(Run *run)
{
    long launcher = stop_launcher();
    char kill[64] = "";
    if (launcher) snprintf(kill, sizeof kill, " or kill -USR1 %ld", launcher);
    log_info(&run->log, "stop     touch %s%s: a checkpoint after the step at hand, then the end%s", run->life.stop,
             kill, launcher ? " (Ctrl-C: mpirun kills the ranks within two seconds)" : "");
}

/* All steps, or as many as there is time for. */
static bool run_steps(Trainer *t, Verdict *verdict, Error *err)
{
    Run *run = &t->run;
    StepMetrics row;
    bool ok = true;
    say_how_to_stop(run);
    progress_begin(&t->progress, &run->log, (ProgressMode)run->config.run.progress, "train", t->first_step,
                   t->total_steps);
    timer_reset(run->timer);
    run->grid.flops = 0;
    lifecycle_saved(&run->life, 0); /* the clocks of steps and checkpoints start here */
    while (ok && t->step < t->total_steps && !verdict->stop) {
        watchdog_step(run->watchdog, ++t->step);
        bool sound = train_step(t, &row, err);
        sound = record_step(t, &row, err) && sound; /* also a step that failed: its pairs are where to look */
        ok = lifecycle_agree(&run->life, sound, t->step, verdict, err);
        if (ok && verdict->checkpoint && t->step < t->total_steps)
            ok = save(t, false, err);
        else if (ok && metrics_full(t->metrics))
            ok = metrics_flush(t->metrics, err);
    }
    progress_end(&t->progress);
    return ok;
}

static bool train(Trainer *t, Error *err)
{
    Run *run = &t->run;
    Verdict verdict = { 0 };
    if (!run_steps(t, &verdict, err)) {
        Error ignored = { 0 }; /* what is known of the steps before a failure is worth keeping */
        metrics_flush(t->metrics, &ignored);
        return false;
    }
    if (t->step < t->total_steps)
        return error_stopped(
            err, verdict.for_good,
            "stopped by %s after step %lld of %lld with a checkpoint: start again with --resume to go on", verdict.why,
            (long long)t->step, (long long)t->total_steps);
    if (t->first_step == t->total_steps)
        log_info(&run->log, "all %lld steps were done before", (long long)t->total_steps);
    return metrics_flush(t->metrics, err) &&
           (!run->config.checkpoint.final || t->first_step == t->total_steps || save(t, true, err));
}

static void trainer_free(Trainer *t)
{
    steplog_close(t->log);
    metrics_free(t->metrics);
    tally_free(&t->tally);
    margin_free(&t->margins);
    if (t->optimizer.grid) optimizer_free(&t->optimizer);
    sampler_free(&t->sampler);
    for (int side = 0; side < PAIR_SIDES; side++) {
        free(t->reference[side]);
        free(t->heldout_reference[side]);
        free(t->heldout[side]);
    }
    free(t->pair);
    free(t->phase_seconds);
    run_close(&t->run);
}

int command_train(const CommandLine *line, MPI_Comm world)
{
    Error err = { 0 };
    Trainer t = { 0 };
    if (!prepare(&t, line, world, &err) || !train(&t, &err)) {
        Error lost = { 0 }; /* explains whatever failed */
        if (t.run.writer && writer_lost(t.run.writer, true, &lost) && err.exit_status == EXIT_FAULT) err = lost;
        log_error(&t.run.log, &err);
    }
    if (t.run.writer && t.run.rank == 0)
        (void)status_write(t.run.writer, err.exit_status, err.message, t.step, t.total_steps);
    trainer_free(&t);
    return err.exit_status;
}
