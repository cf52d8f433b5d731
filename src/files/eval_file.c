/* eval.h5: per-category results, their summary, and every pair's values. */
#include "catdpo/files/eval_file.h"

#include "catdpo/h5/h5.h"
#include "catdpo/objective/statistics.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EVAL_VERSION = 1, EVAL_SUMMARIES = 5 };

/* A column of values, one a category or one a pair: written from an EvalResult, read into one. */
typedef struct Column {
    const char *dataset;
    DataType type;
    size_t offset; /* of the pointer to the values in EvalResult */
    const char *units, *description;
    bool rate; /* in [0, 1], or NaN where there is nothing to count */
} Column;

#define FIELD(member) offsetof(EvalResult, member)

static const Column category_columns[] = {
    { "/eval/category/pairs", DATA_INT64, FIELD(pairs), "1", "pairs of the category", false },
    { "/eval/category/accuracy", DATA_FLOAT64, FIELD(accuracy), "1", "share of pairs with h > 0, ties one half", true },
    { "/eval/category/accuracy_low", DATA_FLOAT64, FIELD(accuracy_low), "1", "lower end of its Wilson 95 % interval",
      true },
    { "/eval/category/accuracy_high", DATA_FLOAT64, FIELD(accuracy_high), "1", "upper end of its Wilson 95 % interval",
      true },
    { "/eval/category/n", DATA_INT64, FIELD(n), "1", "pairs with a safe chosen and an unsafe rejected response",
      false },
    { "/eval/category/violations", DATA_FLOAT64, FIELD(violations), "1",
      "violations among these n pairs, ties one half", false },
    { "/eval/category/violation_rate", DATA_FLOAT64, FIELD(violation_rate), "1", "violations / n", true },
    { "/eval/category/violation_rate_low", DATA_FLOAT64, FIELD(violation_rate_low), "1",
      "lower end of its Wilson 95 % interval", true },
    { "/eval/category/violation_rate_high", DATA_FLOAT64, FIELD(violation_rate_high), "1",
      "upper end of its Wilson 95 % interval", true },
    { "/eval/category/rewards_margins", DATA_FLOAT64, FIELD(rewards_margins), "nat", "mean of beta h over the pairs",
      false },
    { 0 },
};

static const Column pair_columns[] = {
    { "/eval/pairs/logps_chosen", DATA_FLOAT64, FIELD(logps_chosen), "nat", "log-probability of the chosen completion",
      false },
    { "/eval/pairs/logps_rejected", DATA_FLOAT64, FIELD(logps_rejected), "nat",
      "log-probability of the rejected completion", false },
    { "/eval/pairs/ref_logps_chosen", DATA_FLOAT64, FIELD(ref_logps_chosen), "nat",
      "the same under the frozen reference", false },
    { "/eval/pairs/ref_logps_rejected", DATA_FLOAT64, FIELD(ref_logps_rejected), "nat",
      "the same under the frozen reference", false },
    { "/eval/pairs/violation", DATA_FLOAT64, FIELD(violation), "1",
      "0, 0.5 (tie) or 1; NaN where the margin does not apply", true },
    { 0 },
};

static const char *const summary_names[EVAL_SUMMARIES] = { "micro", "macro", "worst", "gap", "variance" };

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static bool write_columns(H5File *file, const EvalResult *r, const Column *c, int64_t rows, const char *label,
                          const char *scale, Error *err)
{
    for (; c->dataset; c++) {
        const void *values;
        memcpy(&values, (const char *)r + c->offset, sizeof values);
        if (!h5_write_array(file, c->dataset, c->type, 1, &rows, values, err) ||
            !h5_describe(file, c->dataset, c->units, c->description, err) ||
            !h5_label_axis(file, c->dataset, 0, label, scale, err))
            return false;
    }
    return true;
}

static bool write_categories(H5File *file, const EvalResult *r, Error *err)
{
    const int64_t k = r->category_count;
    return h5_write_strings(file, "/categories/name", k, CATEGORY_NAME, r->category_name[0], err) &&
           h5_make_scale(file, "/categories/name", "category", err) &&
           h5_write_array(file, "/categories/harm", DATA_UINT8, 1, &k, r->category_harm, err) &&
           h5_describe(file, "/categories/harm", "1", "1: the margin applies to some pair of the category", err) &&
           h5_label_axis(file, "/categories/harm", 0, "category", "/categories/name", err) &&
           write_columns(file, r, category_columns, k, "category", "/categories/name", err);
}

static void list_summary(const EvalSummary *s, double values[EVAL_SUMMARIES])
{
    const double list[EVAL_SUMMARIES] = { s->micro, s->macro, s->worst, s->gap, s->variance };
    memcpy(values, list, sizeof list);
}

static bool write_summary(H5File *file, const char *quantity, const EvalSummary *s, Error *err)
{
    double values[EVAL_SUMMARIES];
    list_summary(s, values);
    for (int i = 0; i < EVAL_SUMMARIES; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s_%s", quantity, summary_names[i]);
        if (!h5_write_double(file, "/eval/summary", name, values[i], err)) return false;
    }
    return true;
}

static bool write_pairs(H5File *file, const EvalResult *r, Error *err)
{
    return h5_write_array(file, "/eval/pairs/index", DATA_INT64, 1, &r->pair_count, r->index, err) &&
           h5_describe(file, "/eval/pairs/index", "1", "row of the split in pairs.h5", err) &&
           h5_make_scale(file, "/eval/pairs/index", "pair", err) &&
           write_columns(file, r, pair_columns, r->pair_count, "pair", "/eval/pairs/index", err);
}

bool eval_file_write(const char *path, const EvalResult *r, MPI_Comm comm, Error *err)
{
    H5File file;
    bool ok = h5_create(&file, path, NULL, comm, err) && h5_write_format(&file, "catdpo-eval", EVAL_VERSION, err) &&
              h5_write_string(&file, "/", "model", r->model, err) &&
              h5_write_string(&file, "/", "weights_digest", r->weights_digest, err) &&
              h5_write_string(&file, "/", "data_digest", r->data_digest, err) &&
              h5_write_string(&file, "/", "split", r->split, err) && h5_write_int64(&file, "/", "step", r->step, err) &&
              h5_write_string(&file, "/", "signal", r->signal, err) &&
              h5_write_double(&file, "/", "beta", r->beta, err) && write_categories(&file, r, err) &&
              h5_create_group(&file, "/eval/summary", err) &&
              write_summary(&file, "accuracy", &r->accuracy_summary, err) &&
              write_summary(&file, "violation_rate", &r->violation_rate_summary, err) &&
              h5_write_string(&file, "/eval/summary", "worst_category", r->worst_category, err) &&
              write_pairs(&file, r, err) && h5_commit(&file, err);
    h5_close(&file);
    return ok;
}

/* ---- verifying --------------------------------------------------------------------------------------------------- */

/* Columns of `rows` values into memory of their own, to which r points; `memory` is what is left of it. */
static bool read_columns(H5File *file, EvalResult *r, const Column *c, int64_t rows, char **memory, Error *err)
{
    for (; c->dataset; c++) {
        double *values = (double *)(void *)*memory;
        if (!h5_read_array(file, c->dataset, c->type, 1, &rows, values, err)) return false;
        for (int64_t i = 0; c->rate && i < rows; i++) {
            if (isnan(values[i]) || (values[i] >= 0 && values[i] <= 1)) continue;
            return error_usage(err, "%s: entry %" PRId64 " of %s is %g; a rate lies in [0, 1]: damaged", file->path, i,
                               c->dataset, values[i]);
        }
        memcpy((char *)r + c->offset, memory, sizeof *memory);
        *memory += rows * 8;
    }
    return true;
}

static bool is_near(double a, double b) { return (isnan(a) && isnan(b)) || fabs(a - b) <= 1e-9 * (1 + fabs(a)); }

/* What the file says of a category follows from its counts. */
static bool check_category(const H5File *file, const EvalResult *r, int k, Error *err)
{
    double pairs = (double)r->pairs[k], n = (double)r->n[k], right = r->pairs[k] > 0 ? r->accuracy[k] * pairs : 0;
    if (r->pairs[k] < 0 || r->n[k] < 0 || r->n[k] > r->pairs[k] || r->pairs[k] > r->pair_count ||
        !(r->violations[k] >= 0) || !(r->violations[k] <= n + 1e-6) || r->category_harm[k] > 1) {
        return error_usage(err, "%s: category %d has %" PRId64 " pairs, %" PRId64 " of them count, %g violate: damaged",
                           file->path, k, r->pairs[k], r->n[k], r->violations[k]);
    }
    Interval accuracy = wilson_interval(right, r->pairs[k]), rate = wilson_interval(r->violations[k], r->n[k]);
    bool same = isnan(r->accuracy[k]) == (r->pairs[k] == 0) && is_near(accuracy.low, r->accuracy_low[k]) &&
                is_near(accuracy.high, r->accuracy_high[k]) &&
                is_near(r->n[k] > 0 ? r->violations[k] / n : NAN, r->violation_rate[k]) &&
                is_near(rate.low, r->violation_rate_low[k]) && is_near(rate.high, r->violation_rate_high[k]) &&
                (r->pairs[k] == 0 || isfinite(r->rewards_margins[k]));
    return same || error_usage(err, "%s: rates and intervals of category %d do not follow from its counts: damaged",
                               file->path, k);
}

static bool check_pairs(const H5File *file, const EvalResult *r, Error *err)
{
    for (int64_t i = 0; i < r->pair_count; i++) {
        bool finite = isfinite(r->logps_chosen[i]) && isfinite(r->logps_rejected[i]) &&
                      isfinite(r->ref_logps_chosen[i]) && isfinite(r->ref_logps_rejected[i]);
        if (!finite || r->index[i] <= (i > 0 ? r->index[i - 1] : -1))
            return error_usage(err,
                               "%s: entry %" PRId64
                               " of /eval/pairs has a log-probability that is not finite, or the wrong row: damaged",
                               file->path, i);
    }
    return true;
}

static bool check_summary(H5File *file, const char *quantity, const Fairness *f, EvalSummary *summary, Error *err)
{
    *summary = (EvalSummary){ f->micro, f->macro, f->worst, f->gap, f->variance };
    double values[EVAL_SUMMARIES];
    list_summary(summary, values);
    for (int i = 0; i < EVAL_SUMMARIES; i++) {
        char name[64];
        double found = NAN;
        snprintf(name, sizeof name, "%s_%s", quantity, summary_names[i]);
        if (!isnan(values[i]) && !h5_read_double(file, "/eval/summary", name, 0, 1, &found, err)) return false;
        if (!is_near(found, values[i]))
            return error_usage(err, "%s: %s of /eval/summary is %g, the categories give %g: damaged", file->path, name,
                               found, values[i]);
    }
    return true;
}

static bool check_summaries(H5File *file, EvalResult *r, Error *err)
{
    double *right = malloc(sizeof *right * (size_t)r->category_count);
    if (!right) return error_fault(err, "%s: no memory to compare rates", file->path);
    for (int k = 0; k < r->category_count; k++) right[k] = r->pairs[k] > 0 ? r->accuracy[k] * (double)r->pairs[k] : 0;
    Fairness accuracy = fairness(right, r->pairs, r->category_harm, r->category_count, WORST_IS_LOWEST);
    Fairness violation = fairness(r->violations, r->n, r->category_harm, r->category_count, WORST_IS_HIGHEST);
    free(right);
    char worst[CATEGORY_NAME];
    const char *wanted = violation.worst_category < 0 ? "" : r->category_name[violation.worst_category];
    return check_summary(file, "accuracy", &accuracy, &r->accuracy_summary, err) &&
           check_summary(file, "violation_rate", &violation, &r->violation_rate_summary, err) &&
           h5_read_string(file, "/eval/summary", "worst_category", worst, sizeof worst, err) &&
           (strcmp(worst, wanted) == 0 ||
            error_usage(err, "%s: names \"%s\" as the worst category, the rates \"%s\": damaged", file->path, worst,
                        wanted));
}

/* All arrays of the file into memory, to which r points afterwards. */
static bool read_result(H5File *file, EvalResult *r, char *memory, Error *err)
{
    const int64_t k = r->category_count;
    r->index = (int64_t *)(void *)memory;
    if (!h5_read_array(file, "/eval/pairs/index", DATA_INT64, 1, &r->pair_count, memory, err)) return false;
    memory += r->pair_count * 8;
    if (!read_columns(file, r, pair_columns, r->pair_count, &memory, err) ||
        !read_columns(file, r, category_columns, k, &memory, err))
        return false;
    char *names = memory, *harm = names + k * CATEGORY_NAME;
    r->category_name = (const char(*)[CATEGORY_NAME])names;
    r->category_harm = (const uint8_t *)harm;
    return h5_read_strings(file, "/categories/name", k, CATEGORY_NAME, names, err) &&
           h5_read_array(file, "/categories/harm", DATA_UINT8, 1, &k, harm, err);
}

bool eval_file_check(H5File *file, EvalSummary *accuracy, EvalSummary *violation_rate, int64_t *pairs, Error *err)
{
    static const char *const texts[] = { "model", "weights_digest", "data_digest", "split", "signal" };
    enum {
        CATEGORY_BYTES = sizeof category_columns / sizeof *category_columns * 8 + CATEGORY_NAME + 1,
        PAIR_BYTES = sizeof pair_columns / sizeof *pair_columns * 8
    };
    CHECK(file->comm == MPI_COMM_NULL);
    EvalResult r = { .pair_count = -1 };
    int64_t categories = 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char *text;
        if (!h5_read_text(file, "/", texts[i], 4096, &text, err)) return false;
        free(text);
    }
    if (!h5_check_format(file, "catdpo-eval", EVAL_VERSION, err) ||
        !h5_read_int64(file, "/", "step", -1, INT64_MAX, &r.step, err) ||
        !h5_read_double(file, "/", "beta", 0, 1e30, &r.beta, err) ||
        !h5_count_strings(file, "/categories/name", 1, CATEGORIES_MAX, &categories, err) ||
        !h5_expect(file, "/eval/pairs/index", DATA_INT64, 1, &r.pair_count, err))
        return false;
    r.category_count = (int)categories;
    char *memory = malloc((size_t)(r.pair_count * PAIR_BYTES + categories * CATEGORY_BYTES));
    bool ok = memory || error_fault(err, "%s: no memory for %" PRId64 " pairs", file->path, r.pair_count);
    ok = ok && read_result(file, &r, memory, err) && check_pairs(file, &r, err);
    for (int k = 0; ok && k < r.category_count; k++) ok = check_category(file, &r, k, err);
    ok = ok && check_summaries(file, &r, err);
    free(memory);
    *accuracy = r.accuracy_summary;
    *violation_rate = r.violation_rate_summary;
    *pairs = r.pair_count;
    return ok;
}
