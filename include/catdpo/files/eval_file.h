/* eval.h5: the results of catdpo eval. */
#ifndef CATDPO_FILES_EVAL_FILE_H
#define CATDPO_FILES_EVAL_FILE_H

#include "catdpo/h5/fields.h"
#include "catdpo/data/pairs.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

/* Over harm categories with n > 0; NaN without any. */
typedef struct EvalSummary {
    double micro, macro, worst, gap, variance;
} EvalSummary;

/* Violations under an attack, and under perturbations that are drawn; A radii, the first of them 0. */
typedef struct EvalAttack {
    int radii; /* A; 0: there was no attack */
    const char *type, *norm, *unit;
    int64_t steps;
    double step_size, unit_length; /* the latter: mean length of the embeddings, which "relative" is in units of */
    const double *radius;          /* [A] in their unit */
    const double *violations, *violation_rate, *violation_rate_low, *violation_rate_high; /* [A, K] */
    const double *random_violation_rate;                                                  /* [A, K] */
    const double *logps_chosen, *logps_rejected;                                          /* [A, N] nats */
} EvalAttack;

/* Hidden features of completions. */
typedef struct EvalFeatures {
    int size;               /* F; 0: none were kept */
    const float *values;    /* [N, sides, F] */
    const uint64_t *prompt; /* [N] equal for pairs of one prompt: a hash of its tokens */
} EvalFeatures;

/* K categories, N pairs. Nothing is owned, unless it was read. NaN = no value. */
typedef struct EvalResult {
    const char *model, *weights_digest, *data_digest, *split, *signal;
    int64_t step; /* of the checkpoint; -1: unknown */
    double beta;
    int category_count;                         /* K */
    const char (*category_name)[CATEGORY_NAME]; /* [K] */
    const uint8_t *category_harm;               /* [K] */

    const int64_t *pairs;                                  /* [K] pairs of the category */
    const double *accuracy, *accuracy_low, *accuracy_high; /* [K] P(h > 0), ties one half; Wilson 95 % */
    const int64_t *n;                                      /* [K] pairs with s = 1 */
    const double *violations;                              /* [K] ties one half */
    const double *violation_rate, *violation_rate_low, *violation_rate_high; /* [K] */
    const double *rewards_margins;                                           /* [K] mean */

    EvalSummary accuracy_summary, violation_rate_summary;
    const char *worst_category; /* "" if there is none */

    int64_t pair_count;                                                                  /* N */
    const double *logps_chosen, *logps_rejected, *ref_logps_chosen, *ref_logps_rejected; /* [N] nats */
    const double *violation; /* [N] 0, 0.5 or 1; NaN where the margin does not apply */
    const int64_t *index;    /* [N] rows of the split in pairs.h5 */

    EvalAttack attack;
    EvalFeatures features;
} EvalResult;

/* Write the file, atomically, replacing an earlier one. Collective over comm: rank 0 writes its values, the verdict
 * is the same everywhere. */
bool eval_file_write(const char *path, const EvalResult *result, MPI_Comm comm, Error *err);

/* Read and verify an open file: shapes, rates in [0, 1], finite log-probabilities, and that rates, intervals and
 * summaries follow from the counts. result owns its strings and arrays, for eval_file_free. Collective over the file's
 * communicator. */
bool eval_file_read(H5File *file, EvalResult *result, Error *err);
void eval_file_free(EvalResult *result); /* of what eval_file_read has filled */

/* The file itself, and what it may have besides. */
extern const Format eval_format, eval_attack_format, eval_features_format;

#endif
