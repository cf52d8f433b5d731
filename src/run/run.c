#include "catdpo/run/run.h"

#include "catdpo/data/mismatch.h"
#include "catdpo/parallel/gemm.h"
#include "catdpo/files/foreign.h"
#include "catdpo/files/pairs_file.h"
#include "catdpo/rundir/status.h"
#include "catdpo/core/file.h"
#include "catdpo/core/stop.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static bool check_fit(const Run *run, const char *model_path, Error *err)
{
    const Config *config = &run->config;
    const ModelInfo *info = &run->model_info;
    if (run->pairs.vocab_size > info->architecture.vocab)
        return error_usage(err,
                           "%s was prepared with a tokenizer of %lld tokens, but %s has a vocabulary of %d: prepare it "
                           "again with this model",
                           config->data.path, (long long)run->pairs.vocab_size, model_path, info->architecture.vocab);
    if (*info->tokenizer_digest && strcmp(run->pairs.tokenizer_digest, info->tokenizer_digest) != 0)
        return error_usage(err,
                           "%s was prepared with another tokenizer (%.12s...) than that of %s (%.12s...): prepare it "
                           "again with this model",
                           config->data.path, run->pairs.tokenizer_digest, model_path, info->tokenizer_digest);
    return true;
}

int64_t run_parameters(const Run *run)
{
    const Parameters *trained = run->model.trained, *all = &run->model.parameters;
    return all->logical + (trained != all ? trained->logical : 0);
}

static void print_adapters(Run *run)
{
    const AdapterSettings *s = &run->model.adapters.settings;
    const Architecture *a = &run->model_info.architecture;
    char modules[ADAPTER_TEXT], layers[ADAPTER_TEXT];
    double trainable = (double)run->model.trained->logical;
    log_info(&run->log, "lora     %.3g M trainable parameters (%.2g %% of all): rank %d, alpha %g, %s; layers: %s",
             trainable / 1e6, 100 * trainable / (double)run_parameters(run), s->rank, s->alpha,
             adapters_modules_text(s, a, modules), adapters_layers_text(s, a, layers));
}

void run_print_header(Run *run, const char *model_path, const char *data)
{
    const Layout *l = &run->layout;
    const Architecture *a = &run->model_info.architecture;
    MemoryTable memory = { 0 };
    char text[256];
    memory_note(&memory, "weights", run->model.weight_bytes);
    memory_note(&memory, "adapters", run->model.adapter_bytes);
    memory_note(&memory, "gradients", run->model.gradient_bytes);
    memory_note(&memory, "activations", run->model.activation_bytes);
    log_info(&run->log, "model    %s: %s, %.1f M parameters, %d layers, hidden %d, %d heads, %d key/value heads",
             model_path, a->name, (double)run->model.parameters.logical / 1e6, a->layers, a->hidden, a->heads,
             a->groups);
    if (run->model.adapters.settings.rank > 0) print_adapters(run);
    log_info(&run->log, "%s", data);
    log_info(&run->log, "grid     %d replica%s of %d x %d (rows x columns) on %d rank%s: %s", l->replicas,
             l->replicas > 1 ? "s" : "", l->rows, l->columns, run->ranks, run->ranks > 1 ? "s" : "", l->why);
    log_info(&run->log, "memory   %s a rank", memory_line(&memory, text, sizeof text));
    log_info(&run->log, "blas     %s: sgemm %.0f GF/s a rank, %d thread%s", run->blas.library, run->blas.gflops,
             run->blas.threads, run->blas.threads > 1 ? "s" : "");
    if (*run->blas.warning) log_warn(&run->log, "%s", run->blas.warning);
}

bool run_widen_limits(const Run *run, const Pairs *pairs, TransformerLimits *limits, Error *err)
{
    TransformerLimits other;
    if (!layout_limits(&run->config, &run->model_info.architecture, pairs, &run->layout, PASS_TRAIN, &other, err))
        return false;
    limits->max_width = other.max_width > limits->max_width ? other.max_width : limits->max_width;
    limits->max_chunk = other.max_chunk > limits->max_chunk ? other.max_chunk : limits->max_chunk;
    limits->longest = other.longest > limits->longest ? other.longest : limits->longest;
    return true;
}

bool run_begin(Run *run, const char *config_path, int set_count, char *const sets[], const char *const required[],
               MPI_Comm world, Error *err)
{
    Config *config = &run->config;
    *run = (Run){ .world = world };
    CHECK_MPI(MPI_Comm_rank(world, &run->rank));
    CHECK_MPI(MPI_Comm_size(world, &run->ranks));
    log_open(&run->log, stderr, run->rank);
    stop_catch();
    run->timer = timer_new(PHASES, phase_name);
    if (!error_agree(world, run->timer || error_fault(err, "out of memory at the start"), err) ||
        !config_load_all(config, config_path, set_count, sets, world, err) || !config_require(config, required, err))
        return false;
#ifdef OPEN_MPI
    if (*config->parallel.io)
        setenv("OMPI_MCA_io", config->parallel.io, 1); /* read when the first file is opened in parallel */
#else
    if (*config->parallel.io)
        return error_usage(err,
                           "parallel.io = \"%.60s\" names a component of Open MPI, and this program was built with "
                           "another MPI: leave it empty",
                           config->parallel.io);
#endif
    lifecycle_begin(&run->life, config, world);
    return true;
}

static bool load_templates(Run *run, Error *err)
{
    H5File file;
    bool ok = h5_open(&file, run->config.data.path, run->world, err) && templates_read(&file, &run->templates, err);
    h5_close(&file);
    return ok;
}

bool run_open_model(Run *run, const char *model_path, Error *err)
{
    const Config *config = &run->config;
    if (!error_agree(run->world, run->rank > 0 || foreign_refuse(model_path, FOREIGN_MODEL, err), err)) return false;
    run->blas = blas_check(run->world, (int)config->parallel.threads);
    gemm_set_block((int)config->parallel.block);
    H5File file;
    if (!model_file_open(&file, model_path, &run->model_info, run->world, err)) return false;
    h5_close(&file);
    return true;
}

bool run_place_model(Run *run, const TransformerLimits *limits, Error *err)
{
    const Layout *l = &run->layout;
    if (!grid_create(&run->grid, run->world, l->replicas, l->rows, l->columns, err)) return false;
    run->grid_made = true;
    return transformer_create(&run->model, &run->model_info.architecture, &run->grid, limits, run->timer, err);
}

/* What training reads beside its pairs. */
static bool chooses_best(const Run *run, PassPurpose purpose)
{
    return purpose == PASS_TRAIN && run->config.checkpoint.best;
}
static bool has_baseline(const Run *run, PassPurpose purpose)
{
    return purpose == PASS_TRAIN && objective_of(&run->config.objective)->baseline;
}

bool run_open_pairs(Run *run, const char *group, const char *model_path, PassPurpose purpose, Error *err)
{
    const Config *config = &run->config;
    MPI_Comm world = run->world;
    bool ours = run->rank > 0 || foreign_refuse(config->data.path, FOREIGN_PAIRS, err);
    if (!error_agree(world, ours, err) || !run_open_model(run, model_path, err)) return false;
    bool best = chooses_best(run, purpose);
    if (!pairs_load(&run->pairs, config->data.path, group, world, err) ||
        (best && !pairs_load(&run->heldout, config->data.path, config->data.heldout, world, err)) ||
        (purpose == PASS_TRAIN && !load_templates(run, err)))
        return false;
    if (best && run->heldout.count == 0)
        return error_usage(
            err,
            "%s has no pairs in /%s to choose the best checkpoint by: prepare it with a larger --heldout, or set "
            "checkpoint.best = false",
            config->data.path, config->data.heldout);
    return !has_baseline(run, purpose) || pairs_mismatch(&run->pairs, &run->mismatched, world, err);
}

bool run_choose_layout(Run *run, const char *model_path, PassPurpose purpose, TransformerLimits *limits, Error *err)
{
    const Config *config = &run->config;
    const Architecture *a = &run->model_info.architecture;
    bool ok = check_fit(run, model_path, err) &&
              layout_choose(&run->layout, config, a, &run->pairs, purpose, run->world, err) &&
              layout_limits(config, a, &run->pairs, &run->layout, purpose, limits, err) &&
              (!chooses_best(run, purpose) || run_widen_limits(run, &run->heldout, limits, err)) &&
              (!has_baseline(run, purpose) || run_widen_limits(run, &run->mismatched, limits, err));
    return error_agree(run->world, ok, err);
}

bool run_place(Run *run, const char *model_path, PassPurpose purpose, const TransformerLimits *limits, Error *err)
{
    const Config *config = &run->config;
    if (!run_place_model(run, limits, err)) return false;
    BatchLimits batch =
        layout_batch_limits(config, &run->model_info.architecture, run->layout.rows, run->layout.columns);
    bool ok = pair_batcher_create(&run->batcher, &run->pairs, &run->grid, &batch, err) &&
              (!chooses_best(run, purpose) ||
               pair_batcher_create(&run->heldout_batcher, &run->heldout, &run->grid, &batch, err)) &&
              (!has_baseline(run, purpose) ||
               pair_batcher_create(&run->mismatched_batcher, &run->mismatched, &run->grid, &batch, err));
    if (!error_agree(run->world, ok, err)) return false;
    char data[CONFIG_TEXT + 128];
    snprintf(data, sizeof data, "pairs    %s: %lld pairs, %d categories, longest sequence %lld tokens",
             config->data.path, (long long)run->pairs.count, run->pairs.category_count, (long long)run->pairs.longest);
    run_print_header(run, model_path, data);
    return true;
}

bool run_open(Run *run, const char *group, const char *model_path, PassPurpose purpose, Error *err)
{
    TransformerLimits limits;
    return run_open_pairs(run, group, model_path, purpose, err) &&
           run_choose_layout(run, model_path, purpose, &limits, err) &&
           run_place(run, model_path, purpose, &limits, err);
}

bool run_own_folder(Run *run, bool take_over, Error *err)
{
    if (!run_make_folder(run, NULL, err)) return false;
    run->writer = writer_acquire(run->config.run.dir, run->config.run.lease, take_over, &run->log, run->world, err);
    if (!run->writer) return false;
    lifecycle_own(&run->life, run->writer, &run->log);
    if (run->rank == 0) (void)status_write(run->writer, STATUS_RUNNING, NULL, 0, 0);
    return true;
}

/* A WatchdogEnd whose context is the Run. */
static void note_hang(void *context, const char *message)
{
    const Run *run = context;
    (void)status_write(run->writer, EXIT_FAULT, message, 0, 0);
}

bool run_watch(Run *run, Error *err)
{
    const char *folder = run->writer ? writer_folder(run->writer) : NULL;
    return watchdog_start(&run->watchdog, run->timer, run->config.run.watchdog, folder, run->writer ? note_hang : NULL,
                          run, run->world, err);
}

void run_close(Run *run)
{
    watchdog_end(run->watchdog);
    writer_release(run->writer);
    if (run->model.grid) transformer_free(&run->model);
    pair_batcher_free(&run->batcher);
    pair_batcher_free(&run->heldout_batcher);
    pair_batcher_free(&run->mismatched_batcher);
    if (run->grid_made) grid_free(&run->grid);
    pairs_free(&run->pairs);
    pairs_free(&run->heldout);
    pairs_free(&run->mismatched);
    blobs_free(&run->templates);
    timer_free(run->timer);
    log_close(&run->log);
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

bool run_load_model(Run *run, const char *path, Error *err)
{
    H5File file;
    ModelInfo info;
    char digest[WEIGHTS_DIGEST], difference[192];
    if (!model_file_open(&file, path, &info, run->world, err)) return false;
    *run->loaded_digest = '\0';
    bool ok = architecture_same(&info.architecture, &run->model.architecture, difference, sizeof difference) ||
              error_usage(err,
                          "%s is a model of another architecture than the run's: the policy and its reference must "
                          "have the same shape, but %s",
                          path, difference);
    ok = ok && model_load(&file, &run->model, digest, err);
    h5_close(&file);
    if (ok && strcmp(digest, info.weights_digest) != 0)
        return error_usage(err,
                           "%s is damaged: its weights have the digest %s, the file says %s. Copy or import it again",
                           path, digest, info.weights_digest);
    if (!ok) return false;
    run->model_info = info;
    memcpy(run->loaded_digest, digest, sizeof digest);
    return true;
}

bool run_load_adapter(Run *run, const char *path, const char *base_digest, Error *err)
{
    H5File file;
    ModelInfo info;
    char digest[WEIGHTS_DIGEST];
    if (!model_file_open(&file, path, &info, run->world, err)) return false;
    bool ok = (info.adapter.settings.rank > 0 ||
               error_usage(err, "%s holds a whole model, not an adapter: name it as model.path", path)) &&
              (strcmp(info.adapter.base_digest, base_digest) == 0 ||
               error_usage(err,
                           "%s holds an adapter of another base (%.12s...) than the model to be trained (%.12s...): "
                           "set model.path to %s",
                           path, info.adapter.base_digest, base_digest, info.adapter.base)) &&
              adapter_load(&file, &run->model, digest, err);
    h5_close(&file);
    return ok && (strcmp(digest, info.weights_digest) == 0 ||
                  error_usage(err, "%s is damaged: its adapter has the digest %s, the file says %s. Use another copy",
                              path, digest, info.weights_digest));
}

bool run_refuse_data(const Run *run, const Pairs *pairs, Error *err)
{
    const Objective *objective = objective_of(&run->config.objective);
    if (pairs->count > 0 && objective->segments && !pairs->has_segments)
        return error_usage(err,
                           "%s does not tell reasoning and answer apart, which objective.type = \"%s\" does: prepare "
                           "it with --segment-tag, such as --segment-tag '</think>'",
                           run->config.data.path, objective->name);
    if (pairs->count > 0 && objective->scores && pairs->score_count == 0)
        return error_usage(err,
                           "%s has no scores of the responses, which objective.type = \"%s\" reads: prepare it with "
                           "--scores, such as --scores helpfulness,harmlessness",
                           run->config.data.path, objective->name);
    return true;
}

/* ---- log-probs without training --------------------------------------------------------------------------------- */

/* What this rank has of the features of the batch's completions: of its rows, and of its process column's targets. */
static void add_features(const Run *run, const PairBatcher *batcher, const Batch *batch, float *features)
{
    const Transformer *t = &run->model;
    int h = t->hidden.local, group = 0;
    for (int i = 0; i < batch->target_count; i++) {
        const Target *target = &batch->target[i];
        while (target->sequence >= batch->group[group + 1].sequence) group++;
        const BatchGroup *pair = &batch->group[group];
        int side = target->sequence >= pair_sequence(batcher, pair, PAIR_REJECTED, 0) ? PAIR_REJECTED : PAIR_CHOSEN;
        float *out = features + (pair->id * PAIR_SIDES + side) * t->hidden.length;
        const float *in = t->normed + (int64_t)target->column * h;
        float share = 1.0f / (float)pairs_completion(batcher->pairs, side, pair->id);
        for (int f = 0; f < h; f++) out[axis_global(&t->hidden, f)] += share * in[f];
    }
}

/* One planned group of pairs: every pass of this replica, forward only, attacked before if the run says so. */
static void logps_of_group(Run *run, PairBatcher *batcher, const int64_t *pairs, int count, const PairLogps *logps)
{
    pair_batcher_plan(batcher, pairs, count);
    for (int pass = 0; pass < batcher->base.passes; pass++) {
        const Batch *batch = batcher_pass(&batcher->base, pass);
        if (run->attack) attack_batch(&run->model, batch, run->attack);
        transformer_forward(&run->model, batch, NULL, NULL, NULL);
        attack_end(&run->model);
        if (logps->features) add_features(run, batcher, batch, logps->features);
        const SequenceResult *result = run->model.result;
        for (int i = 0; i < batch->group_count; i++) {
            const BatchGroup *pair = &batch->group[i];
            for (int side = 0; side < PAIR_SIDES; side++) {
                logps->whole[side][pair->id] = result[pair_sequence(batcher, pair, side, 0)].logp;
                if (logps->answer[side])
                    logps->answer[side][pair->id] = result[pair_sequence(batcher, pair, side, 1)].logp;
            }
        }
    }
}

/* Values [from, to): a pair was run on one replica, the others add zero. */
static bool gather_values(const Run *run, double *values, int64_t from, int64_t to, Error *err)
{
    for (int64_t at = from; at < to && run->grid.replicas > 1; at += 1 << 20)
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, values + at, (int)(to - at < 1 << 20 ? to - at : 1 << 20), MPI_DOUBLE,
                                MPI_SUM, run->grid.replica_comm));
    for (int64_t i = from; i < to; i++)
        if (!isfinite(values[i]))
            return error_fault(err, "the log-prob of pair %lld is not a finite number: the model's weights are broken",
                               (long long)i);
    return true;
}

/* Features of pairs [from, to): every rank has its rows of some of them, the others zero. */
static void gather_features(const Run *run, float *features, int64_t from, int64_t to)
{
    int64_t row = PAIR_SIDES * (int64_t)run->model.hidden.length, end = to * row;
    for (int64_t at = from * row; at < end && run->ranks > 1; at += 1 << 20)
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, features + at, (int)(end - at < 1 << 20 ? end - at : 1 << 20), MPI_FLOAT,
                                MPI_SUM, run->world));
}

static bool gather_logps(const Run *run, const PairLogps *logps, int64_t from, int64_t to, Error *err)
{
    if (logps->features) gather_features(run, logps->features, from, to);
    for (int side = 0; side < PAIR_SIDES; side++)
        if (!gather_values(run, logps->whole[side], from, to, err) ||
            (logps->answer[side] && !gather_values(run, logps->answer[side], from, to, err)))
            return false;
    return true;
}

bool run_logps(Run *run, PairBatcher *batcher, const char *title, const PairLogps *logps, int64_t *done,
               Verdict *verdict, Error *err)
{
    const Pairs *pairs = batcher->pairs;
    int64_t count = pairs->count, from = *done, at = from;
    int per_group = (int)run->config.batch.pairs;
    int64_t *group = malloc(sizeof *group * (size_t)per_group);
    *verdict = (Verdict){ 0 };
    if (!error_agree(run->world, group || error_fault(err, "out of memory for a list of %d pairs", per_group), err)) {
        free(group);
        return false;
    }
    for (int side = 0; side < PAIR_SIDES; side++) {
        memset(logps->whole[side] + from, 0, sizeof(double) * (size_t)(count - from));
        if (logps->answer[side]) memset(logps->answer[side] + from, 0, sizeof(double) * (size_t)(count - from));
    }
    int64_t row = PAIR_SIDES * (int64_t)run->model.hidden.length;
    if (logps->features) memset(logps->features + from * row, 0, sizeof(float) * (size_t)((count - from) * row));
    Progress progress;
    double start = seconds_now(), tokens = 0;
    bool ok = true;
    progress_begin(&progress, &run->log, (ProgressMode)run->config.run.progress, title, from, count);
    while (ok && at < count && !verdict->checkpoint) {
        int n = count - at < per_group ? (int)(count - at) : per_group;
        for (int i = 0; i < n; i++) {
            group[i] = at + i;
            tokens += pairs_length(pairs, PAIR_CHOSEN, at + i) + pairs_length(pairs, PAIR_REJECTED, at + i);
        }
        logps_of_group(run, batcher, group, n, logps);
        at += n;
        progress_update(&progress, at,
                        &(ProgressFields){
                            .loss = NAN, .worst_rate = NAN, .tokens_per_second = tokens / (seconds_now() - start) });
        ok = lifecycle_agree(&run->life, true, 0, verdict, err);
    }
    progress_end(&progress);
    free(group);
    *done = at;
    return ok && gather_logps(run, logps, from, at, err);
}

/* ---- folders ---------------------------------------------------------------------------------------------------- */

void run_path(const Run *run, const char *name, char path[FILE_PATH])
{
    snprintf(path, FILE_PATH, "%s/%s", run->config.run.dir, name);
}

/* mkdir -p */
static bool make_folder(char *path, Error *err)
{
    for (char *slash = path + 1;; slash++) {
        if (*slash != '/' && *slash != '\0') continue;
        char end = *slash;
        *slash = '\0';
        bool ok = mkdir(path, 0777) == 0 || errno == EEXIST ||
                  error_usage(err, "cannot make the folder %s: %s; set run.dir to a place that you may write to", path,
                              strerror(errno));
        *slash = end;
        if (!ok || end == '\0') return ok;
    }
}

bool run_make_folder(const Run *run, const char *name, Error *err)
{
    char path[FILE_PATH];
    run_path(run, name ? name : ".", path);
    return error_agree(run->world, run->rank > 0 || make_folder(path, err), err);
}
