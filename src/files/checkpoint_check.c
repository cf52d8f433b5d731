/* What a checkpoint holds beside its model, verified by a process alone. */
#include "catdpo/files/checkpoint.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool read_run(H5File *file, CheckpointSummary *s, Error *err)
{
    char kind[32];
    int64_t position, updates;
    CheckpointHead head;
    if (!checkpoint_read_head(file, &head, err)) return false;
    s->step = head.step;
    s->total_steps = head.total_steps;
    s->num_tokens = head.num_tokens;
    memcpy(s->data_digest, head.data_digest, sizeof head.data_digest);
    snprintf(s->reference_digest, sizeof s->reference_digest, "%s", head.reference_digest);
    Config config;
    bool ok = config_load_text(&config, head.config, file->path, err) &&
              h5_read_string(file, "/", "version", s->version, sizeof s->version, err) &&
              h5_read_int64(file, "/sampler", "step", s->step, s->step, &position, err) &&
              h5_read_string(file, "/sampler", "kind", kind, sizeof kind, err) &&
              h5_read_int64(file, "/optimizer", "updates", 0, s->step, &updates, err);
    checkpoint_head_free(&head);
    return ok && (config_is_choice("batch.sampling", kind) ||
                  error_usage(err, "%s: /sampler is of kind \"%s\", which is no batch.sampling: use another checkpoint",
                              file->path, kind));
}

static bool check_category(const H5File *file, const CheckpointSummary *s, const int64_t *counts, double unit,
                           int64_t k, Error *err)
{
    const int64_t all = s->categories, n = counts[k], violations = counts[all + k], pending = counts[2 * all + k],
                  pending_violations = counts[3 * all + k];
    bool ok = isfinite(s->margin[k]) && s->violation_rate[k] >= 0 && s->violation_rate[k] <= 1 && pending >= 0 &&
              pending <= n && violations >= 0 && (double)violations * unit <= (double)n && pending_violations >= 0 &&
              pending_violations <= violations;
    return ok || error_usage(err,
                             "%s: /margins: category %" PRId64 " (%s) has the margin %g, the rate %g, %" PRId64
                             " pairs and %" PRId64 " violations, of which %" PRId64 " and %" PRId64
                             " pending: damaged, use another checkpoint",
                             file->path, k, s->name[k], s->margin[k], s->violation_rate[k], n, violations, pending,
                             pending_violations);
}

static bool read_margins(H5File *file, CheckpointSummary *s, Error *err)
{
    double unit, pooled;
    int64_t updates, last;
    bool ok = h5_count_strings(file, "/margins/category", 1, CATEGORIES_MAX, &s->categories, err);
    int64_t both = 2 * s->categories, *counts = ok ? calloc(4 * (size_t)s->categories, sizeof *counts) : NULL;
    const int64_t k = s->categories;
    ok = ok && (counts || error_fault(err, "out of memory for the margins of %s", file->path)) &&
         h5_read_strings(file, "/margins/category", k, CATEGORY_NAME, s->name[0], err) &&
         h5_read_array(file, "/margins/margin", DATA_FLOAT64, 1, &k, s->margin, err) &&
         h5_read_array(file, "/margins/violation_rate", DATA_FLOAT64, 1, &k, s->violation_rate, err) &&
         h5_read_array(file, "/margins/n", DATA_INT64, 1, &k, counts, err) &&
         h5_read_array(file, "/margins/violations", DATA_INT64, 1, &k, counts + k, err) &&
         h5_read_array(file, "/margins/pending", DATA_INT64, 1, &both, counts + both, err) &&
         h5_read_double(file, "/margins", "unit", 1e-12, 1, &unit, err) &&
         h5_read_double(file, "/margins", "pooled_rate", 0, 1, &pooled, err) &&
         h5_read_int64(file, "/margins", "updates", 0, s->step, &updates, err) &&
         h5_read_int64(file, "/margins", "last_update", 0, s->step, &last, err);
    for (int64_t i = 0; ok && i < k; i++) ok = check_category(file, s, counts, unit, i, err);
    free(counts);
    return ok;
}

bool checkpoint_check(H5File *file, CheckpointSummary *summary, Error *err)
{
    CHECK(file->comm == MPI_COMM_NULL);
    memset(summary, 0, sizeof *summary);
    return h5_check_format(file, CHECKPOINT_FORMAT, 1, err) && read_run(file, summary, err) &&
           read_margins(file, summary, err);
}
