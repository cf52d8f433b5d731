#include "run.h"

#include "catdpo/gemm.h"
#include "catdpo/pairs_file.h"
#include "catdpo/reference.h"

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
        return error_usage(err, "%s was prepared with a tokenizer of %lld tokens, but %s has a vocabulary of %d: prepare it again with this model",
                           config->data.path, (long long)run->pairs.vocab_size, model_path, info->architecture.vocab);
    if (strcmp(run->pairs.tokenizer_digest, info->tokenizer_digest) != 0)
        return error_usage(err, "%s was prepared with another tokenizer (%.12s...) than that of %s (%.12s...): prepare it again with this model",
                           config->data.path, run->pairs.tokenizer_digest, model_path, info->tokenizer_digest);
    return true;
}

static void print_header(Run *run, const char *model_path)
{
    const Layout *l = &run->layout;
    const Architecture *a = &run->model_info.architecture;
    MemoryTable memory = { 0 };
    char text[256];
    memory_note(&memory, "weights", run->model.weight_bytes);
    memory_note(&memory, "gradients", run->model.gradient_bytes);
    memory_note(&memory, "activations", run->model.activation_bytes);
    log_info(&run->log, "model    %s: %s, %.1f M parameters, %d layers, hidden %d, %d heads, %d key/value heads", model_path, a->name,
             (double)run->model.parameters.logical / 1e6, a->layers, a->hidden, a->heads, a->groups);
    log_info(&run->log, "pairs    %s: %lld pairs, %d categories, longest sequence %lld tokens", run->config.data.path, (long long)run->pairs.count,
             run->pairs.category_count, (long long)run->pairs.longest);
    log_info(&run->log, "grid     %d replica%s of %d x %d (rows x columns) on %d rank%s: %s", l->replicas, l->replicas > 1 ? "s" : "", l->rows,
             l->columns, run->ranks, run->ranks > 1 ? "s" : "", l->why);
    log_info(&run->log, "memory   %s a rank", memory_line(&memory, text, sizeof text));
    log_info(&run->log, "blas     %s: sgemm %.0f GF/s a rank, %d thread%s", run->blas.library, run->blas.gflops, run->blas.threads,
             run->blas.threads > 1 ? "s" : "");
    if (*run->blas.warning)
        log_warn(&run->log, "%s", run->blas.warning);
}

bool run_open(Run *run, const char *config_path, int set_count, char *const sets[], const char *group, const char *model_path, bool backward,
              MPI_Comm world, Error *err)
{
    static const char *const required[] = { "model.path", "data.path", "run.dir", NULL };
    Config *config = &run->config;
    *run = (Run){ .world = world };
    CHECK_MPI(MPI_Comm_rank(world, &run->rank));
    CHECK_MPI(MPI_Comm_size(world, &run->ranks));
    log_open(&run->log, stderr, run->rank);
    run->timer = timer_new(PHASES, phase_name);
    if (!config_load_all(config, config_path, set_count, sets, world, err) || !config_require(config, required, err))
        return false;
    if (!model_path)
        model_path = config->model.path;
    run->blas = blas_check(world, (int)config->parallel.threads);
    gemm_set_block((int)config->parallel.block);

    H5File file;
    if (!model_file_open(&file, model_path, &run->model_info, world, err))
        return false;
    h5_close(&file);
    if (!pairs_load(&run->pairs, config->data.path, group, world, err))
        return false;
    TransformerLimits limits;
    bool ok = check_fit(run, model_path, err) &&
              layout_choose(&run->layout, config, &run->model_info.architecture, &run->pairs, world, err) &&
              layout_limits(config, &run->model_info.architecture, &run->pairs, &run->layout, backward, &limits, err);
    const Layout *l = &run->layout;
    if (!error_agree(world, ok, err) || !grid_create(&run->grid, world, l->replicas, l->rows, l->columns, err))
        return false;
    run->grid_made = true;
    BatchLimits batch = layout_batch_limits(config, &run->model_info.architecture, l->rows, l->columns);
    if (!error_agree(world, batcher_create(&run->batcher, &run->pairs, &run->grid, &batch, err), err) ||
        !transformer_create(&run->model, &run->model_info.architecture, &run->grid, &limits, run->timer, err))
        return false;
    print_header(run, model_path);
    return true;
}

void run_close(Run *run)
{
    if (run->model.grid)
        transformer_free(&run->model);
    batcher_free(&run->batcher);
    if (run->grid_made)
        grid_free(&run->grid);
    pairs_free(&run->pairs);
    timer_free(run->timer);
    log_close(&run->log);
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

static bool same_shape(const Architecture *a, const Architecture *b)
{
    return a->hidden == b->hidden && a->mlp == b->mlp && a->vocab == b->vocab && a->layers == b->layers && a->heads == b->heads &&
           a->groups == b->groups && a->head_dim == b->head_dim && a->tied == b->tied && a->attention_bias == b->attention_bias &&
           a->qk_norm == b->qk_norm && a->norm_epsilon == b->norm_epsilon && memcmp(&a->rope.theta, &b->rope.theta, sizeof a->rope.theta) == 0 &&
           a->rope.type == b->rope.type && a->rope.factor == b->rope.factor;
}

bool run_load_model(Run *run, const char *path, Error *err)
{
    H5File file;
    ModelInfo info;
    char digest[WEIGHTS_DIGEST];
    if (!model_file_open(&file, path, &info, run->world, err))
        return false;
    bool ok = same_shape(&info.architecture, &run->model.architecture) ||
              error_usage(err, "%s is a model of another architecture than the run's: the policy and its reference must have the same shape", path);
    ok = ok && model_load(&file, &run->model, digest, err);
    h5_close(&file);
    if (ok && strcmp(digest, info.weights_digest) != 0)
        return error_usage(err, "%s is damaged: its weights have the digest %s, the file says %s. Copy or import it again", path, digest,
                           info.weights_digest);
    if (ok)
        run->model_info = info;
    return ok;
}

/* ---- log-probs without training --------------------------------------------------------------------------------- */

/* One planned group of pairs: every pass of this replica, forward only. */
static void logps_of_group(Run *run, const int64_t *pairs, int count, double *chosen, double *rejected)
{
    batcher_plan(&run->batcher, pairs, count);
    for (int pass = 0; pass < run->batcher.passes; pass++) {
        const Batch *batch = batcher_pass(&run->batcher, pass);
        transformer_pass(&run->model, batch, NULL, NULL, false);
        const SequenceResult *result = run->model.result;
        for (int i = 0; i < batch->pair_count; i++) {
            chosen[batch->pair[i]] = result[2 * i + PAIR_CHOSEN].logp;
            rejected[batch->pair[i]] = result[2 * i + PAIR_REJECTED].logp;
        }
    }
}

bool run_logps(Run *run, const char *title, double *chosen, double *rejected, Error *err)
{
    int64_t count = run->pairs.count;
    int per_group = (int)run->config.batch.pairs;
    int64_t *group = malloc(sizeof *group * (size_t)per_group);
    if (!error_agree(run->world, group || error_fault(err, "out of memory for a list of %d pairs", per_group), err)) {
        free(group);
        return false;
    }
    memset(chosen, 0, sizeof *chosen * (size_t)count);
    memset(rejected, 0, sizeof *rejected * (size_t)count);
    Progress progress;
    double start = seconds_now(), tokens = 0;
    progress_begin(&progress, &run->log, (ProgressMode)run->config.run.progress, title, 0, count);
    for (int64_t first = 0; first < count; first += per_group) {
        int n = count - first < per_group ? (int)(count - first) : per_group;
        for (int i = 0; i < n; i++) {
            group[i] = first + i;
            tokens += pairs_length(&run->pairs, PAIR_CHOSEN, first + i) + pairs_length(&run->pairs, PAIR_REJECTED, first + i);
        }
        logps_of_group(run, group, n, chosen, rejected);
        progress_update(&progress, first + n, &(ProgressFields){ .loss = NAN, .worst_rate = NAN,
                        .tokens_per_second = tokens / (seconds_now() - start) });
    }
    progress_end(&progress);
    free(group);
    /* a pair was run on one replica: the others add zero */
    for (int side = 0; side < 2; side++) {
        double *values = side == 0 ? chosen : rejected;
        for (int64_t at = 0; at < count && run->grid.replicas > 1; at += 1 << 20)
            CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, values + at, (int)(count - at < 1 << 20 ? count - at : 1 << 20), MPI_DOUBLE, MPI_SUM,
                                    run->grid.replica_comm));
    }
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(chosen[i]) || !isfinite(rejected[i]))
            return error_fault(err, "the log-prob of pair %lld is not a finite number: the model's weights are broken", (long long)i);
    return true;
}

bool run_reference(Run *run, const char *group, double *chosen, double *rejected, char digest[WEIGHTS_DIGEST], Error *err)
{
    const Config *config = &run->config;
    const char *model = *config->reference.model ? config->reference.model : config->model.path;
    char cache[FILE_PATH];
    if (*config->reference.cache)
        snprintf(cache, sizeof cache, "%s", config->reference.cache);
    else
        run_path(run, "reference.h5", cache);

    H5File file;
    ModelInfo info;
    if (!model_file_open(&file, model, &info, run->world, err))
        return false;
    h5_close(&file);
    snprintf(digest, WEIGHTS_DIGEST, "%s", info.weights_digest);
    ReferenceKey key = { run->pairs.data_digest, info.weights_digest, info.tokenizer_digest, "dtype=float32" };
    switch (reference_cache_read(cache, group, &key, run->pairs.count, chosen, rejected, run->world, err)) {
    case REFERENCE_REFUSED: return false;
    case REFERENCE_FOUND: log_info(&run->log, "reference log-probs of %s from %s", group, cache); return true;
    case REFERENCE_ABSENT: break;
    }
    return run_load_model(run, model, err) && run_logps(run, "reference", chosen, rejected, err) &&
           reference_cache_write(cache, group, &key, run->pairs.count, chosen, rejected, run->world, err);
}

/* ---- folders ---------------------------------------------------------------------------------------------------- */

void run_path(const Run *run, const char *name, char path[FILE_PATH]) { snprintf(path, FILE_PATH, "%s/%s", run->config.run.dir, name); }

/* mkdir -p */
static bool make_folder(char *path, Error *err)
{
    for (char *slash = path + 1;; slash++) {
        if (*slash != '/' && *slash != '\0')
            continue;
        char end = *slash;
        *slash = '\0';
        bool ok = mkdir(path, 0777) == 0 || errno == EEXIST ||
                  error_usage(err, "cannot make the folder %s: %s; set run.dir to a place that you may write to", path, strerror(errno));
        *slash = end;
        if (!ok || end == '\0')
            return ok;
    }
}

bool run_make_folder(const Run *run, const char *name, Error *err)
{
    char path[FILE_PATH];
    run_path(run, name ? name : ".", path);
    return error_agree(run->world, run->rank > 0 || make_folder(path, err), err);
}
