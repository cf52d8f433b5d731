/* metrics.h5: rows kept in memory, then appended to a copy of the file that replaces it. */
#include "metrics_private.h"

#include "catdpo/h5/checksum.h"

#include <assert.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the columns ------------------------------------------------------------------------------------------------- */

#define FIELD(member) offsetof(StepMetrics, member)

/* A new metric is a field of StepMetrics and a line here. The first one is the scale of all. */
static const Column columns[] = {
    { "/train/step", DATA_INT64, SCALAR, SAME, FIELD(step), "1", "optimiser step, from 1" },
    { "/train/epoch", DATA_FLOAT64, SCALAR, SAME, FIELD(epoch), "1", "passes over the training pairs so far" },
    { "/train/loss", DATA_FLOAT64, SCALAR, SAME, FIELD(loss), "nat", "mean loss of the step's pairs" },
    { "/train/learning_rate", DATA_FLOAT64, SCALAR, SAME, FIELD(learning_rate), "1", "learning rate of this step" },
    { "/train/grad_norm", DATA_FLOAT64, SCALAR, SAME, FIELD(grad_norm), "1", "global gradient norm before clipping" },
    { "/train/clipped", DATA_UINT8, SCALAR, SAME, FIELD(clipped), "1", "1: the gradient was scaled down to the limit" },
    { "/train/skipped", DATA_UINT8, SCALAR, SAME, FIELD(skipped), "1",
      "1: loss or gradient was not finite, so nothing was updated" },
    { "/train/num_tokens", DATA_INT64, SCALAR, SAME, FIELD(num_tokens), "1", "tokens since the start of training" },
    { "/train/entropy", DATA_FLOAT64, SCALAR, SAME, FIELD(entropy), "nat", "mean entropy of a completion token" },
    { "/train/mean_token_accuracy", DATA_FLOAT64, SCALAR, SAME, FIELD(mean_token_accuracy), "1",
      "share of the chosen completions' tokens that are the most likely one" },
    { "/train/rewards/chosen", DATA_FLOAT64, SCALAR, SAME, FIELD(rewards_chosen), "nat",
      "beta * (logp - reference), mean" },
    { "/train/rewards/rejected", DATA_FLOAT64, SCALAR, SAME, FIELD(rewards_rejected), "nat",
      "beta * (logp - reference), mean" },
    { "/train/rewards/margins", DATA_FLOAT64, SCALAR, SAME, FIELD(rewards_margins), "nat",
      "chosen less rejected, mean" },
    { "/train/rewards/accuracies", DATA_FLOAT64, SCALAR, SAME, FIELD(rewards_accuracies), "1",
      "share with chosen > rejected" },
    { "/train/logps/chosen", DATA_FLOAT64, SCALAR, SAME, FIELD(logps_chosen), "nat",
      "log-probability of a completion, mean" },
    { "/train/logps/rejected", DATA_FLOAT64, SCALAR, SAME, FIELD(logps_rejected), "nat",
      "log-probability of a completion, mean" },
    { "/train/logits/chosen", DATA_FLOAT64, SCALAR, SAME, FIELD(logits_chosen), "1",
      "mean logit on completion tokens" },
    { "/train/logits/rejected", DATA_FLOAT64, SCALAR, SAME, FIELD(logits_rejected), "1",
      "mean logit on completion tokens" },

    { "/train/category/margin", DATA_FLOAT64, PER_CATEGORY, SAME, FIELD(margin), "nat",
      "safety margin used in this step" },
    { "/train/category/violation_rate", DATA_FLOAT64, PER_CATEGORY, SAME, FIELD(violation_rate), "1",
      "running violation rate after this step" },
    { "/train/category/n", DATA_INT64, PER_CATEGORY, SAME, FIELD(n), "1", "pairs to which the margin applies" },
    { "/train/category/violations", DATA_FLOAT64, PER_CATEGORY, SAME, FIELD(violations), "1",
      "violations among n, ties one half" },
    { "/train/category/pairs", DATA_INT64, PER_CATEGORY, SAME, FIELD(pairs), "1", "all pairs of the category" },
    { "/train/category/rewards_margins", DATA_FLOAT64, PER_CATEGORY, SAME, FIELD(category_rewards_margins), "nat",
      "chosen less rejected reward, mean over the category's pairs" },
    { "/train/category/accuracy", DATA_FLOAT64, PER_CATEGORY, SAME, FIELD(category_accuracy), "1",
      "share of the category's pairs with chosen > rejected" },
    { "/train/category/loss", DATA_FLOAT64, PER_CATEGORY, SAME, FIELD(category_loss), "nat",
      "mean over the category's pairs" },

    { "/train/partial/n", DATA_INT64, PER_RANK_AND_CATEGORY, OWN, FIELD(partial_n), "1",
      "a rank's share of category/n; -1: no such rank in this step" },
    { "/train/partial/violations", DATA_INT64, PER_RANK_AND_CATEGORY, OWN, FIELD(partial_violations), "1",
      "a rank's share of category/violations, in the attribute `unit`; -1: no such rank in this step" },

    { "/train/pairs", DATA_INT64, PER_PAIR, SAME, FIELD(pair_index), "1", "rows of /train in pairs.h5; -1: none" },

    { "/timing/seconds", DATA_FLOAT64, PER_PHASE, LARGEST, FIELD(phase_seconds), "s",
      "time by phase, largest over the ranks" },
    { "/timing/step_seconds", DATA_FLOAT64, SCALAR, LARGEST, FIELD(step_seconds), "s",
      "time of the step, largest over the ranks" },
    { "/timing/step_flops", DATA_FLOAT64, SCALAR, SAME, FIELD(step_flops), "1",
      "floating-point operations of all products, all ranks" },
};

enum { COLUMNS = sizeof columns / sizeof columns[0] };

static_assert((int)COLUMNS <= (int)METRICS_COLUMNS_MAX, "a larger METRICS_COLUMNS_MAX is needed");

const Column *metrics_column(int index) { return index < COLUMNS ? &columns[index] : NULL; }

static const char *unfinished(const Metrics *m) { return *m->folder ? m->folder : NULL; }

/* Elements of one row in memory (of one rank). */
static int64_t width(const Metrics *m, const Column *c)
{
    switch (c->shape) {
    case SCALAR: return 1;
    case PER_PAIR: return m->pairs;
    case PER_PHASE: return m->phases;
    case PER_CATEGORY:
    case PER_RANK_AND_CATEGORY: return m->categories;
    }
    return 0;
}

int metrics_shape(const Metrics *m, const Column *c, int64_t rows, int64_t dims[3])
{
    dims[0] = rows;
    switch (c->shape) {
    case SCALAR: return 1;
    case PER_CATEGORY: dims[1] = m->categories; return 2;
    case PER_PHASE: dims[1] = m->phases; return 2;
    case PER_PAIR: dims[1] = m->stored_pairs; return 2;
    case PER_RANK_AND_CATEGORY: dims[1] = m->stored_ranks, dims[2] = m->categories; return 3;
    }
    return 0;
}

/* ---- what is written once ---------------------------------------------------------------------------------------- */

static bool create_column(H5File *file, const Metrics *m, const Column *c, Error *err)
{
    static const char *const scale[] = { [PER_CATEGORY] = "/categories/name", [PER_PHASE] = "/timing/phase" };
    static const char *const label[] = {
        [PER_CATEGORY] = "category", [PER_PAIR] = "pair", [PER_PHASE] = "phase", [PER_RANK_AND_CATEGORY] = "rank"
    };
    int64_t dims[3], chunk[3], row = 1;
    int axes = metrics_shape(m, c, 0, dims),
        growing = c->shape == PER_PAIR || c->shape == PER_RANK_AND_CATEGORY ? 2 : 1;
    for (int i = 1; i < axes; i++) row *= chunk[i] = dims[i] > 0 ? dims[i] : 1;
    chunk[0] = 8192 / row > 16 ? 8192 / row : 16; /* about 64 KB, */
    if (chunk[0] > 1024) chunk[0] = 1024;         /* and not for a single number */
    bool ok = h5_create_extendible(file, c->dataset, c->type, axes, growing, dims, chunk,
                                   c->type == DATA_INT64 ? -1 : 0, err) &&
              h5_describe(file, c->dataset, c->units, c->description, err) &&
              h5_write_uint64(file, c->dataset, "checksum", 0, err);
    if (ok && c == &columns[0]) return h5_make_scale(file, c->dataset, "step", err);
    ok = ok && h5_label_axis(file, c->dataset, 0, "step", columns[0].dataset, err);
    if (ok && axes > 1)
        ok = h5_label_axis(file, c->dataset, 1, label[c->shape],
                           c->shape == PER_CATEGORY || c->shape == PER_PHASE ? scale[c->shape] : NULL, err);
    if (ok && axes > 2) ok = h5_label_axis(file, c->dataset, 2, "category", scale[PER_CATEGORY], err);
    return ok;
}

/* What may differ between the runs that continue a file: it tells of the last one. */
static bool write_run(H5File *file, const MetricsInfo *info, int64_t restarts, Error *err)
{
    char hdf5[32];
    unsigned major, minor, release;
    H5get_libversion(&major, &minor, &release);
    snprintf(hdf5, sizeof hdf5, "%u.%u.%u", major, minor, release);
    return h5_write_string(file, "/", "run", info->run, err) && h5_write_string(file, "/", "grid", info->grid, err) &&
           h5_write_string(file, "/", "version", info->version, err) &&
           h5_write_string(file, "/", "mpi", info->mpi, err) && h5_write_string(file, "/", "blas", info->blas, err) &&
           h5_write_double(file, "/", "sgemm_gflops", info->sgemm_gflops, err) &&
           h5_write_string(file, "/", "hdf5", hdf5, err) && h5_write_string(file, "/", "hosts", info->hosts, err) &&
           h5_write_string(file, "/", "started", info->started, err) &&
           h5_write_string(file, "/", "data_digest", info->data_digest, err) &&
           h5_write_string(file, "/", "weights_digest", info->weights_digest, err) &&
           h5_write_string(file, "/", "tokenizer_digest", info->tokenizer_digest, err) &&
           h5_write_string(file, "/", "settings", info->settings, err) &&
           h5_write_int64(file, "/", "restarts", restarts, err) && h5_write_text(file, "/config", info->config, err);
}

static bool write_names(H5File *file, const char *name, const char *label, int count, const char *const values[],
                        Error *err)
{
    char *text = calloc(count > 0 ? count : 1, CATEGORY_NAME);
    CHECK(text);
    for (int i = 0; i < count; i++) snprintf(text + i * CATEGORY_NAME, CATEGORY_NAME, "%s", values[i]);
    bool ok = h5_write_strings(file, name, count, CATEGORY_NAME, text, err) && h5_make_scale(file, name, label, err);
    free(text);
    return ok;
}

static bool write_layout(H5File *file, const Metrics *m, const MetricsInfo *info, Error *err)
{
    bool ok = h5_write_format(file, "catdpo-metrics", METRICS_VERSION, err) && write_run(file, info, 0, err) &&
              h5_write_strings(file, "/categories/name", m->categories, CATEGORY_NAME, info->category_name[0], err) &&
              h5_make_scale(file, "/categories/name", "category", err) &&
              h5_write_array(file, "/categories/harm", DATA_UINT8, 1, &m->categories, info->category_harm, err) &&
              h5_describe(file, "/categories/harm", "1", "1: the margin applies to some pair of the category", err) &&
              h5_label_axis(file, "/categories/harm", 0, "category", "/categories/name", err) &&
              write_names(file, "/timing/phase", "phase", info->phase_count, info->phase_name, err);
    for (int i = 0; ok && i < COLUMNS; i++) ok = create_column(file, m, &columns[i], err);
    return ok && h5_write_double(file, "/train/partial/violations", "unit", info->partial_unit, err);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static Metrics *allocate(const char *path, const MetricsInfo *info, MPI_Comm comm, Error *err)
{
    CHECK(info->category_count >= 1 && info->phase_count >= 1 && info->pairs_per_step >= 1 && info->capacity >= 1);
    CHECK(strlen(path) < FILE_PATH);
    Metrics *m = calloc(1, sizeof *m);
    CHECK(m);
    *m = (Metrics){ .comm = comm,
                    .categories = info->category_count,
                    .pairs = info->pairs_per_step,
                    .phases = info->phase_count,
                    .capacity = info->capacity };
    strcpy(m->path, path);
    snprintf(m->folder, sizeof m->folder, "%s", info->folder ? info->folder : "");
    CHECK_MPI(MPI_Comm_rank(comm, &m->rank));
    CHECK_MPI(MPI_Comm_size(comm, &m->ranks));
    m->stored_ranks = m->ranks;
    m->stored_pairs = m->pairs;
    size_t bytes = 0, used = 0;
    for (int i = 0; i < COLUMNS; i++) bytes += m->capacity * width(m, &columns[i]) * 8; /* the widest type */
    m->memory = malloc(bytes);
    if (error_agree(comm, m->memory || error_fault(err, "%s: no memory for %lld rows", path, (long long)m->capacity),
                    err)) {
        for (int i = 0; i < COLUMNS; i++) {
            m->buffer[i] = m->memory + used;
            used += m->capacity * width(m, &columns[i]) * 8;
        }
        return m;
    }
    metrics_free(m);
    return NULL;
}

void metrics_free(Metrics *m)
{
    if (m) free(m->memory);
    free(m);
}

Metrics *metrics_create(const char *path, const MetricsInfo *info, MPI_Comm comm, Error *err)
{
    Metrics *m = allocate(path, info, comm, err);
    if (!m) return NULL;
    H5File file;
    bool ok =
        h5_create(&file, path, unfinished(m), comm, err) && write_layout(&file, m, info, err) && h5_commit(&file, err);
    h5_close(&file);
    if (ok) return m;
    metrics_free(m);
    return NULL;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

bool metrics_full(const Metrics *m) { return m->rows == m->capacity; }

void metrics_append(Metrics *m, const StepMetrics *row)
{
    CHECK(m->rows < m->capacity);
    CHECK(row->step == m->stored + m->rows + 1);
    for (int i = 0; i < COLUMNS; i++) {
        const Column *c = &columns[i];
        const void *values = (const char *)row + c->offset;
        if (c->shape != SCALAR) memcpy(&values, values, sizeof values);
        size_t bytes = width(m, c) * data_size(c->type);
        memcpy(m->buffer[i] + m->rows * bytes, values, bytes);
    }
    m->rows++;
}

/* What this rank writes of the new rows of a column, in a dataset of `rows` rows. */
static Slab new_rows(const Metrics *m, const Column *c, int64_t rows)
{
    int64_t dims[3];
    if (c->source != OWN && m->rank != 0) return slab_none();
    Slab slab = slab_rows(metrics_shape(m, c, rows, dims), dims, m->stored, m->rows);
    SlabAxis *axis = slab.axis;
    axis[0].step = width(m, c);
    if (c->shape == PER_PAIR) axis[1].block = m->pairs;
    if (c->shape == PER_RANK_AND_CATEGORY) axis[1].first = m->rank, axis[1].block = 1, axis[1].step = m->categories;
    return slab;
}

/* What no rank writes of the new rows: columns of ranks and pairs that this run does not have, which read as -1. */
static Slab unwritten(const Metrics *m, const Column *c, int64_t rows)
{
    int64_t dims[3], held = c->shape == PER_PAIR ? m->pairs : c->shape == PER_RANK_AND_CATEGORY ? m->ranks : -1;
    int axes = metrics_shape(m, c, rows, dims);
    if (m->rank != 0 || held < 0 || held == dims[1]) return slab_none();
    CHECK(c->type == DATA_INT64);
    return metrics_unwritten(axes, dims, m->stored, m->rows, held);
}

/* The columns' checksums with the new rows. */
static void add_rows(const Metrics *m, uint64_t sums[])
{
    static const int64_t fill = -1;
    for (int i = 0; i < COLUMNS; i++) {
        const Column *c = &columns[i];
        Slab slab = new_rows(m, c, m->stored + m->rows), rest = unwritten(m, c, m->stored + m->rows);
        sums[i] = checksum_slab(&slab, c->type, m->buffer[i]) + checksum_slab(&rest, c->type, &fill);
    }
    checksum_sum(COLUMNS, sums, m->comm);
    for (int i = 0; i < COLUMNS; i++) sums[i] += m->checksum[i];
}

bool metrics_flush(Metrics *m, Error *err)
{
    if (m->rows == 0) return true;
    int64_t dims[3], rows = m->stored + m->rows;
    uint64_t sums[METRICS_COLUMNS_MAX];
    for (int i = 0; i < COLUMNS; i++) {
        const Column *c = &columns[i];
        if (c->source != LARGEST) continue;
        CHECK(c->type == DATA_FLOAT64);
        CHECK_MPI(MPI_Reduce(m->rank == 0 ? MPI_IN_PLACE : m->buffer[i], m->buffer[i], (int)(m->rows * width(m, c)),
                             MPI_DOUBLE, MPI_MAX, 0, m->comm));
    }
    add_rows(m, sums);
    H5File file;
    bool ok = h5_modify(&file, m->path, unfinished(m), m->comm, err);
    for (int i = 0; ok && i < COLUMNS; i++)
        ok = h5_resize(&file, columns[i].dataset, metrics_shape(m, &columns[i], rows, dims), dims, err) &&
             h5_write_uint64(&file, columns[i].dataset, "checksum", sums[i], err);
    for (int i = 0; ok && i < COLUMNS; i++) {
        Slab slab = new_rows(m, &columns[i], rows);
        ok = h5_write_slab(&file, columns[i].dataset, columns[i].type, &slab, m->buffer[i], err);
    }
    ok = ok && h5_commit(&file, err);
    h5_close(&file);
    if (!ok) return false;
    memcpy(m->checksum, sums, sizeof m->checksum);
    m->stored = rows;
    m->rows = 0;
    return true;
}

/* ---- continuing -------------------------------------------------------------------------------------------------- */

static bool same_names(H5File *file, const char *dataset, const char *what, int64_t count, const char *const values[],
                       Error *err)
{
    char *found = calloc(count, CATEGORY_NAME);
    CHECK(found);
    bool ok = h5_read_strings(file, dataset, count, CATEGORY_NAME, found, err);
    for (int64_t i = 0; ok && i < count; i++) {
        if (strcmp(found + i * CATEGORY_NAME, values[i]) != 0) {
            ok = error_usage(err,
                             "%s: %s %" PRId64 " is \"%s\", in this run it is \"%s\": not a file of the same training",
                             file->path, what, i, found + i * CATEGORY_NAME, values[i]);
        }
    }
    free(found);
    return ok;
}

/* Steps 1, 2, ..., step are there. */
static bool check_steps(H5File *file, int64_t rows, int64_t step, Error *err)
{
    if (rows < step) {
        return error_usage(err,
                           "%s: ends at step %" PRId64 ", the checkpoint is of step %" PRId64
                           ": not a file of the same training",
                           file->path, rows, step);
    }
    int64_t *found = malloc((rows > 0 ? rows : 1) * sizeof *found);
    bool ok = h5_agree(file, found || error_fault(err, "%s: no memory for %" PRId64 " rows", file->path, rows), err) &&
              h5_read_array(file, columns[0].dataset, DATA_INT64, 1, &rows, found, err);
    for (int64_t i = 0; ok && i < step; i++)
        if (found[i] != i + 1)
            ok = error_usage(err, "%s: row %" PRId64 " is step %" PRId64 ": damaged", file->path, i, found[i]);
    free(found);
    return ok;
}

bool metrics_check_layout(H5File *file, Metrics *m, const MetricsInfo *info, int64_t step, Error *err)
{
    const char *names[CATEGORIES_MAX];
    CHECK(info->category_count <= CATEGORIES_MAX);
    for (int k = 0; k < info->category_count; k++) names[k] = info->category_name[k];
    int64_t rows = -1, dims[3], ranks = -1, pairs = -1;
    double unit;
    if (!h5_check_format(file, "catdpo-metrics", METRICS_VERSION, err) ||
        !same_names(file, "/categories/name", "category", m->categories, names, err) ||
        !same_names(file, "/timing/phase", "phase", m->phases, info->phase_name, err) ||
        !h5_read_double(file, "/train/partial/violations", "unit", info->partial_unit, info->partial_unit, &unit,
                        err) ||
        !h5_expect(file, columns[0].dataset, DATA_INT64, 1, &rows, err))
        return false;
    for (int i = 0; i < COLUMNS; i++) {
        const Column *c = &columns[i];
        m->stored_ranks = ranks, m->stored_pairs = pairs;
        int axes = metrics_shape(m, c, rows, dims);
        if (!h5_expect(file, c->dataset, c->type, axes, dims, err)) return false;
        if (c->shape == PER_RANK_AND_CATEGORY) ranks = dims[1];
        if (c->shape == PER_PAIR) pairs = dims[1];
    }
    m->stored_ranks = ranks > m->ranks ? ranks : m->ranks;
    m->stored_pairs = pairs > m->pairs ? pairs : m->pairs;
    return check_steps(file, rows, step, err);
}

/* Cut off what follows `step` and make room for this run's ranks and pairs. */
static bool cut(H5File *file, const Metrics *m, const MetricsInfo *info, int64_t step, int64_t restarts, Error *err)
{
    int64_t dims[3];
    bool ok = true;
    for (int i = 0; ok && i < COLUMNS; i++)
        ok = h5_resize(file, columns[i].dataset, metrics_shape(m, &columns[i], step, dims), dims, err) &&
             h5_write_uint64(file, columns[i].dataset, "checksum", m->checksum[i], err);
    return ok && h5_delete(file, "/config", err) && write_run(file, info, restarts, err);
}

Metrics *metrics_resume(const char *path, const MetricsInfo *info, int64_t step, MPI_Comm comm, Error *err)
{
    Metrics *m = allocate(path, info, comm, err);
    if (!m) return NULL;
    CHECK(step >= 0);
    H5File file;
    int64_t restarts = 0;
    bool ok = h5_open(&file, path, comm, err) && metrics_check_layout(&file, m, info, step, err) &&
              h5_read_int64(&file, "/", "restarts", 0, INT64_MAX - 1, &restarts, err);
    for (int i = 0; ok && i < COLUMNS; i++)
        ok = metrics_verify_column(&file, m, &columns[i], step, &m->checksum[i], NULL, NULL, err);
    h5_close(&file);
    if (ok) {
        ok = h5_modify(&file, path, unfinished(m), comm, err) && cut(&file, m, info, step, restarts + 1, err) &&
             h5_commit(&file, err);
        h5_close(&file);
    }
    m->stored = step;
    if (ok) return m;
    metrics_free(m);
    return NULL;
}
