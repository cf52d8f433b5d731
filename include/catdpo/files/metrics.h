/* metrics.h5: what happened in each step, for h5py and for replaying a run.
 *
 * Rows are buffered in memory; metrics_flush gathers what lies on other ranks, and rank 0 adds them to the file
 * (h5_extend). So metrics.h5 is complete at any instant and holds every step up to some flush, and a flush costs what
 * it adds: it does not depend on the steps that are there, and of the ranks only one MPI_Reduce and one MPI_Gather of
 * 16 bytes a category do. Each rank's counts are kept for the steps since the last flush alone, summed over them
 * (/train/partial): one step's say no more, and a row of them a step would be most of the file on many ranks. Flush
 * before a checkpoint is committed: then the file has every step that a resumed run builds on.
 */
#ifndef CATDPO_FILES_METRICS_H
#define CATDPO_FILES_METRICS_H

#include "catdpo/data/pairs.h"
#include "catdpo/h5/fields.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

#define METRICS_FORMAT "catdpo-metrics"
enum { METRICS_VERSION = 2 }; /* 1: no log-probs of pairs, no times of day, partial counts of every step */

/* One step. Fields are equal on all ranks except where "this rank" is said; NaN = no value, and so is NULL for an array
 * of real numbers that may have none. Arrays are not owned and read only during metrics_append. K categories, B pairs a
 * step, P phases. Datasets: the table in src/files/metrics_format.c. */
typedef struct StepMetrics {
    int64_t step; /* 1-based */
    double epoch;
    double loss; /* nats */
    double learning_rate;
    double grad_norm;   /* before clipping */
    uint8_t clipped;    /* 1: the gradient was scaled down */
    uint8_t skipped;    /* 1: loss or gradient not finite, no update */
    int64_t num_tokens; /* since the start of training */
    double entropy;     /* nats a completion token */
    double kl;          /* nats: the baseline of the step, NaN: none */
    double mean_token_accuracy;
    double radius;                           /* of the adversary, in the units of the embeddings; NaN: there is none */
    double clean_loss;                       /* nats: of the prompts without the perturbation; NaN likewise */
    double rewards_chosen, rewards_rejected; /* beta * log-ratios, no safety margin */
    double rewards_margins, rewards_accuracies;
    double logps_chosen, logps_rejected; /* nats a completion, summed over its tokens */
    double logits_chosen, logits_rejected;

    const double *margin;                                                       /* [K] used in this step */
    const double *violation_rate;                                               /* [K] running, after this step */
    const int64_t *n;                                                           /* [K] pairs with s = 1 */
    const double *violations;                                                   /* [K] ties count one half */
    const int64_t *pairs;                                                       /* [K] all pairs */
    const double *category_rewards_margins, *category_accuracy, *category_loss; /* [K] means over all pairs of it */

    const double *coefficient_share; /* [K] of the sum of |d loss / d log-prob| of all pairs, those of the category */
    const double *saturation;        /* [K] mean of sigmoid(offset - beta h) over all pairs of it */
    const double *standard_error;    /* [K] of violation_rate */
    const double *clean_violations, *attacked_violations; /* [K] without and with the perturbation; NaN likewise */
    const double *probe_n, *probe_violations; /* [K] counts of the probe before this step; NaN: there was none */

    const int64_t *partial_n;          /* [K] this rank's share of n */
    const int64_t *partial_violations; /* [K] this rank's share of violations, in MetricsInfo.partial_unit */

    const int64_t *pair_index;                /* [B] rows of /train in pairs.h5; -1: none */
    const double *pair_logps[PAIR_SIDES];     /* [B] nats; infinite where another rank has it, or none */
    const double *pair_ref_logps[PAIR_SIDES]; /* [B] nats, under the frozen reference; NaN: no such pair */

    const double *phase_seconds; /* [P] this rank; the largest over the ranks is stored */
    double step_seconds;         /* this rank; as above */
    double step_flops;           /* floating-point operations of all products, all ranks together */
    double wall_time;            /* when the step ended, seconds since 1970 in UTC; rank 0's is stored */
} StepMetrics;

/* What is written once. Strings and arrays are not owned and read only during metrics_create and metrics_resume.
 * Equal on all ranks. */
typedef struct MetricsInfo {
    const char *folder; /* where unfinished files lie; NULL: beside metrics.h5 */
    const char *run, *grid /* "DxRxC" */, *version, *mpi, *blas, *hosts, *started /* ISO 8601 */;
    const char *data_digest, *weights_digest, *tokenizer_digest, *settings;
    const char *config;                         /* resolved config, text */
    int category_count;                         /* K */
    const char (*category_name)[CATEGORY_NAME]; /* [K] */
    const uint8_t *category_harm;               /* [K] */
    int64_t parameters, trainable_parameters;   /* of the model with its adapters; those that training changes */
    int64_t pairs_per_step;                     /* B */
    int phase_count;                            /* P */
    const char *const *phase_name;              /* [P] */
    double partial_unit;                        /* e.g. 0.5 */
    double sgemm_gflops;                        /* measured sgemm rate of a rank, GF/s */
    int64_t capacity;                           /* rows buffered between two flushes, >= 1 */
} MetricsInfo;

typedef struct Metrics Metrics;

/* A new file without rows, replacing an earlier one. Collective over comm (not owned; it outlives the Metrics). NULL
 * on failure, agreed. */
Metrics *metrics_create(const char *path, const MetricsInfo *info, MPI_Comm comm, Error *err);
/* Continue an existing file after `step`: its rows up to that are copied into a new one of today's version (committed
 * before this returns), and the next row must be step + 1. The number of ranks and of pairs a step may have changed;
 * categories and phases may not. Refuses a file that does not reach `step`. Collective. */
Metrics *metrics_resume(const char *path, const MetricsInfo *info, int64_t step, MPI_Comm comm, Error *err);

/* Copy one row, whose step follows the one before, into the buffer, which must not be full. No I/O, no allocation,
 * not collective. */
void metrics_append(Metrics *metrics, const StepMetrics *row);
/* The next metrics_append needs a metrics_flush first; the same on all ranks that appended as often. */
bool metrics_full(const Metrics *metrics);
/* Write the buffered rows and commit; nothing to do without rows. After a failure the file is as before and the rows
 * are kept for another attempt. Collective; all ranks must have appended the same steps. */
bool metrics_flush(Metrics *metrics, Error *err);
/* Rows not flushed are lost. Not collective. NULL is harmless. */
void metrics_free(Metrics *metrics);

/* Bytes that the columns take on disk. */
double metrics_bytes(int64_t steps, int64_t categories, int64_t pairs, int64_t phases);

/* What metrics_check found. */
typedef struct MetricsSummary {
    char grid[64], started[64];
    int64_t steps, restarts, categories;
    int64_t ranks; /* of the last run; in version 1 the most that any had */
    int64_t pairs; /* a step, the most that any run had */
    char name[CATEGORIES_MAX][CATEGORY_NAME];
    uint8_t harm[CATEGORIES_MAX];
} MetricsSummary;

/* Verify an open file: names and shapes of all columns, their checksums, steps 1 to n, values within their bounds, and
 * counts that agree with each other and with the ranks'. By a process alone (a file opened with MPI_COMM_NULL). */
bool metrics_check(H5File *file, MetricsSummary *summary, Error *err);

#endif
