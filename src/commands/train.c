/* catdpo train */
#include "run.h"
#include "tally.h"

#include "catdpo/checkpoint.h"
#include "catdpo/commands.h"
#include "catdpo/sampler.h"
#include "catdpo/schedule.h"
#include "catdpo/steplog.h"
#include "version.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct Trainer {
    Run         run;
    Sampler     sampler;
    Optimizer   optimizer;
    MarginState margins;
    Tally       tally;
    Metrics     *metrics;
    StepLog     *log;           /* rank 0 only */
    Progress    progress;
    double      *reference[PAIR_SIDES];  /* [N] nats */
    char        model_digest[WEIGHTS_DIGEST], reference_digest[WEIGHTS_DIGEST]; /* of the weights that training starts from */
    int64_t     *pair;          /* [B] indices of the step's pairs, -1: none */
    int         pair_count;
    double      *phase_seconds; /* [PHASES] */
    int64_t     step, total_steps, num_tokens;
} Trainer;

/* ---- one step --------------------------------------------------------------------------------------------------- */

/* The head has the log-probs of some pairs: their loss, what it says to the margins and metrics, and its gradient. */
static void pair_gradient(void *context, const Batch *batch, int first, int count, const SequenceResult *result, float *coefficient)
{
    Trainer *t = context;
    const Pairs *pairs = &t->run.pairs;
    int me;
    CHECK_MPI(MPI_Comm_rank(t->run.grid.comm, &me));
    for (int i = first; i < first + count; i++) {
        int64_t p = batch->pair[i];
        const SequenceResult *both = &result[2 * i];
        PairLogProbs logps = { both[PAIR_CHOSEN].logp, both[PAIR_REJECTED].logp, t->reference[PAIR_CHOSEN][p], t->reference[PAIR_REJECTED][p],
                               pairs_completion(pairs, PAIR_CHOSEN, p), pairs_completion(pairs, PAIR_REJECTED, p) };
        double offset = margin_offset(&t->margins, pairs_categories(pairs, p), pairs->margin_applies[p]);
        PairLoss loss = pair_loss(t->margins.beta, offset, &logps);
        coefficient[2 * i + PAIR_CHOSEN] = (float)(loss.coefficient / t->pair_count);
        coefficient[2 * i + PAIR_REJECTED] = -coefficient[2 * i + PAIR_CHOSEN];
        if (batch->counter[i] == me)
            tally_add(&t->tally, &t->margins, pairs, p, &logps, &loss, offset, both);
    }
}

static void choose_pairs(Trainer *t)
{
    t->pair_count = sampler_step(&t->sampler, t->step, t->pair);
    for (int i = t->pair_count; i < t->sampler.per_step; i++)
        t->pair[i] = -1;
    for (int i = 0; i < t->pair_count; i++)
        t->num_tokens += pairs_length(&t->run.pairs, PAIR_CHOSEN, t->pair[i]) + pairs_length(&t->run.pairs, PAIR_REJECTED, t->pair[i]);
    batcher_plan(&t->run.batcher, t->pair, t->pair_count);
}

static bool finite_step(const Trainer *t, const StepMetrics *row, Error *err)
{
    if (isfinite(row->loss) && isfinite(row->grad_norm))
        return true;
    return error_fault(err, "step %lld: the loss is %g and the gradient's norm %g: lower optimizer.learning_rate, and look at the pairs of this "
                       "step in metrics.h5 (/train/pairs)", (long long)t->step, row->loss, row->grad_norm);
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
    margin_update(&t->margins, t->tally.counts, t->step);
    timer_stop(run->timer);

    timer_start(run->timer, PHASE_REDUCE);
    optimizer_reduce(&t->optimizer, model->gradients);
    timer_stop(run->timer);
    timer_start(run->timer, PHASE_OPTIMIZER);
    row->grad_norm = optimizer_norm(&t->optimizer, model->gradients);
    row->learning_rate = config->optimizer.learning_rate * schedule_factor((ScheduleType)config->schedule.type, config->schedule.warmup,
                                                                           config->schedule.floor, t->step, t->total_steps);
    bool ok = finite_step(t, row, err); /* the same numbers on all ranks */
    if (ok)
        row->clipped = optimizer_update(&t->optimizer, model->weights, model->gradients, row->learning_rate, row->grad_norm);
    timer_stop(run->timer);
    timer_start(run->timer, PHASE_REDUCE);
    if (ok)
        optimizer_spread(&t->optimizer, model->weights);
    timer_stop(run->timer);
    return ok;
}

/* ---- what a step leaves behind ---------------------------------------------------------------------------------- */

static bool record_step(Trainer *t, StepMetrics *row, Error *err)
{
    Run *run = &t->run;
    int64_t tokens_before = t->num_tokens;
    for (int i = 0; i < t->pair_count; i++)
        tokens_before -= pairs_length(&run->pairs, PAIR_CHOSEN, t->pair[i]) + pairs_length(&run->pairs, PAIR_REJECTED, t->pair[i]);
    row->epoch = (double)t->step / (double)t->sampler.steps_per_epoch;
    row->num_tokens = t->num_tokens;
    row->violation_rate = t->margins.violation_rate;
    row->pair_index = t->pair;
    row->step_seconds = timer_read(run->timer, t->phase_seconds);
    row->phase_seconds = t->phase_seconds;
    row->step_flops = run->grid.flops;
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &row->step_flops, 1, MPI_DOUBLE, MPI_SUM, run->grid.replica_comm));
    run->grid.flops = 0;
    timer_reset(run->timer);

    timer_start(run->timer, PHASE_OUTPUT); /* counted in the next step's time */
    double rate = (double)(t->num_tokens - tokens_before) / row->step_seconds;
    metrics_append(t->metrics, row);
    bool ok = error_agree(run->world, !t->log || steplog_write(t->log, row, rate, t->total_steps, err), err);
    int worst = margin_worst(&t->margins);
    progress_update(&t->progress, t->step, &(ProgressFields){ .loss = row->loss, .tokens_per_second = rate,
                    .worst = worst < 0 ? NULL : run->pairs.category_name[worst], .worst_rate = worst < 0 ? NAN : t->margins.violation_rate[worst] });
    if (ok && metrics_full(t->metrics))
        ok = metrics_flush(t->metrics, err);
    timer_stop(run->timer);
    return ok;
}

/* ---- before and after ------------------------------------------------------------------------------------------- */

/* The resolved settings as text; owned by the caller. */
static char *config_text(const Config *config)
{
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    CHECK(stream);
    config_print(config, stream);
    CHECK(fclose(stream) == 0);
    return text;
}

/* config.cfg, written beside its name and renamed. On rank 0. */
static bool write_config(const Run *run, const char *text, Error *err)
{
    char path[FILE_PATH], beside[FILE_PATH + 8];
    run_path(run, "config.cfg", path);
    snprintf(beside, sizeof beside, "%s.tmp", path);
    FILE *file = fopen(beside, "w");
    bool ok = file && fputs(text, file) >= 0 && fflush(file) == 0 && fsync(fileno(file)) == 0;
    ok = (!file || fclose(file) == 0) && ok && rename(beside, path) == 0;
    return ok || error_usage(err, "cannot write %s: set run.dir to a place that you may write to and that has room", path);
}

/* A run directory holds one run: another one must not replace it by accident. On rank 0. */
static bool refuse_second_run(const Run *run, bool overwrite, Error *err)
{
    char path[FILE_PATH];
    run_path(run, "metrics.h5", path);
    return overwrite || access(path, F_OK) != 0 ||
           error_usage(err, "%s holds a run already: choose another run.dir, or replace it with --overwrite", run->config.run.dir);
}

static char *host_list(MPI_Comm world)
{
    enum { MOST = 4096 };
    char mine[MPI_MAX_PROCESSOR_NAME + 1] = "", *text = calloc(1, MOST);
    int length, ranks;
    CHECK(text);
    CHECK_MPI(MPI_Get_processor_name(mine, &length));
    CHECK_MPI(MPI_Comm_size(world, &ranks));
    char (*all)[sizeof mine] = calloc((size_t)ranks, sizeof mine);
    CHECK(all);
    CHECK_MPI(MPI_Allgather(mine, sizeof mine, MPI_CHAR, all, sizeof mine, MPI_CHAR, world));
    for (int r = 0; r < ranks; r++)
        if ((r == 0 || strcmp(all[r], all[r - 1]) != 0) && strlen(text) + strlen(all[r]) + 2 < MOST)
            strcat(strcat(text, r ? " " : ""), all[r]);
    free(all);
    return text;
}

static bool open_metrics(Trainer *t, const char *config, Error *err)
{
    Run *run = &t->run;
    char path[FILE_PATH], grid[64], mpi[MPI_MAX_LIBRARY_VERSION_STRING], started[32], *hosts = host_list(run->world);
    int length;
    time_t now = time(NULL);
    CHECK_MPI(MPI_Get_library_version(mpi, &length));
    mpi[strcspn(mpi, ",\n")] = '\0';
    strftime(started, sizeof started, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    snprintf(grid, sizeof grid, "%dx%dx%d", run->layout.replicas, run->layout.rows, run->layout.columns);
    run_path(run, "metrics.h5", path);
    const MetricsInfo info = {
        .run = run->config.run.dir, .grid = grid, .version = CATDPO_VERSION, .mpi = mpi, .blas = run->blas.library, .hosts = hosts,
        .started = started, .data_digest = run->pairs.data_digest, .weights_digest = t->model_digest,
        .tokenizer_digest = run->pairs.tokenizer_digest, .settings = run->pairs.settings, .config = config,
        .category_count = run->pairs.category_count, .category_name = (const char (*)[CATEGORY_NAME])run->pairs.category_name,
        .category_harm = run->pairs.category_harm, .pairs_per_step = run->config.batch.pairs, .phase_count = PHASES, .phase_name = phase_name,
        .partial_unit = margin_unit(&t->margins), .sgemm_gflops = run->blas.gflops, .capacity = run->config.metrics.flush_steps,
    };
    t->metrics = metrics_create(path, &info, run->world, err);
    free(hosts);
    if (!t->metrics)
        return false;
    run_path(run, "log.jsonl", path);
    if (run->rank == 0)
        t->log = steplog_open(path, 0, run->pairs.category_count, (const char (*)[CATEGORY_NAME])run->pairs.category_name, err);
    return error_agree(run->world, run->rank > 0 || t->log, err);
}

static bool prepare_output(Trainer *t, Error *err)
{
    Run *run = &t->run;
    char *text = config_text(&run->config);
    bool ok = run_make_folder(run, "checkpoints", err);
    ok = ok && error_agree(run->world, run->rank > 0 || write_config(run, text, err), err) && open_metrics(t, text, err);
    free(text);
    return ok;
}

static bool allocate(Trainer *t, Error *err)
{
    Run *run = &t->run;
    const Config *config = &run->config;
    size_t pairs = (size_t)run->pairs.count;
    t->pair = calloc((size_t)config->batch.pairs, sizeof *t->pair);
    t->phase_seconds = calloc(PHASES, sizeof *t->phase_seconds);
    for (int side = 0; side < PAIR_SIDES; side++)
        t->reference[side] = calloc(pairs + 1, sizeof(double));
    bool ok = (t->pair && t->phase_seconds && t->reference[PAIR_CHOSEN] && t->reference[PAIR_REJECTED]) ||
              error_fault(err, "out of memory for the reference's log-probs of %zu pairs", pairs);
    return ok && margin_create(&t->margins, config, run->pairs.category_count, err) && tally_create(&t->tally, run->pairs.category_count, err) &&
           sampler_create(&t->sampler, &run->pairs, (Sampling)config->batch.sampling, (uint64_t)config->run.seed, (int)config->batch.pairs, err);
}

static bool prepare(Trainer *t, const CommandLine *line, MPI_Comm world, Error *err)
{
    Run *run = &t->run;
    const Config *config = &run->config;
    bool overwrite = command_option(line, "--overwrite") != NULL;
    if (!run_open(run, line->config, line->set_count, line->sets, "train", NULL, true, world, err) ||
        !error_agree(world, run->rank > 0 || refuse_second_run(run, overwrite, err), err))
        return false;
    if (run->pairs.count == 0)
        return error_usage(err, "%s has no training pairs: /train is empty. Prepare it again with some", config->data.path);
    if (!error_agree(world, allocate(t, err), err))
        return false;
    memcpy(t->model_digest, run->model_info.weights_digest, WEIGHTS_DIGEST);
    t->total_steps = config->schedule.steps > 0 ? config->schedule.steps
                                                : (int64_t)ceil(config->schedule.epochs * (double)t->sampler.steps_per_epoch);
    const OptimizerSettings settings = { config->optimizer.beta1, config->optimizer.beta2, config->optimizer.epsilon,
                                         config->optimizer.weight_decay, config->optimizer.max_grad_norm, config->optimizer.shard };
    return run_make_folder(run, NULL, err) &&
           run_reference(run, "train", t->reference[PAIR_CHOSEN], t->reference[PAIR_REJECTED], t->reference_digest, err) &&
           prepare_output(t, err) && run_load_model(run, config->model.path, err) &&
           optimizer_create(&t->optimizer, &run->model.parameters, &run->grid, &settings, err);
}

static bool write_checkpoint(Trainer *t, const char *name, Error *err)
{
    static const char *const sampling[] = { [SAMPLING_UNIFORM] = "uniform", [SAMPLING_BALANCED] = "balanced",
                                            [SAMPLING_SEQUENTIAL] = "sequential" };
    Run *run = &t->run;
    char path[FILE_PATH], *text = config_text(&run->config);
    run_path(run, name, path);
    const CheckpointInfo info = {
        .step = t->step, .total_steps = t->total_steps, .num_tokens = t->num_tokens, .seed = t->sampler.seed,
        .sampling = sampling[run->config.batch.sampling], .config = text, .version = CATDPO_VERSION, .data_digest = run->pairs.data_digest,
        .tokenizer_digest = run->pairs.tokenizer_digest, .template_digest = run->pairs.template_digest,
        .reference_digest = t->reference_digest, .category_name = (const char (*)[CATEGORY_NAME])run->pairs.category_name,
    };
    bool ok = checkpoint_write(path, run->config.model.path, &run->model, &t->optimizer, &t->margins, &info, err);
    free(text);
    if (ok)
        log_info(&run->log, "checkpoint %s", path);
    return ok;
}

static bool train(Trainer *t, Error *err)
{
    Run *run = &t->run;
    StepMetrics row;
    bool ok = true;
    progress_begin(&t->progress, &run->log, (ProgressMode)run->config.run.progress, "train", 0, t->total_steps);
    timer_reset(run->timer);
    run->grid.flops = 0;
    for (t->step = 1; ok && t->step <= t->total_steps; t->step++) {
        bool sound = train_step(t, &row, err);
        ok = record_step(t, &row, err) && sound; /* also a step that failed: its pairs are where to look */
    }
    t->step--;
    progress_end(&t->progress);
    Error ignored = { 0 }; /* what is known of the steps before a failure is worth keeping */
    return (metrics_flush(t->metrics, ok ? err : &ignored) && ok) &&
           (!run->config.checkpoint.final || write_checkpoint(t, "checkpoints/final.h5", err));
}

static void trainer_free(Trainer *t)
{
    steplog_close(t->log);
    metrics_free(t->metrics);
    tally_free(&t->tally);
    margin_free(&t->margins);
    if (t->optimizer.grid)
        optimizer_free(&t->optimizer);
    sampler_free(&t->sampler);
    for (int side = 0; side < PAIR_SIDES; side++)
        free(t->reference[side]);
    free(t->pair);
    free(t->phase_seconds);
    run_close(&t->run);
}

int command_train(const CommandLine *line, MPI_Comm world)
{
    Error err = { 0 };
    Trainer t = { 0 };
    if (!prepare(&t, line, world, &err) || !train(&t, &err))
        log_error(&t.run.log, &err);
    trainer_free(&t);
    return err.exit_status;
}
