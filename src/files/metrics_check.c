/* metrics.h5 as a whole: checksums of its columns, and what must hold in and between them. */
#include "metrics_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ------------------------------------------------------------------------------------------------------ */

static bool check_values(void *context, const Field *c, int64_t first, int64_t count, int64_t width, const void *values,
                         Error *err)
{
    const H5File *file = context;
    char bounds[FIELD_BOUNDS];
    double number;
    for (int64_t i = 0; c == metrics_columns.field && i < count; i++)
        if (((const int64_t *)values)[i] != first + i + 1)
            return error_usage(err, "%s: row %" PRId64 " is step %" PRId64 ": damaged", file->path, first + i,
                               ((const int64_t *)values)[i]);
    int64_t outside = field_outside(c, values, count * width, &number);
    return outside < 0 || error_usage(err, "%s: %s at step %" PRId64 " holds %g; it must be %s: damaged", file->path,
                                      c->object, first + outside / width + 1, number, field_bounds(c, bounds));
}

/* ---- counts ------------------------------------------------------------------------------------------------------ */

/* All rows of the counts of categories, [S, K], and what the latest interval's add up to. */
typedef struct Counts {
    int64_t *n, *pairs;
    double *violations, *probe_n, *probe_violations; /* the last two from version 2 on */
} Counts;

static bool read_counts(H5File *file, Counts *c, int64_t first, int64_t count, const int64_t dims[2], Error *err)
{
    Slab slab = slab_rows(2, dims, first, count);
    return h5_read_slab(file, "/train/category/n", DATA_INT64, &slab, c->n, err) &&
           h5_read_slab(file, "/train/category/pairs", DATA_INT64, &slab, c->pairs, err) &&
           h5_read_slab(file, "/train/category/violations", DATA_FLOAT64, &slab, c->violations, err) &&
           (file->version < 2 ||
            (h5_read_slab(file, "/train/category/probe_n", DATA_FLOAT64, &slab, c->probe_n, err) &&
             h5_read_slab(file, "/train/category/probe_violations", DATA_FLOAT64, &slab, c->probe_violations, err)));
}

/* Of pairs of a category some count, and of those some violate. */
static bool check_step(const H5File *file, const Counts *c, int64_t row, int64_t step, int64_t k, Error *err)
{
    for (int64_t j = 0; j < k; j++) {
        int64_t at = row * k + j;
        if (c->n[at] > c->pairs[at] || c->violations[at] > (double)c->n[at] + 1e-6)
            return error_usage(err,
                               "%s: step %" PRId64 ", category %" PRId64 ": %" PRId64 " pairs of which %" PRId64
                               " count, and %g violations: damaged",
                               file->path, step, j, c->pairs[at], c->n[at], c->violations[at]);
        if (file->version >= 2 && (c->probe_violations[at] > c->probe_n[at] + 1e-6 ||
                                   isnan(c->probe_violations[at]) != isnan(c->probe_n[at])))
            return error_usage(err,
                               "%s: step %" PRId64 ", category %" PRId64 ": a probe of %g with %g violations: damaged",
                               file->path, step, j, c->probe_n[at], c->probe_violations[at]);
    }
    return true;
}

/* What the ranks counted over the latest steps is what the categories have: sums are [2K], n and violations. */
static bool check_partial(const H5File *file, const MetricsHead *head, const int64_t lengths[METRICS_AXES],
                          const double *sums, Error *err)
{
    int64_t k = lengths[CATEGORY];
    for (int64_t j = 0; j < k; j++) {
        double n = 0, violations = 0;
        for (int64_t r = 0; r < lengths[RANK]; r++) {
            n += (double)head->partial_n[r * k + j];
            violations += (double)head->partial_violations[r * k + j] * head->info.partial_unit;
        }
        if (n == sums[j] && fabs(violations - sums[k + j]) < 1e-6 * (1 + n)) continue;
        return error_usage(err,
                           "%s: steps %" PRId64 " to %" PRId64 ", category %" PRId64
                           ": %.0f pairs count and %g violate, but the ranks counted %.0f and %g: damaged",
                           file->path, head->partial_first, head->partial_last, j, sums[j], sums[k + j], n, violations);
    }
    return true;
}

static bool check_blocks(H5File *file, const MetricsHead *head, const int64_t lengths[METRICS_AXES], Counts *c,
                         int64_t most, double *sums, Error *err)
{
    const int64_t rows = lengths[STEP], k = lengths[CATEGORY], dims[2] = { rows, k };
    for (int64_t at = 0; at < rows; at += most) {
        int64_t count = rows - at < most ? rows - at : most;
        if (!read_counts(file, c, at, count, dims, err)) return false;
        for (int64_t i = 0; i < count; i++) {
            if (!check_step(file, c, i, at + i + 1, k, err)) return false;
            bool latest = at + i + 1 >= head->partial_first && at + i + 1 <= head->partial_last;
            for (int64_t j = 0; latest && j < k; j++) {
                sums[j] += (double)c->n[i * k + j];
                sums[k + j] += c->violations[i * k + j];
            }
        }
    }
    return true;
}

static bool check_counts(H5File *file, const MetricsHead *head, const int64_t lengths[METRICS_AXES], Error *err)
{
    const int64_t k = lengths[CATEGORY], most = (1 << 17) / k;
    double *memory = calloc((size_t)(5 * most * k + 2 * k), sizeof *memory);
    if (!memory) return error_fault(err, "%s: no memory to compare counts", file->path);
    double *reals = memory + 2 * k;
    int64_t *counts = (int64_t *)(void *)(reals + 3 * most * k);
    Counts c = { counts, counts + most * k, reals, reals + most * k, reals + 2 * most * k };
    bool ok = check_blocks(file, head, lengths, &c, most, memory, err) &&
              (file->version < 2 || check_partial(file, head, lengths, memory, err));
    free(memory);
    return ok;
}

/* ---- the whole file ---------------------------------------------------------------------------------------------- */

static void summarise(const MetricsHead *head, const int64_t lengths[METRICS_AXES], MetricsSummary *s)
{
    *s = (MetricsSummary){ .steps = lengths[STEP],
                           .restarts = head->restarts,
                           .categories = lengths[CATEGORY],
                           .ranks = lengths[RANK],
                           .pairs = lengths[PAIR] };
    snprintf(s->grid, sizeof s->grid, "%s", head->info.grid);
    snprintf(s->started, sizeof s->started, "%s", head->info.started);
    memcpy(s->name, head->info.category_name, (size_t)s->categories * CATEGORY_NAME);
    memcpy(s->harm, head->info.category_harm, (size_t)s->categories);
}

static bool check_interval(const H5File *file, const MetricsHead *head, int64_t rows, Error *err)
{
    return file->version < 2 || (head->partial_last <= rows && head->partial_first <= head->partial_last + 1) ||
           error_usage(err,
                       "%s: /train/partial is of the steps %" PRId64 " to %" PRId64 ", and the file has %" PRId64
                       ": damaged",
                       file->path, head->partial_first, head->partial_last, rows);
}

bool metrics_check(H5File *file, MetricsSummary *summary, Error *err)
{
    MetricsHead head;
    int64_t lengths[METRICS_AXES];
    *summary = (MetricsSummary){ 0 };
    if (!metrics_read_head(file, &head, lengths, err)) return false;
    bool ok = check_interval(file, &head, lengths[STEP], err);
    for (const Field *c = metrics_columns.field; ok && c->kind != FIELD_END; c++)
        if (field_is_in(c, file->version)) ok = metrics_read_column(file, c, lengths, check_values, file, err);
    ok = ok && check_counts(file, &head, lengths, err);
    summarise(&head, lengths, summary);
    metrics_head_free(&head);
    return ok;
}
