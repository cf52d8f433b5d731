/* Does this machine compute, talk and store as the program needs it? The first minute on a new site.
 *
 * Every check is a function that adds rows to a report; a row says what was found and, if that is wrong or slow, what
 * to do. Checks are collective over `world`, and the report is the same on every rank.
 */
#ifndef CATDPO_SELFCHECK_SELFCHECK_H
#define CATDPO_SELFCHECK_SELFCHECK_H

#include "catdpo/core/error.h"

#include <stdint.h>

typedef enum { CHECK_OK, CHECK_SLOW, CHECK_WRONG, CHECK_SKIPPED } CheckVerdict;

enum { FINDINGS = 40, FINDING_NAME = 40, FINDING_TEXT = 512 };

typedef struct Finding {
    char name[FINDING_NAME]; /* "gradients" */
    CheckVerdict verdict;
    char found[FINDING_TEXT];  /* what was measured */
    char remedy[FINDING_TEXT]; /* "" if it is ok */
} Finding;

/* What `catdpo plan` can be told of a machine; 0: not measured. */
typedef struct MeasuredRates {
    double sgemm_gflops, psgemm_gflops; /* a rank, all ranks at work */
    double memory_bandwidth;            /* bytes/s of a rank, all ranks at work */
    double latency;                     /* seconds of a short message, first rank to the farthest */
    double bandwidth;                   /* bytes/s of a long one */
    double allreduce;                   /* seconds of the margins' sum over all ranks, 28 int64 */
    double write;                       /* bytes/s of all ranks into one file, to the disk */
} MeasuredRates;

typedef struct SelfCheck {
    MPI_Comm world; /* not owned */
    int rank, ranks, nodes;
    int count;
    Finding finding[FINDINGS];
    MeasuredRates rates;
} SelfCheck;

/* Collective over world. */
void selfcheck_begin(SelfCheck *s, MPI_Comm world);

/* Adds a row; all ranks must have agreed on it. `remedy` may be NULL if the verdict is CHECK_OK. Not collective. */
void selfcheck_add(SelfCheck *s, const char *name, CheckVerdict verdict, const char *remedy, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* The layouts worth comparing on so many ranks: at most LAYOUTS, each rows x columns of a grid, replicas to fill. */
enum { LAYOUTS = 4, ROWS_MAX = 8 };
typedef struct Shape {
    int replicas, rows, columns;
} Shape;
int selfcheck_layouts(int ranks, Shape shapes[LAYOUTS]);

/* sgemm against this processor's own rate, psgemm against sgemm, memory bandwidth, latency and bandwidth of messages,
 * threads and cores. `threads` of BLAS a rank, PBLAS's logical block from here on. Collective. */
void selfcheck_rates(SelfCheck *s, int threads, int block);

/* psgemm on matrices of small integers, whose product float32 holds exactly: every number of it, on every layout, for
 * the three products that training uses. Collective. */
void selfcheck_products(SelfCheck *s);

/* A tiny random model: gradients against finite differences, every layout against one rank alone, and a few steps of
 * training twice with the same bits. Collective. */
void selfcheck_model(SelfCheck *s);

/* The file system of `folder`: a model written by one layout and read by another, a name that is replaced while others
 * read it, files seen by all ranks, a write that fails half-way, and the rate. What it makes there it removes.
 * Collective. */
void selfcheck_storage(SelfCheck *s, const char *folder);

#endif
