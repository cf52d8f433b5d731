/* Batches of preference pairs: a pair is a group of two sequences, chosen and rejected, which mostly share their
 * prompt. The tokens of the completions are predicted; a sequence's last token predicts nothing and is not run. */
#ifndef CATDPO_DATA_PAIR_BATCH_H
#define CATDPO_DATA_PAIR_BATCH_H

#include "catdpo/data/batch.h"
#include "catdpo/data/pairs.h"

typedef struct PairBatcher {
    const Pairs *pairs;
    Batcher base;
} PairBatcher;

/* Allocates all that later calls need; sizes the batcher for any limits->groups pairs. Not collective. */
bool pair_batcher_create(PairBatcher *b, const Pairs *pairs, const Grid *grid, const BatchLimits *limits, Error *err);
void pair_batcher_free(PairBatcher *b);

/* Plan a step of count pairs (indices into the data; count <= limits.groups), in base, which makes its passes. In
 * a pass, group i is the pair group[i].id, with the sequences group[i].sequence + PAIR_CHOSEN and + PAIR_REJECTED; with
 * limits.parts = 2 pair_sequence says which. */
void pair_batcher_plan(PairBatcher *b, const int64_t *pairs, int count);

/* The number in the batch of a side's whole completion, or of its second segment (part = 1; limits.parts = 2). */
static inline int pair_sequence(const PairBatcher *b, const BatchGroup *pair, int side, int part)
{
    int parts = b->base.limits.parts > 1 ? b->base.limits.parts : 1;
    return pair->sequence + parts * side + part;
}

#endif
