/* A training run: what has to hold before it starts, its steps one after the other, and how it ends. */
#include "catdpo/train/trainer.h"

#include "catdpo/core/stop.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SAFE_PROBES = 2 }; /* in a row */

/* ---- before ----------------------------------------------------------------------------------------------------- */

static bool allocate_logps(double *logps[PAIR_SIDES], int64_t pairs, Error *err)
{
    for (int side = 0; side < PAIR_SIDES; side++)
        if (!(logps[side] = calloc((size_t)pairs + 1, sizeof(double))))
            return error_fault(err, "out of memory for the log-probs of %lld pairs", (long long)pairs);
    return true;
}

static bool allocate_both(PairLogps *logps, int64_t pairs, bool segments, Error *err)
{
    return allocate_logps(logps->whole, pairs, err) && (!segments || allocate_logps(logps->answer, pairs, err));
}

static void free_logps(PairLogps *logps)
{
    for (int side = 0; side < PAIR_SIDES; side++) {
        free(logps->whole[side]);
        free(logps->answer[side]);
    }
}

static bool allocate(Trainer *t, Error *err)
{
    Run *run = &t->run;
    const Config *config = &run->config;
    const Objective *objective = objective_of(&config->objective);
    t->pair = calloc((size_t)config->batch.pairs, sizeof *t->pair);
    t->phase_seconds = calloc(PHASES, sizeof *t->phase_seconds);
    return ((t->pair && t->phase_seconds) ||
            error_fault(err, "out of memory for a step of %lld pairs", (long long)config->batch.pairs)) &&
           allocate_both(&t->reference, run->pairs.count, objective->segments, err) &&
           allocate_both(&t->second, run->pairs.count, objective->segments, err) &&
           (!objective->baseline || allocate_both(&t->mismatched_reference, run->pairs.count, false, err)) &&
           allocate_logps(t->logps, config->batch.pairs, err) &&
           allocate_logps(t->ref_logps, config->batch.pairs, err) &&
           (!config->checkpoint.best || evaluation_create(&t->heldout, &run->heldout, objective->segments, err)) &&
           margin_create(&t->margins, &config->margin, &config->objective, run->pairs.category_count, err) &&
           tally_create(&t->tally, config, run->pairs.category_count, err) &&
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

/* An objective with margins that no pair asks for would be another objective. */
static bool refuse_idle_margins(const Run *run, Error *err)
{
    const Pairs *pairs = &run->pairs;
    const ObjectiveSettings *objective = &run->config.objective;
    if (objective_margins(objective) == MARGINS_NONE || memchr(pairs->margin_applies, 1, (size_t)pairs->count))
        return true;
    return error_usage(err,
                       "%s has no pair under a margin: of none of its %lld training pairs is it known that the chosen "
                       "response is safe and the rejected one is not, so that objective.type = \"%s\" would go on "
                       "without margins. Prepare data with safety flags and harm categories, or with "
                       "--assume-unsafe-rejected, or take an objective without them, such as \"dpo\"",
                       run->config.data.path, (long long)pairs->count, objective_of(objective)->name);
}

/* Unknown flags would count as one or the other. */
static bool refuse_unknown_flags(const Run *run, Error *err)
{
    const Pairs *pairs = &run->pairs;
    const Objective *objective = objective_of(&run->config.objective);
    int64_t unknown = 0;
    for (int64_t i = 0; i < pairs->count; i++) unknown += pairs->chosen_safe[i] > 1 || pairs->rejected_safe[i] > 1;
    return !objective->needs_flags || unknown == 0 ||
           error_usage(err,
                       "of %lld of %lld training pairs in %s it is not known whether both responses are safe, which "
                       "objective.type = \"%s\" reads: prepare data with safety flags (is_response_0_safe, ... or "
                       "is_chosen_safe, is_rejected_safe), or with --assume-unsafe-rejected",
                       (long long)unknown, (long long)pairs->count, run->config.data.path, objective->name);
}

/* Log-probs under the frozen models of everything that the run looks at. Collective over world. */
static bool frozen_models(Trainer *t, Error *err)
{
    Run *run = &t->run;
    const Config *config = &run->config;
    const char *heldout = config->data.heldout;
    Evaluation *e = &t->heldout;
    bool best = config->checkpoint.best, mismatched = t->mismatched_reference.whole[0] != NULL;
    return frozen_logps(run, FROZEN_REFERENCE, &run->batcher, "train", &t->reference, err) &&
           (!mismatched || frozen_logps(run, FROZEN_REFERENCE, &run->mismatched_batcher, "mismatched",
                                        &t->mismatched_reference, err)) &&
           (!best || frozen_logps(run, FROZEN_REFERENCE, &run->heldout_batcher, heldout, &e->reference, err)) &&
           probe_frozen(&t->probe, run, err) &&
           frozen_logps(run, FROZEN_MODPO, &run->batcher, "train", &t->second, err) &&
           (!best || frozen_logps(run, FROZEN_MODPO, &run->heldout_batcher, heldout, &e->second, err));
}

/* The probe's passes go through the model of the training. */
static bool open_model_and_data(Trainer *t, Error *err)
{
    Run *run = &t->run;
    const char *model = run->config.model.path;
    TransformerLimits limits;
    return run_open_pairs(run, "train", model, PASS_TRAIN, err) && probe_load(&t->probe, run, err) &&
           run_choose_layout(run, model, PASS_TRAIN, &limits, err) &&
           error_agree(run->world, probe_widen(&t->probe, run, &limits, err), err) &&
           run_place(run, model, PASS_TRAIN, &limits, err);
}

static bool open_run(Trainer *t, const TrainOptions *options, MPI_Comm world, Error *err)
{
    Run *run = &t->run;
    static const char *const required[] = { "run.dir", "model.path", "data.path", NULL };
    bool resume = options->resume != NULL;
    if (!run_begin(run, options->config, options->set_count, options->sets, required, world, err) ||
        !error_agree(world, run->rank > 0 || refuse_second_run(run, options->overwrite, resume, err), err) ||
        !error_agree(world, run->rank > 0 || frozen_refuse_foreign(&run->config, err), err) ||
        !run_own_folder(run, options->take_over, err) || !open_model_and_data(t, err) || !weights_identify(t, err) ||
        !run_watch(run, err))
        return false;
    if (run->pairs.count == 0)
        return error_usage(err, "%s has no training pairs: /train is empty. Prepare it again with some",
                           run->config.data.path);
    if (!refuse_idle_margins(run, err) || !refuse_unknown_flags(run, err) || !run_refuse_data(run, &run->pairs, err) ||
        !run_refuse_data(run, &run->heldout, err) || !run_refuse_data(run, &t->probe.pairs, err) ||
        !probe_create(&t->probe, run, err) || !error_agree(world, allocate(t, err), err))
        return false;
    margin_know_members(&t->margins, run->pairs.category_mask, run->pairs.count);
    const Config *config = &run->config;
    t->total_steps = config->schedule.steps > 0
                         ? config->schedule.steps
                         : (int64_t)ceil(config->schedule.epochs * (double)t->sampler.steps_per_epoch);
    t->best = INFINITY;
    return error_agree(world, run->rank > 0 || !options->overwrite || save_clear(t, err), err);
}

static bool prepare(Trainer *t, const TrainOptions *options, MPI_Comm world, Error *err)
{
    Run *run = &t->run;
    const char *from = options->resume;
    if (!open_run(t, options, world, err)) return false;
    const Config *config = &run->config;
    const OptimizerSettings settings = { config->optimizer.beta1,         config->optimizer.beta2,
                                         config->optimizer.epsilon,       config->optimizer.weight_decay,
                                         config->optimizer.max_grad_norm, config->optimizer.shard };
    if (!(from ? resume_check(t, from, options->allow, err)
               : frozen_digest(run, FROZEN_REFERENCE, t->reference_digest, err)) ||
        !frozen_models(t, err) || !optimizer_create(&t->optimizer, run->model.trained, &run->grid, &settings, err))
        return false;
    bool found = false;
    if (from && !resume_load(t, from, &found, err)) return false;
    if (from && !found)
        log_info(&run->log, "resume   nothing to go on from in %s: starting at the beginning", config->run.dir);
    return (found || weights_start(t, err)) && record_open(t, err);
}

/* ---- the steps -------------------------------------------------------------------------------------------------- */

/* How to end the run without losing anything; Ctrl-C is the wrong way. */
static void say_how_to_stop(Run *run)
{
    long launcher = stop_launcher();
    const char *job = getenv("SLURM_JOB_ID"), *step = getenv("SLURM_STEP_ID"), *wrong = "";
    char other[96] = "";
    if (launcher) {
        snprintf(other, sizeof other, " or kill -USR1 %ld", launcher);
        wrong = " (at Ctrl-C mpirun kills the ranks within two seconds)";
    } else if (job && step) {
        snprintf(other, sizeof other, " or scancel --signal=USR1 %.32s.%.32s", job, step);
        wrong = " (at two Ctrl-C srun kills the ranks at once)";
    }
    log_info(&run->log, "stop     touch %s%s: a checkpoint after the step at hand, then the end%s", run->life.stop,
             other, wrong);
}

/* Schedule.until_safe, and the probes say so: no further step is to be made. */
static bool is_safe(const Trainer *t) { return t->run.config.schedule.until_safe && t->safe_probes >= SAFE_PROBES; }

/* The judge did not do its work, which is no fault of the training. */
static void save_what_is_done(Trainer *t, Error *err)
{
    Error unheard = { 0 };
    if (!save(t, false, &unheard)) return;
    size_t used = strlen(err->message);
    snprintf(err->message + used, sizeof err->message - used,
             ". The run stops after step %lld with a checkpoint: mend the judge and start again with --resume",
             (long long)t->step);
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
    while (ok && t->step < t->total_steps && !verdict->stop && !is_safe(t)) {
        ok = train_probe(t, verdict, err);
        if (!ok && t->probe.judge_failed) save_what_is_done(t, err);
        if (ok && verdict->stop) ok = save(t, false, err);
        if (!ok || verdict->stop) break;
        watchdog_step(run->watchdog, ++t->step);
        bool sound = train_step(t, &row, err);
        sound = record_step(t, &row, err) && sound; /* also a step that failed: its pairs are where to look */
        ok = lifecycle_agree(&run->life, sound, t->step, verdict, err);
        if (ok && verdict->checkpoint && t->step < t->total_steps && !is_safe(t))
            ok = save(t, false, err);
        else if (ok && (verdict->flush || metrics_full(t->metrics))) {
            ok = metrics_flush(t->metrics, err);
            lifecycle_flushed(&run->life);
        }
    }
    progress_end(&t->progress);
    return ok;
}

static bool steps_and_end(Trainer *t, Error *err)
{
    Run *run = &t->run;
    Verdict verdict = { 0 };
    if (!run_steps(t, &verdict, err)) {
        Error ignored = { 0 }; /* what is known of the steps before a failure is worth keeping */
        metrics_flush(t->metrics, &ignored);
        return false;
    }
    if (is_safe(t)) {
        snprintf(t->ending, sizeof t->ending,
                 "safe: in %d probes in a row the upper 95 %% bound of every category's rate was below margin.target = "
                 "%g; the run ends after step %lld of %lld (schedule.until_safe)",
                 SAFE_PROBES, t->margins.target, (long long)t->step, (long long)t->total_steps);
        log_info(&run->log, "%s", t->ending);
    } else if (t->step < t->total_steps)
        return error_stopped(
            err, verdict.for_good,
            "stopped by %s after step %lld of %lld with a checkpoint: start again with --resume to go on", verdict.why,
            (long long)t->step, (long long)t->total_steps);
    bool nothing = t->first_step == t->step && t->step > 0;
    if (t->first_step == t->total_steps)
        log_info(&run->log, "all %lld steps were done before", (long long)t->total_steps);
    return metrics_flush(t->metrics, err) && (!run->config.checkpoint.final || nothing || save(t, true, err));
}

bool train(Trainer *t, const TrainOptions *options, MPI_Comm world, Error *err)
{
    if (prepare(t, options, world, err) && steps_and_end(t, err)) return true;
    Error lost = { 0 }; /* explains whatever failed */
    if (t->run.writer && writer_lost(t->run.writer, true, &lost) && err->exit_status == EXIT_FAULT) *err = lost;
    return false;
}

void trainer_free(Trainer *t)
{
    steplog_close(t->log);
    metrics_free(t->metrics);
    tally_free(&t->tally);
    margin_free(&t->margins);
    if (t->optimizer.grid) optimizer_free(&t->optimizer);
    sampler_free(&t->sampler);
    for (int side = 0; side < PAIR_SIDES; side++) {
        free(t->logps[side]);
        free(t->ref_logps[side]);
    }
    free_logps(&t->reference);
    free_logps(&t->second);
    free_logps(&t->mismatched_reference);
    evaluation_free(&t->heldout);
    probe_free(&t->probe);
    free(t->pair);
    free(t->phase_seconds);
    run_close(&t->run);
}
