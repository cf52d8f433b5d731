/* metrics.h5 as a whole: checksums of its columns, and what must hold in and between them. */
#include "metrics_private.h"

#include "catdpo/h5/checksum.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4 << 20, MOST_PHASES = 256 }; /* bytes read at once */

Slab metrics_unwritten(int axes, const int64_t dims[3], int64_t first, int64_t count, int64_t held)
{
    Slab slab = slab_rows(axes, dims, first, count);
    if (slab.axes > 1) slab.axis[1].first = held, slab.axis[1].block = dims[1] - held;
    for (int i = 0; i < slab.axes; i++) slab.axis[i].step = slab.axis[i].block_step = 0;
    return slab;
}

/* ---- checksums --------------------------------------------------------------------------------------------------- */

/* The same rows in a dataset that is wider. */
static Slab widened(Slab slab, int axes, const int64_t wide[3])
{
    for (int i = 1; i < axes && slab.axes > 0; i++) slab.axis[i].extent = slab.axis[i].stride = wide[i];
    return slab;
}

bool metrics_verify_column(H5File *file, const Metrics *m, const Column *c, int64_t keep, uint64_t *kept,
                           MetricsValues *values, void *context, Error *err)
{
    static const int64_t fill = -1;
    int64_t dims[3] = { -1, -1, -1 }, wide[3], width = 1;
    int axes = metrics_shape(m, c, keep, wide);
    uint64_t stored, sum = 0, rest = 0;
    if (!h5_expect(file, c->dataset, c->type, axes, dims, err) ||
        !h5_read_uint64(file, c->dataset, "checksum", &stored, err))
        return false;
    for (int i = 1; i < axes; i++) width *= dims[i];
    int64_t bytes = width * (int64_t)data_size(c->type), most = bytes < BLOCK && bytes > 0 ? BLOCK / bytes : 1;
    if (most > dims[0]) most = dims[0];
    void *block = file->rank == 0 ? malloc((size_t)(most * bytes) + 8) : NULL;
    bool ok =
        h5_agree(file, file->rank != 0 || block || error_fault(err, "%s: no memory to read %s", file->path, c->dataset),
                 err);
    for (int64_t at = 0; ok && at < dims[0] && width > 0; at += most) {
        int64_t count = dims[0] - at < most ? dims[0] - at : most;
        Slab slab = file->rank == 0 ? slab_rows(axes, dims, at, count) : slab_none();
        ok = h5_read_slab(file, c->dataset, c->type, &slab, block, err);
        if (!ok || file->rank != 0) continue;
        sum += checksum_slab(&slab, c->type, block);
        if (kept && at < keep) {
            Slab some = widened(slab_rows(axes, dims, at, count < keep - at ? count : keep - at), axes, wide);
            rest += checksum_slab(&some, c->type, block);
        }
        if (values) ok = values(c, at, count, width, block, context, err);
    }
    if (ok && kept && file->rank == 0 && axes > 1 && wide[1] > dims[1]) {
        Slab fresh = metrics_unwritten(axes, wide, 0, keep, dims[1]);
        rest += checksum_slab(&fresh, c->type, &fill);
    }
    free(block);
    if (ok && file->rank == 0 && sum != stored) {
        ok = error_usage(err, "%s: %s is damaged: its checksum is %016llx, the file says %016llx. Use another copy",
                         file->path, c->dataset, (unsigned long long)sum, (unsigned long long)stored);
    }
    uint64_t shared = rest;
    if (!h5_share(file, ok, &shared, sizeof shared, err)) return false;
    if (kept) *kept = shared;
    return true;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

/* What a column may hold. Numbers of a step may be NaN: no pair of that kind, or a step that failed. */
typedef struct Rule {
    const char *dataset;
    double least, most;
    bool nan;
} Rule;

static Rule rule_of(const Column *c)
{
    static const Rule rules[] = {
        { "/train/epoch", 0, INFINITY, false },
        { "/train/learning_rate", 0, INFINITY, false },
        { "/train/mean_token_accuracy", 0, 1, true },
        { "/train/rewards/accuracies", 0, 1, true },
        { "/train/category/margin", -INFINITY, INFINITY, false },
        { "/train/category/violation_rate", 0, 1, false },
        { "/train/category/violations", 0, INFINITY, false },
        { "/train/category/accuracy", 0, 1, true },
        { "/timing/seconds", 0, INFINITY, false },
        { "/timing/step_seconds", 0, INFINITY, false },
        { "/timing/step_flops", 0, INFINITY, false },
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (strcmp(rules[i].dataset, c->dataset) == 0) return rules[i];
    if (c->type == DATA_UINT8) return (Rule){ c->dataset, 0, 1, false };
    if (c->type == DATA_INT64)
        return (Rule){ c->dataset, c->shape == PER_PAIR || c->shape == PER_RANK_AND_CATEGORY ? -1 : 0, INFINITY,
                       false };
    return (Rule){ c->dataset, -INFINITY, INFINITY, true };
}

static double number(const Column *c, const void *values, int64_t i)
{
    return c->type == DATA_UINT8   ? ((const uint8_t *)values)[i]
           : c->type == DATA_INT64 ? (double)((const int64_t *)values)[i]
                                   : ((const double *)values)[i];
}

static bool check_values(const Column *c, int64_t first, int64_t count, int64_t width, const void *values,
                         void *context, Error *err)
{
    const H5File *file = context;
    enum { SLACK = 1 << 20 }; /* a rate is a running mean: it may leave its bounds by rounding */
    Rule rule = rule_of(c);
    double slack = c->type == DATA_FLOAT64 ? 1.0 / SLACK / SLACK : 0;
    for (int64_t i = 0; i < count * width; i++) {
        double x = number(c, values, i);
        if (isnan(x) ? rule.nan : (!isinf(x) || rule.nan) && x >= rule.least - slack && x <= rule.most + slack)
            continue;
        return error_usage(err, "%s: %s at step %" PRId64 " holds %g; it must be %sin [%g, %g]: damaged", file->path,
                           c->dataset, first + i / width + 1, x, rule.nan ? "NaN or " : "finite and ", rule.least,
                           rule.most);
    }
    return true;
}

/* ---- counts ------------------------------------------------------------------------------------------------------ */

typedef struct Counts {
    int64_t *n, *pairs, *partial_n, *partial_violations;
    double *violations;
} Counts;

/* One step: what the ranks counted is what the categories have. */
static bool check_step(const H5File *file, const Metrics *m, double unit, int64_t step, const Counts *c, int64_t row,
                       Error *err)
{
    const int64_t k = m->categories, ranks = m->stored_ranks;
    for (int64_t j = 0; j < k; j++) {
        int64_t n = 0, violations = 0, at = row * k + j;
        for (int64_t r = 0; r < ranks; r++) {
            int64_t i = (row * ranks + r) * k + j;
            n += c->partial_n[i] > 0 ? c->partial_n[i] : 0;
            violations += c->partial_violations[i] > 0 ? c->partial_violations[i] : 0;
        }
        bool same = n == c->n[at] && fabs((double)violations * unit - c->violations[at]) < 1e-6;
        if (same && c->n[at] <= c->pairs[at] && c->violations[at] <= (double)c->n[at] + 1e-6) continue;
        return error_usage(err,
                           "%s: step %" PRId64 ", category %" PRId64 ": %" PRId64 " pairs of which %" PRId64
                           " count, %g violations, but "
                           "the ranks counted %" PRId64 " and %g: damaged",
                           file->path, step, j, c->pairs[at], c->n[at], c->violations[at], n,
                           (double)violations * unit);
    }
    return true;
}

static bool read_rows(H5File *file, const char *name, DataType type, int axes, const int64_t dims[3], int64_t first,
                      int64_t count, void *values, Error *err)
{
    Slab slab = slab_rows(axes, dims, first, count);
    return h5_read_slab(file, name, type, &slab, values, err);
}

static bool check_counts(H5File *file, const Metrics *m, double unit, int64_t rows, Error *err)
{
    const int64_t k = m->categories, wide = m->stored_ranks * k, flat[3] = { rows, k },
                  deep[3] = { rows, m->stored_ranks, k };
    int64_t most = BLOCK / (8 * (wide > 0 ? wide : 1));
    if (most < 1) most = 1;
    if (most > rows) most = rows > 0 ? rows : 1;
    int64_t *memory = malloc((size_t)(most * (3 * k + 2 * wide)) * 8);
    if (!memory) return error_fault(err, "%s: no memory to compare counts", file->path);
    Counts c = { memory, memory + most * k, memory + 3 * most * k, memory + 3 * most * k + most * wide,
                 (double *)(memory + 2 * most * k) };
    bool ok = true;
    for (int64_t at = 0; ok && at < rows; at += most) {
        int64_t n = rows - at < most ? rows - at : most;
        ok = read_rows(file, "/train/category/n", DATA_INT64, 2, flat, at, n, c.n, err) &&
             read_rows(file, "/train/category/pairs", DATA_INT64, 2, flat, at, n, c.pairs, err) &&
             read_rows(file, "/train/category/violations", DATA_FLOAT64, 2, flat, at, n, c.violations, err) &&
             read_rows(file, "/train/partial/n", DATA_INT64, 3, deep, at, n, c.partial_n, err) &&
             read_rows(file, "/train/partial/violations", DATA_INT64, 3, deep, at, n, c.partial_violations, err);
        for (int64_t i = 0; ok && i < n; i++) ok = check_step(file, m, unit, at + i + 1, &c, i, err);
    }
    free(memory);
    return ok;
}

/* ---- the whole file ---------------------------------------------------------------------------------------------- */

static bool check_names(H5File *file, MetricsSummary *s, MetricsInfo *info, Error *err)
{
    static const char *const texts[] = { "run",           "version",     "mpi",
                                         "blas",          "hdf5",        "hosts",
                                         "settings",      "data_digest", "tokenizer_digest",
                                         "weights_digest" };
    double gflops;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char *text;
        bool ok = h5_read_text(file, "/", texts[i], 1 << 20, &text, err);
        free(text);
        if (!ok) return false;
    }
    int64_t phases = 0;
    bool ok = h5_read_string(file, "/", "started", s->started, sizeof s->started, err) &&
              h5_read_string(file, "/", "grid", s->grid, sizeof s->grid, err) &&
              h5_read_double(file, "/", "sgemm_gflops", 0, 1e9, &gflops, err) &&
              h5_read_int64(file, "/", "restarts", 0, INT64_MAX - 1, &s->restarts, err) &&
              h5_count_strings(file, "/categories/name", 1, CATEGORIES_MAX, &s->categories, err) &&
              h5_count_strings(file, "/timing/phase", 1, MOST_PHASES, &phases, err) &&
              h5_read_array(file, "/categories/harm", DATA_UINT8, 1, &s->categories, s->harm, err) &&
              h5_read_strings(file, "/categories/name", s->categories, CATEGORY_NAME, s->name[0], err);
    info->category_count = (int)s->categories;
    info->category_name = (const char(*)[CATEGORY_NAME])s->name;
    info->phase_count = (int)phases;
    for (int64_t k = 0; ok && k < s->categories; k++)
        ok = s->harm[k] <= 1 || error_usage(err, "%s: entry %" PRId64 " of /categories/harm is %d, not 0 or 1: damaged",
                                            file->path, k, s->harm[k]);
    return ok;
}

bool metrics_check(H5File *file, MetricsSummary *summary, Error *err)
{
    CHECK(file->comm == MPI_COMM_NULL);
    *summary = (MetricsSummary){ 0 };
    char(*phase)[CATEGORY_NAME] = calloc(MOST_PHASES, sizeof *phase);
    const char *phases[MOST_PHASES];
    if (!phase) return error_fault(err, "%s: no memory for names", file->path);
    for (int i = 0; i < MOST_PHASES; i++) phases[i] = phase[i];
    MetricsInfo info = { .phase_name = phases };
    bool ok = h5_check_format(file, "catdpo-metrics", METRICS_VERSION, err) && check_names(file, summary, &info, err) &&
              h5_read_strings(file, "/timing/phase", info.phase_count, CATEGORY_NAME, phase[0], err) &&
              h5_read_double(file, "/train/partial/violations", "unit", 1e-12, 1, &info.partial_unit, err);
    int64_t rows = -1;
    ok = ok && h5_expect(file, metrics_column(0)->dataset, DATA_INT64, 1, &rows, err);
    Metrics m = { .comm = MPI_COMM_NULL, .categories = info.category_count, .phases = info.phase_count };
    ok = ok && metrics_check_layout(file, &m, &info, rows, err);
    for (int i = 0; ok && metrics_column(i); i++)
        ok = metrics_verify_column(file, &m, metrics_column(i), rows, NULL, check_values, file, err);
    ok = ok && check_counts(file, &m, info.partial_unit, rows, err);
    summary->steps = rows;
    summary->ranks = m.stored_ranks;
    summary->pairs = m.stored_pairs;
    free(phase);
    return ok;
}
