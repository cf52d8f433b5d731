/* What a step's pairs add up to: integer counts for the margins, sums for the metrics. Each pair is added on one rank
 * alone (its counter, see batch.h); afterwards every rank has the sums of all. */
#ifndef CATDPO_TRAIN_TALLY_H
#define CATDPO_TRAIN_TALLY_H

#include "catdpo/config/config.h"
#include "catdpo/data/pairs.h"
#include "catdpo/ops/head.h"
#include "catdpo/objective/score.h"
#include "catdpo/files/metrics.h"

typedef struct Tally {
    int category_count; /* K */
    int64_t *counts;    /* [2K] for margin_update: pairs with s = 1, then their violations in units */
    bool has_groups;
    int64_t *groups;                  /* [2K] behind counts, for margin_update_groups; 0 without */
    int64_t *partial;                 /* [2K] this rank's own share of them */
    bool has_adversary, counts_clean; /* pairs are perturbed; their clean violations are the ones that count */
    double *sums;                     /* [scalars and some a category] see tally.c */
    double *row;                      /* [9 K] what tally_fill hands out */
    int64_t *pairs;                   /* [K] likewise */
} Tally;

/* Bytes that tally_reduce sums up. */
int64_t tally_bytes(const Config *config, int category_count);

bool tally_create(Tally *t, const Config *config, int category_count, Error *err);
void tally_free(Tally *t);
void tally_clear(Tally *t);

/* A pair that this rank counts; `clean`: what it would score without the perturbation, NULL without an adversary. */
void tally_add(Tally *t, const MarginState *margins, const Pairs *pairs, int64_t pair, const PairScore *score,
               const PairScore *clean, const SequenceResult result[PAIR_SIDES]);

/* Sums over all ranks: one MPI_Allreduce of 2K int64 (with groups 4K), one of doubles. Collective over world, also for
 * ranks without pairs. */
void tally_reduce(Tally *t, MPI_Comm world);

/* Means into a row of metrics (everything that follows from pairs); its arrays point into the tally. */
void tally_fill(const Tally *t, const MarginState *margins, StepMetrics *row);

#endif
