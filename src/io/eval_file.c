/* eval.h5: per-category results, their summary, and every pair's values. */
#include "catdpo/evalfile.h"

#include "catdpo/h5.h"

#include <stdio.h>

enum { EVAL_VERSION = 1 };

typedef struct Column {
    const char *dataset;
    DataType type;
    const void *values;
    const char *units, *description;
} Column;

static bool write_columns(H5File *file, int count, const Column columns[], int64_t rows, const char *label, const char *scale,
                          Error *err)
{
    for (int i = 0; i < count; i++) {
        const Column *c = &columns[i];
        if (!h5_write_array(file, c->dataset, c->type, 1, &rows, c->values, err)
            || !h5_describe(file, c->dataset, c->units, c->description, err)
            || !h5_label_axis(file, c->dataset, 0, label, scale, err)) return false;
    }
    return true;
}

static bool write_categories(H5File *file, const EvalResult *r, Error *err)
{
    const int64_t k = r->category_count;
    const Column columns[] = {
        { "/eval/category/pairs", DATA_INT64, r->pairs, "1", "pairs of the category" },
        { "/eval/category/accuracy", DATA_FLOAT64, r->accuracy, "1", "share of pairs with h > 0, ties one half" },
        { "/eval/category/accuracy_low", DATA_FLOAT64, r->accuracy_low, "1", "lower end of its Wilson 95 % interval" },
        { "/eval/category/accuracy_high", DATA_FLOAT64, r->accuracy_high, "1", "upper end of its Wilson 95 % interval" },
        { "/eval/category/n", DATA_INT64, r->n, "1", "pairs with a safe chosen and an unsafe rejected response" },
        { "/eval/category/violations", DATA_FLOAT64, r->violations, "1", "violations among these n pairs, ties one half" },
        { "/eval/category/violation_rate", DATA_FLOAT64, r->violation_rate, "1", "violations / n" },
        { "/eval/category/violation_rate_low", DATA_FLOAT64, r->violation_rate_low, "1", "lower end of its Wilson 95 % interval" },
        { "/eval/category/violation_rate_high", DATA_FLOAT64, r->violation_rate_high, "1", "upper end of its Wilson 95 % interval" },
        { "/eval/category/rewards_margins", DATA_FLOAT64, r->rewards_margins, "nat", "mean of beta h over the pairs" },
    };
    return h5_write_strings(file, "/categories/name", k, CATEGORY_NAME, r->category_name[0], err)
        && h5_make_scale(file, "/categories/name", "category", err)
        && h5_write_array(file, "/categories/harm", DATA_UINT8, 1, &k, r->category_harm, err)
        && h5_describe(file, "/categories/harm", "1", "1: the margin applies to some pair of the category", err)
        && h5_label_axis(file, "/categories/harm", 0, "category", "/categories/name", err)
        && write_columns(file, sizeof columns / sizeof columns[0], columns, k, "category", "/categories/name", err);
}

static bool write_summary(H5File *file, const char *quantity, const EvalSummary *s, Error *err)
{
    const struct { const char *name; double value; } entries[] = {
        { "micro", s->micro }, { "macro", s->macro }, { "worst", s->worst }, { "gap", s->gap }, { "variance", s->variance },
    };
    for (int i = 0; i < 5; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s_%s", quantity, entries[i].name);
        if (!h5_write_double(file, "/eval/summary", name, entries[i].value, err)) return false;
    }
    return true;
}

static bool write_pairs(H5File *file, const EvalResult *r, Error *err)
{
    const Column columns[] = {
        { "/eval/pairs/logps_chosen", DATA_FLOAT64, r->logps_chosen, "nat", "log-probability of the chosen completion" },
        { "/eval/pairs/logps_rejected", DATA_FLOAT64, r->logps_rejected, "nat", "log-probability of the rejected completion" },
        { "/eval/pairs/ref_logps_chosen", DATA_FLOAT64, r->ref_logps_chosen, "nat", "the same under the frozen reference" },
        { "/eval/pairs/ref_logps_rejected", DATA_FLOAT64, r->ref_logps_rejected, "nat", "the same under the frozen reference" },
        { "/eval/pairs/violation", DATA_FLOAT64, r->violation, "1", "0, 0.5 (tie) or 1; NaN where the margin does not apply" },
    };
    return h5_write_array(file, "/eval/pairs/index", DATA_INT64, 1, &r->pair_count, r->index, err)
        && h5_describe(file, "/eval/pairs/index", "1", "row of the split in pairs.h5", err)
        && h5_make_scale(file, "/eval/pairs/index", "pair", err)
        && write_columns(file, sizeof columns / sizeof columns[0], columns, r->pair_count, "pair", "/eval/pairs/index", err);
}

bool eval_file_write(const char *path, const EvalResult *r, MPI_Comm comm, Error *err)
{
    H5File file;
    bool ok = h5_create(&file, path, comm, err) && h5_write_format(&file, "catdpo-eval", EVAL_VERSION, err)
        && h5_write_string(&file, "/", "model", r->model, err)
        && h5_write_string(&file, "/", "weights_digest", r->weights_digest, err)
        && h5_write_string(&file, "/", "data_digest", r->data_digest, err)
        && h5_write_string(&file, "/", "split", r->split, err)
        && h5_write_int64(&file, "/", "step", r->step, err)
        && h5_write_string(&file, "/", "signal", r->signal, err)
        && h5_write_double(&file, "/", "beta", r->beta, err)
        && write_categories(&file, r, err)
        && h5_create_group(&file, "/eval/summary", err)
        && write_summary(&file, "accuracy", &r->accuracy_summary, err)
        && write_summary(&file, "violation_rate", &r->violation_rate_summary, err)
        && h5_write_string(&file, "/eval/summary", "worst_category", r->worst_category, err)
        && write_pairs(&file, r, err) && h5_commit(&file, err);
    h5_close(&file);
    return ok;
}
