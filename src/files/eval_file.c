/* eval.h5: per-category results, their summary, and every pair's values. */
#include "catdpo/files/eval_file.h"

#include "catdpo/h5/fields.h"
#include "catdpo/objective/statistics.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* ---- the format -------------------------------------------------------------------------------------------------- */

enum { CATEGORY, PAIR, RADIUS, SIDE, FEATURE, AXES };

static const FieldAxis axes[AXES] = {
    [CATEGORY] = { .label = "category", .scale = "/categories/name", .least = 1, .most = CATEGORIES_MAX },
    [PAIR] = { .label = "pair", .scale = "/eval/pairs/index", .most = INT64_MAX },
    [RADIUS] = { .label = "radius", .scale = "/eval/attack/radius", .least = 1, .most = 1 << 16 },
    [SIDE] = { .label = "side", .least = PAIR_SIDES, .most = PAIR_SIDES },
    [FEATURE] = { .label = "feature", .least = 1, .most = INT32_MAX },
};

#define MEMBER(member) .offset = offsetof(EvalResult, member)
#define STRING(name, member)                                                                                           \
    {                                                                                                                  \
        "/", name, FIELD_STRING, MEMBER(member), .size = 4096                                                          \
    }
#define SUMMARY(name, member)                                                                                          \
    {                                                                                                                  \
        "/eval/summary", name, FIELD_NUMBER, MEMBER(member), .most = 1, .nan = true                                    \
    }
#define ARRAY(name, data, along, member, unit, text, ...)                                                              \
    {                                                                                                                  \
        name, NULL, FIELD_ARRAY, MEMBER(member), .type = data, .axes = 1, .axis = { along }, .units = unit,            \
                                                 .description = text, __VA_ARGS__                                      \
    }
#define COUNTS  .most = INT64_MAX
#define RATE    .most = 1, .nan = true
#define NUMBERS .nan = true

static const Field fields[] = {
    STRING("model", model),
    STRING("weights_digest", weights_digest),
    STRING("data_digest", data_digest),
    STRING("split", split),
    STRING("signal", signal),
    { "/", "step", FIELD_INT, MEMBER(step), .least = -1, .most = INT64_MAX },
    { "/", "beta", FIELD_NUMBER, MEMBER(beta), .most = 1e30 },

    { "/categories/name", NULL, FIELD_NAMES, MEMBER(category_name), .size = CATEGORY_NAME, .axes = 1,
      .axis = { CATEGORY } },
    ARRAY("/categories/harm", DATA_UINT8, CATEGORY, category_harm, "1",
          "1: the margin applies to some pair of the category", .most = 1),

    ARRAY("/eval/category/pairs", DATA_INT64, CATEGORY, pairs, "1", "pairs of the category", COUNTS),
    ARRAY("/eval/category/accuracy", DATA_FLOAT64, CATEGORY, accuracy, "1", "share of pairs with h > 0, ties one half",
          RATE),
    ARRAY("/eval/category/accuracy_low", DATA_FLOAT64, CATEGORY, accuracy_low, "1",
          "lower end of its Wilson 95 % interval", RATE),
    ARRAY("/eval/category/accuracy_high", DATA_FLOAT64, CATEGORY, accuracy_high, "1",
          "upper end of its Wilson 95 % interval", RATE),
    ARRAY("/eval/category/n", DATA_INT64, CATEGORY, n, "1", "pairs with a safe chosen and an unsafe rejected response",
          COUNTS),
    ARRAY("/eval/category/violations", DATA_FLOAT64, CATEGORY, violations, "1",
          "violations among these n pairs, ties one half", .most = INT64_MAX),
    ARRAY("/eval/category/violation_rate", DATA_FLOAT64, CATEGORY, violation_rate, "1", "violations / n", RATE),
    ARRAY("/eval/category/violation_rate_low", DATA_FLOAT64, CATEGORY, violation_rate_low, "1",
          "lower end of its Wilson 95 % interval", RATE),
    ARRAY("/eval/category/violation_rate_high", DATA_FLOAT64, CATEGORY, violation_rate_high, "1",
          "upper end of its Wilson 95 % interval", RATE),
    ARRAY("/eval/category/rewards_margins", DATA_FLOAT64, CATEGORY, rewards_margins, "nat",
          "mean of beta h over the pairs", NUMBERS),

    SUMMARY("accuracy_micro", accuracy_summary.micro),
    SUMMARY("accuracy_macro", accuracy_summary.macro),
    SUMMARY("accuracy_worst", accuracy_summary.worst),
    SUMMARY("accuracy_gap", accuracy_summary.gap),
    SUMMARY("accuracy_variance", accuracy_summary.variance),
    SUMMARY("violation_rate_micro", violation_rate_summary.micro),
    SUMMARY("violation_rate_macro", violation_rate_summary.macro),
    SUMMARY("violation_rate_worst", violation_rate_summary.worst),
    SUMMARY("violation_rate_gap", violation_rate_summary.gap),
    SUMMARY("violation_rate_variance", violation_rate_summary.variance),
    { "/eval/summary", "worst_category", FIELD_STRING, MEMBER(worst_category), .size = CATEGORY_NAME },

    ARRAY("/eval/pairs/index", DATA_INT64, PAIR, index, "1", "row of the split in pairs.h5", COUNTS),
    ARRAY("/eval/pairs/logps_chosen", DATA_FLOAT64, PAIR, logps_chosen, "nat",
          "log-probability of the chosen completion", ),
    ARRAY("/eval/pairs/logps_rejected", DATA_FLOAT64, PAIR, logps_rejected, "nat",
          "log-probability of the rejected completion", ),
    ARRAY("/eval/pairs/ref_logps_chosen", DATA_FLOAT64, PAIR, ref_logps_chosen, "nat",
          "the same under the frozen reference; NaN without one", NUMBERS),
    ARRAY("/eval/pairs/ref_logps_rejected", DATA_FLOAT64, PAIR, ref_logps_rejected, "nat",
          "the same under the frozen reference; NaN without one", NUMBERS),
    ARRAY("/eval/pairs/violation", DATA_FLOAT64, PAIR, violation, "1",
          "0, 0.5 (tie) or 1; NaN where the margin does not apply", RATE),
    { .kind = FIELD_END },
};

const Format eval_format = { "catdpo-eval", 1, fields, axes, AXES, NULL };

/* ---- what a file may have besides -------------------------------------------------------------------------------- */

#define ATTACK(member) .offset = offsetof(EvalAttack, member)
#define BY_RADIUS(name, along, member, unit, text, ...)                                                                \
    {                                                                                                                  \
        "/eval/attack/" name, NULL, FIELD_ARRAY, ATTACK(member),                                                       \
            .type = DATA_FLOAT64, .axes = 2, .axis = { RADIUS, along }, .units = unit, .description = text,            \
            __VA_ARGS__                                                                                                \
    }

static const Field attack_fields[] = {
    { "/eval/attack", "type", FIELD_STRING, ATTACK(type), .size = 64 },
    { "/eval/attack", "norm", FIELD_STRING, ATTACK(norm), .size = 64 },
    { "/eval/attack", "unit", FIELD_STRING, ATTACK(unit), .size = 64 },
    { "/eval/attack", "steps", FIELD_INT, ATTACK(steps), .least = 1, .most = INT32_MAX },
    { "/eval/attack", "step_size", FIELD_NUMBER, ATTACK(step_size), .most = 1e300 },
    { "/eval/attack", "unit_length", FIELD_NUMBER, ATTACK(unit_length), .most = 1e300 },
    { "/eval/attack/radius", NULL, FIELD_ARRAY, ATTACK(radius), .type = DATA_FLOAT64, .axes = 1, .axis = { RADIUS },
      .most = 1e300, .units = "1",
      .description = "length of a token's perturbation at most, in the attribute `unit` of the group" },
    BY_RADIUS("violations", CATEGORY, violations, "1", "violations among n pairs, ties one half", .most = INT64_MAX),
    BY_RADIUS("violation_rate", CATEGORY, violation_rate, "1", "violations / n", RATE),
    BY_RADIUS("violation_rate_low", CATEGORY, violation_rate_low, "1", "lower end of its Wilson 95 % interval", RATE),
    BY_RADIUS("violation_rate_high", CATEGORY, violation_rate_high, "1", "upper end of its Wilson 95 % interval", RATE),
    BY_RADIUS("random_violation_rate", CATEGORY, random_violation_rate, "1",
              "the same under perturbations of that length whose direction is drawn", RATE),
    BY_RADIUS("logps_chosen", PAIR, logps_chosen, "nat", "log-probability of the chosen completion", ),
    BY_RADIUS("logps_rejected", PAIR, logps_rejected, "nat", "log-probability of the rejected completion", ),
    { .kind = FIELD_END },
};

static const Field feature_fields[] = {
    { "/eval/pairs/prompt", NULL, FIELD_ARRAY, .offset = offsetof(EvalFeatures, prompt), .type = DATA_UINT64, .axes = 1,
      .axis = { PAIR }, .units = "1", .description = "equal for pairs of one prompt: a hash of its tokens" },
    { "/eval/pairs/features", NULL, FIELD_ARRAY, .offset = offsetof(EvalFeatures, values), .type = DATA_FLOAT32,
      .axes = 3, .axis = { PAIR, SIDE, FEATURE }, .units = "1",
      .description = "mean over the completion's tokens of the last hidden state that predicts each, chosen then "
                     "rejected" },
    { .kind = FIELD_END },
};

const Format eval_attack_format = { "catdpo-eval", 1, attack_fields, axes, AXES, NULL };
const Format eval_features_format = { "catdpo-eval", 1, feature_fields, axes, AXES, NULL };

bool eval_file_write(const char *path, const EvalResult *r, MPI_Comm comm, Error *err)
{
    H5File file;
    const int64_t lengths[AXES] = { [CATEGORY] = r->category_count,
                                    [PAIR] = r->pair_count,
                                    [RADIUS] = r->attack.radii,
                                    [SIDE] = PAIR_SIDES,
                                    [FEATURE] = r->features.size };
    bool ok = h5_create(&file, path, NULL, comm, err) &&
              h5_write_format(&file, eval_format.name, eval_format.version, err) &&
              fields_write(&file, &eval_format, r, lengths, err) &&
              (r->attack.radii == 0 || fields_write(&file, &eval_attack_format, &r->attack, lengths, err)) &&
              (r->features.size == 0 || fields_write(&file, &eval_features_format, &r->features, lengths, err)) &&
              h5_commit(&file, err);
    h5_close(&file);
    return ok;
}

/* ---- verifying --------------------------------------------------------------------------------------------------- */

static bool is_near(double a, double b) { return (isnan(a) && isnan(b)) || fabs(a - b) <= 1e-9 * (1 + fabs(a)); }

/* What the file says of a category follows from its counts. */
static bool check_category(const H5File *file, const EvalResult *r, int k, Error *err)
{
    double pairs = (double)r->pairs[k], n = (double)r->n[k], right = r->pairs[k] > 0 ? r->accuracy[k] * pairs : 0;
    if (r->n[k] > r->pairs[k] || r->pairs[k] > r->pair_count || !(r->violations[k] <= n + 1e-6)) {
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

static bool check_rows(const H5File *file, const EvalResult *r, Error *err)
{
    for (int64_t i = 1; i < r->pair_count; i++)
        if (r->index[i] <= r->index[i - 1])
            return error_usage(err, "%s: entry %" PRId64 " of /eval/pairs is of the wrong row: damaged", file->path, i);
    return true;
}

static bool check_summary(const H5File *file, const char *quantity, const Fairness *f, const EvalSummary *s, Error *err)
{
    bool same = is_near(f->micro, s->micro) && is_near(f->macro, s->macro) && is_near(f->worst, s->worst) &&
                is_near(f->gap, s->gap) && is_near(f->variance, s->variance);
    return same || error_usage(err,
                               "%s: /eval/summary gives %s as micro %g, macro %g, worst %g, gap %g, variance %g; the "
                               "categories give %g, %g, %g, %g, %g: damaged",
                               file->path, quantity, s->micro, s->macro, s->worst, s->gap, s->variance, f->micro,
                               f->macro, f->worst, f->gap, f->variance);
}

static bool check_summaries(const H5File *file, const EvalResult *r, Error *err)
{
    double *right = malloc(sizeof *right * (size_t)r->category_count);
    if (!right) return error_fault(err, "%s: no memory to compare rates", file->path);
    for (int k = 0; k < r->category_count; k++) right[k] = r->pairs[k] > 0 ? r->accuracy[k] * (double)r->pairs[k] : 0;
    Fairness accuracy = fairness(right, r->pairs, r->category_harm, r->category_count, WORST_IS_LOWEST);
    Fairness violation = fairness(r->violations, r->n, r->category_harm, r->category_count, WORST_IS_HIGHEST);
    free(right);
    const char *worst = violation.worst_category < 0 ? "" : r->category_name[violation.worst_category];
    return check_summary(file, "accuracy", &accuracy, &r->accuracy_summary, err) &&
           check_summary(file, "violation_rate", &violation, &r->violation_rate_summary, err) &&
           (strcmp(r->worst_category, worst) == 0 ||
            error_usage(err, "%s: names \"%s\" as the worst category, the rates \"%s\": damaged", file->path,
                        r->worst_category, worst));
}

/* The first radius is none, and its row is the evaluation itself. */
static bool check_attack(const H5File *file, const EvalResult *r, Error *err)
{
    const EvalAttack *a = &r->attack;
    int k = r->category_count;
    bool same = a->radii == 0 || a->radius[0] == 0;
    for (int i = 1; i < a->radii; i++) same = same && a->radius[i] > a->radius[i - 1];
    for (int i = 0; i < a->radii * k; i++) {
        int64_t n = r->n[i % k];
        Interval rate = wilson_interval(a->violations[i], n);
        same = same && is_near(n > 0 ? a->violations[i] / (double)n : NAN, a->violation_rate[i]) &&
               is_near(rate.low, a->violation_rate_low[i]) && is_near(rate.high, a->violation_rate_high[i]) &&
               (i >= k ||
                (a->violations[i] == r->violations[i] && is_near(a->random_violation_rate[i], r->violation_rate[i])));
    }
    return same || error_usage(err,
                               "%s: /eval/attack does not follow from its counts, or radius 0 is not the evaluation "
                               "without an attack: damaged",
                               file->path);
}

static bool check_result(const H5File *file, const EvalResult *r, Error *err)
{
    for (int k = 0; k < r->category_count; k++)
        if (!check_category(file, r, k, err)) return false;
    return check_rows(file, r, err) && check_attack(file, r, err) && check_summaries(file, r, err);
}

/* Reads a part if the file has it: `object` is there. */
static bool read_part(H5File *file, const Format *format, const char *object, void *values, int64_t lengths[], int axis,
                      int *length, Error *err)
{
    bool exists;
    if (!h5_exists(file, object, &exists, err)) return false;
    if (!exists) return true;
    bool ok = fields_measure(file, format, lengths, err) && fields_read(file, format, values, lengths, err);
    *length = ok ? (int)lengths[axis] : 0;
    return ok;
}

bool eval_file_read(H5File *file, EvalResult *r, Error *err)
{
    int64_t lengths[AXES] = { -1, -1, -1, PAIR_SIDES, -1 };
    *r = (EvalResult){ 0 };
    if (!h5_check_format(file, eval_format.name, eval_format.version, err) ||
        !fields_measure(file, &eval_format, lengths, err) || !fields_read(file, &eval_format, r, lengths, err))
        return false;
    r->category_count = (int)lengths[CATEGORY];
    r->pair_count = lengths[PAIR];
    if (read_part(file, &eval_attack_format, "/eval/attack", &r->attack, lengths, RADIUS, &r->attack.radii, err) &&
        read_part(file, &eval_features_format, "/eval/pairs/features", &r->features, lengths, FEATURE,
                  &r->features.size, err) &&
        check_result(file, r, err))
        return true;
    eval_file_free(r);
    return false;
}

void eval_file_free(EvalResult *r)
{
    fields_free(&eval_format, r);
    fields_free(&eval_attack_format, &r->attack);
    fields_free(&eval_features_format, &r->features);
}
