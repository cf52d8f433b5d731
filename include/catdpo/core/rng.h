/* Random numbers as a function of (seed, stream, index): Philox 4x64-10 (Salmon et al., "Parallel random numbers: as
 * easy as 1, 2, 3", 2011). No state is shared or carried from rank to rank, so every rank that asks for the same index
 * gets the same number, whatever the number of ranks, and a resumed run needs only the index. Nothing here is
 * collective or fails.
 */
#ifndef CATDPO_CORE_RNG_H
#define CATDPO_CORE_RNG_H

#include <stdint.h>

/* Number `index` of a stream: 64 random bits. */
uint64_t rng_at(uint64_t seed, uint64_t stream, uint64_t index);

/* The same numbers one after the other, four for the price of one. */
typedef struct Rng {
    uint64_t seed, stream;
    uint64_t index;    /* of the next number */
    uint64_t block[4]; /* numbers 4 floor(index / 4) .. + 3, valid unless index is a multiple of 4 */
} Rng;

Rng rng_stream(uint64_t seed, uint64_t stream);
uint64_t rng_next(Rng *rng);

/* Uniform in [0, n), without bias; n >= 1. May use more than one number. */
uint64_t rng_below(Rng *rng, uint64_t n);

/* Uniform in [0, 1), a multiple of 2^-53. */
double rng_uniform(Rng *rng);

/* order[count] becomes a permutation of 0 .. count-1 (Fisher-Yates): a function of seed, stream and count alone. */
void rng_permutation(uint64_t seed, uint64_t stream, int64_t count, int64_t *order);

#endif
