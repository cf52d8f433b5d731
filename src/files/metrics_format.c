/* What metrics.h5 holds. */
#include "metrics_private.h"

#include <math.h>
#include <stddef.h>

static const FieldAxis axes[METRICS_AXES] = {
    [STEP] = { .label = "step", .scale = "/train/step", .most = INT64_MAX, .grows = true },
    [CATEGORY] = { .label = "category", .scale = "/categories/name", .least = 1, .most = CATEGORIES_MAX },
    [PAIR] = { .label = "pair", .least = 1, .most = INT32_MAX },
    [PHASE] = { .label = "phase", .scale = "/timing/phase", .least = 1, .most = 256 },
    [RANK] = { .label = "rank", .least = 1, .most = INT32_MAX },
};

/* ---- the head ---------------------------------------------------------------------------------------------------- */

#define HEAD(member) .offset = offsetof(MetricsHead, member)
#define TEXT(name)                                                                                                     \
    {                                                                                                                  \
        "/", #name, FIELD_STRING, HEAD(info.name), .size = 1 << 20                                                     \
    }

static const Field head[] = {
    TEXT(run),
    TEXT(grid),
    TEXT(version),
    TEXT(mpi),
    TEXT(blas),
    TEXT(hosts),
    TEXT(started),
    TEXT(data_digest),
    TEXT(weights_digest),
    TEXT(tokenizer_digest),
    TEXT(settings),
    { "/", "hdf5", FIELD_STRING, HEAD(hdf5), .size = 64 },
    { "/", "sgemm_gflops", FIELD_NUMBER, HEAD(info.sgemm_gflops), .most = 1e9 },
    { "/", "parameters", FIELD_INT, HEAD(info.parameters), .most = INT64_MAX, .optional = true },
    { "/", "trainable_parameters", FIELD_INT, HEAD(info.trainable_parameters), .most = INT64_MAX, .optional = true },
    { "/", "restarts", FIELD_INT, HEAD(restarts), .most = INT32_MAX },
    { "/config", NULL, FIELD_STRING, HEAD(info.config), .size = 1 << 20 },

    { "/categories/name", NULL, FIELD_NAMES, HEAD(info.category_name), .size = CATEGORY_NAME, .axes = 1,
      .axis = { CATEGORY } },
    { "/categories/harm", NULL, FIELD_ARRAY, HEAD(info.category_harm), .type = DATA_UINT8, .axes = 1,
      .axis = { CATEGORY }, .most = 1, .units = "1",
      .description = "1: the margin applies to some pair of the category" },
    { "/timing/phase", NULL, FIELD_NAMES, HEAD(phase), .size = CATEGORY_NAME, .axes = 1, .axis = { PHASE } },

    { "/train/partial/n", NULL, FIELD_ARRAY, HEAD(partial_n), .type = DATA_INT64, .axes = 2, .axis = { RANK, CATEGORY },
      .most = INT64_MAX, .units = "1",
      .description = "a rank's share of category/n over the steps first_step to last_step", .since = 2 },
    { "/train/partial/violations", NULL, FIELD_ARRAY, HEAD(partial_violations), .type = DATA_INT64, .axes = 2,
      .axis = { RANK, CATEGORY }, .most = INT64_MAX, .units = "1",
      .description = "a rank's share of category/violations over the same steps, in the attribute `unit`", .since = 2 },
    { "/train/partial/violations", "unit", FIELD_NUMBER, HEAD(info.partial_unit), .least = 1e-12, .most = 1 },
    { "/train/partial", "first_step", FIELD_INT, HEAD(partial_first), .least = 1, .most = INT64_MAX, .since = 2 },
    { "/train/partial", "last_step", FIELD_INT, HEAD(partial_last), .most = INT64_MAX, .since = 2 },
    { .kind = FIELD_END },
};

const Format metrics_head = { METRICS_FORMAT, METRICS_VERSION, head, axes, METRICS_AXES, NULL };

/* ---- the columns ------------------------------------------------------------------------------------------------- */

/* A new metric is a field of StepMetrics and a row here. */
#define COLUMN(name, data, member, unit, text, ...)                                                                    \
    {                                                                                                                  \
        name, NULL, FIELD_ARRAY, offsetof(StepMetrics, member), .type = data, .units = unit, .description = text,      \
                                                                __VA_ARGS__                                            \
    }
#define SCALAR(...)       .axes = 1, .axis = { STEP }, __VA_ARGS__
#define PER_CATEGORY(...) .axes = 2, .axis = { STEP, CATEGORY }, __VA_ARGS__
#define PER_PAIR(...)     .axes = 2, .axis = { STEP, PAIR }, __VA_ARGS__
#define PER_PHASE(...)    .axes = 2, .axis = { STEP, PHASE }, __VA_ARGS__

#define ANY      .least = -INFINITY, .most = INFINITY, .nan = true /* a step that failed, or without a pair of its kind */
#define COUNT    .most = INT64_MAX
#define POSITIVE .most = 1e300
#define SHARE    .most = 1, .nan = true
#define RATE     .most = 1
#define FLAG     .most = 1
#define OLD_PART .axes = 3, .axis = { STEP, RANK, CATEGORY }, .least = -1, .most = INT64_MAX, .until = 1

static const Field columns[] = {
    COLUMN("/train/step", DATA_INT64, step, "1", "optimiser step, from 1", SCALAR(COUNT)),
    COLUMN("/train/epoch", DATA_FLOAT64, epoch, "1", "passes over the training pairs so far", SCALAR(POSITIVE)),
    COLUMN("/train/loss", DATA_FLOAT64, loss, "nat", "mean loss of the step's pairs", SCALAR(ANY)),
    COLUMN("/train/learning_rate", DATA_FLOAT64, learning_rate, "1", "learning rate of this step", SCALAR(POSITIVE)),
    COLUMN("/train/grad_norm", DATA_FLOAT64, grad_norm, "1", "global gradient norm before clipping", SCALAR(ANY)),
    COLUMN("/train/clipped", DATA_UINT8, clipped, "1", "1: the gradient was scaled down to the limit", SCALAR(FLAG)),
    COLUMN("/train/skipped", DATA_UINT8, skipped, "1", "1: loss or gradient was not finite, so nothing was updated",
           SCALAR(FLAG)),
    COLUMN("/train/num_tokens", DATA_INT64, num_tokens, "1", "tokens since the start of training", SCALAR(COUNT)),
    COLUMN("/train/entropy", DATA_FLOAT64, entropy, "nat", "mean entropy of a completion token", SCALAR(ANY)),
    COLUMN(
        "/train/kl", DATA_FLOAT64, kl, "nat",
        "baseline: mean log-ratio to the reference of completions of other prompts, from 0 on; NaN: the objective has "
        "none",
        SCALAR(ANY, .since = 2)),
    COLUMN("/train/mean_token_accuracy", DATA_FLOAT64, mean_token_accuracy, "1",
           "share of the chosen completions' tokens that are the most likely one", SCALAR(SHARE)),
    COLUMN("/train/adversary/radius", DATA_FLOAT64, radius, "1",
           "length of a token's perturbation at most, in the units of the embeddings; NaN: there is no adversary",
           SCALAR(POSITIVE, .nan = true, .since = 2)),
    COLUMN("/train/adversary/clean_loss", DATA_FLOAT64, clean_loss, "nat",
           "mean loss of the step's pairs without the perturbation; NaN: there is no adversary",
           SCALAR(ANY, .since = 2)),
    COLUMN("/train/rewards/chosen", DATA_FLOAT64, rewards_chosen, "nat", "beta * (logp - reference), mean",
           SCALAR(ANY)),
    COLUMN("/train/rewards/rejected", DATA_FLOAT64, rewards_rejected, "nat", "beta * (logp - reference), mean",
           SCALAR(ANY)),
    COLUMN("/train/rewards/margins", DATA_FLOAT64, rewards_margins, "nat", "chosen less rejected, mean", SCALAR(ANY)),
    COLUMN("/train/rewards/accuracies", DATA_FLOAT64, rewards_accuracies, "1", "share with chosen > rejected",
           SCALAR(SHARE)),
    COLUMN("/train/logps/chosen", DATA_FLOAT64, logps_chosen, "nat", "log-probability of a completion, mean",
           SCALAR(ANY)),
    COLUMN("/train/logps/rejected", DATA_FLOAT64, logps_rejected, "nat", "log-probability of a completion, mean",
           SCALAR(ANY)),
    COLUMN("/train/logits/chosen", DATA_FLOAT64, logits_chosen, "1", "mean logit on completion tokens", SCALAR(ANY)),
    COLUMN("/train/logits/rejected", DATA_FLOAT64, logits_rejected, "1", "mean logit on completion tokens",
           SCALAR(ANY)),

    COLUMN("/train/category/margin", DATA_FLOAT64, margin, "nat", "safety margin used in this step", PER_CATEGORY()),
    COLUMN("/train/category/violation_rate", DATA_FLOAT64, violation_rate, "1",
           "running violation rate after this step", PER_CATEGORY(RATE)),
    COLUMN("/train/category/n", DATA_INT64, n, "1", "pairs to which the margin applies", PER_CATEGORY(COUNT)),
    COLUMN("/train/category/violations", DATA_FLOAT64, violations, "1", "violations among n, ties one half",
           PER_CATEGORY(POSITIVE)),
    COLUMN("/train/category/pairs", DATA_INT64, pairs, "1", "all pairs of the category", PER_CATEGORY(COUNT)),
    COLUMN("/train/category/rewards_margins", DATA_FLOAT64, category_rewards_margins, "nat",
           "chosen less rejected reward, mean over the category's pairs", PER_CATEGORY(ANY)),
    COLUMN("/train/category/accuracy", DATA_FLOAT64, category_accuracy, "1",
           "share of the category's pairs with chosen > rejected", PER_CATEGORY(SHARE)),
    COLUMN("/train/category/loss", DATA_FLOAT64, category_loss, "nat", "mean over the category's pairs",
           PER_CATEGORY(ANY)),

    COLUMN("/train/category/standard_error", DATA_FLOAT64, standard_error, "1", "standard error of violation_rate",
           PER_CATEGORY(SHARE, .since = 2)),
    COLUMN(
        "/train/category/probe_n", DATA_FLOAT64, probe_n, "1",
        "probe before this step: answers that were judged, or pairs; they moved rate and margin before the step. NaN: "
        "no probe",
        PER_CATEGORY(.most = 1e15, .nan = true, .since = 2)),
    COLUMN("/train/category/probe_violations", DATA_FLOAT64, probe_violations, "1",
           "probe before this step: unsafe answers, or pairs that violate, ties one half; NaN: no probe",
           PER_CATEGORY(.most = 1e15, .nan = true, .since = 2)),
    COLUMN(
        "/train/category/coefficient_share", DATA_FLOAT64, coefficient_share, "1",
        "part of the sum of |d loss / d log-prob| over the step's pairs that the category's pairs have: its share of "
        "the gradient as far as that is known without a gradient for each category",
        PER_CATEGORY(SHARE, .since = 2)),
    COLUMN("/train/category/saturation", DATA_FLOAT64, saturation, "1",
           "mean of sigmoid(offset - beta h) over the category's pairs: 0: they pull no more",
           PER_CATEGORY(SHARE, .since = 2)),
    COLUMN("/train/category/clean_violations", DATA_FLOAT64, clean_violations, "1",
           "violations among n without the perturbation; NaN: there is no adversary",
           PER_CATEGORY(POSITIVE, .nan = true, .since = 2)),
    COLUMN("/train/category/attacked_violations", DATA_FLOAT64, attacked_violations, "1",
           "violations among n with the perturbation; NaN: there is no adversary",
           PER_CATEGORY(POSITIVE, .nan = true, .since = 2)),

    COLUMN("/train/pairs", DATA_INT64, pair_index, "1", "rows of /train in pairs.h5; -1: none",
           PER_PAIR(.least = -1, .most = INT64_MAX)),
    COLUMN("/train/pair/logps_chosen", DATA_FLOAT64, pair_logps[0], "nat",
           "log-probability of the chosen completion of each of `pairs`", PER_PAIR(ANY, .tag = COUNTED, .since = 2)),
    COLUMN("/train/pair/logps_rejected", DATA_FLOAT64, pair_logps[1], "nat",
           "log-probability of the rejected completion", PER_PAIR(ANY, .tag = COUNTED, .since = 2)),
    COLUMN("/train/pair/ref_logps_chosen", DATA_FLOAT64, pair_ref_logps[0], "nat",
           "the same under the frozen reference", PER_PAIR(ANY, .since = 2)),
    COLUMN("/train/pair/ref_logps_rejected", DATA_FLOAT64, pair_ref_logps[1], "nat",
           "the same under the frozen reference", PER_PAIR(ANY, .since = 2)),

    COLUMN("/timing/seconds", DATA_FLOAT64, phase_seconds, "s", "time by phase, largest over the ranks",
           PER_PHASE(POSITIVE, .tag = LARGEST)),
    COLUMN("/timing/step_seconds", DATA_FLOAT64, step_seconds, "s", "time of the step, largest over the ranks",
           SCALAR(POSITIVE, .tag = LARGEST)),
    COLUMN("/timing/step_flops", DATA_FLOAT64, step_flops, "1", "floating-point operations of all products, all ranks",
           SCALAR(POSITIVE)),
    COLUMN("/timing/wall_time", DATA_FLOAT64, wall_time, "s",
           "end of the step in seconds since 1970-01-01 00:00 UTC, by rank 0's clock", SCALAR(ANY, .since = 2)),

    COLUMN("/train/partial/n", DATA_INT64, n, "1", "a rank's share of category/n; -1: no such rank", OLD_PART),
    COLUMN("/train/partial/violations", DATA_INT64, n, "1", "a rank's share of category/violations", OLD_PART),
    { .kind = FIELD_END },
};

const Format metrics_columns = { METRICS_FORMAT, METRICS_VERSION, columns, axes, METRICS_AXES, NULL };
