/* Which pairs a step has: a function of the seed and the step alone, the same for any layout, so that a resumed run
 * needs no state.
 *
 *   uniform     every epoch is a new permutation of all pairs; its last step may be short
 *   balanced    categories in turn (in a new random order each round), each with permutations of its own pairs
 *   sequential  file order
 */
#ifndef CATDPO_DATA_SAMPLER_H
#define CATDPO_DATA_SAMPLER_H

#include "catdpo/config/config.h"
#include "catdpo/data/pairs.h"

typedef struct Sampler {
    const Pairs *pairs;
    Sampling kind;
    uint64_t seed;
    int per_step; /* B */
    int64_t steps_per_epoch;
    int list_count; /* permuted lists: 1, or one a category that has pairs */
    struct SampleList *list;
    int *order;          /* [list_count] this round's order of the categories */
    int64_t order_round; /* that `order` is for */
} Sampler;

bool sampler_create(Sampler *s, const Pairs *pairs, Sampling kind, uint64_t seed, int per_step, Error *err);
void sampler_free(Sampler *s);

/* The pairs of step >= 1 into pair[per_step]; returns how many (fewer only at the end of an epoch). Not collective. */
int sampler_step(Sampler *s, int64_t step, int64_t *pair);

#endif
