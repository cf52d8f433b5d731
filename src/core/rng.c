/* Philox 4x64-10: ten rounds of multiply, exclusive-or and swap on a counter, keyed with (seed, stream). */
#include "catdpo/core/rng.h"

__extension__ typedef unsigned __int128 uint128;

static void philox(const uint64_t key[2], uint64_t counter, uint64_t out[4])
{
    uint64_t k0 = key[0], k1 = key[1];
    uint64_t x0 = counter, x1 = 0, x2 = 0, x3 = 0;
    for (int round = 0; round < 10; round++) {
        uint128 a = (uint128)UINT64_C(0xD2E7470EE14C6C93) * x0;
        uint128 b = (uint128)UINT64_C(0xCA5A826395121157) * x2;
        x0 = (uint64_t)(b >> 64) ^ x1 ^ k0;
        x1 = (uint64_t)b;
        x2 = (uint64_t)(a >> 64) ^ x3 ^ k1;
        x3 = (uint64_t)a;
        k0 += UINT64_C(0x9E3779B97F4A7C15); /* golden ratio */
        k1 += UINT64_C(0xBB67AE8584CAA73B); /* sqrt(3) - 1 */
    }
    out[0] = x0, out[1] = x1, out[2] = x2, out[3] = x3;
}

uint64_t rng_at(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint64_t block[4];
    philox((const uint64_t[2]){ seed, stream }, index / 4, block);
    return block[index % 4];
}

Rng rng_stream(uint64_t seed, uint64_t stream) { return (Rng){ .seed = seed, .stream = stream }; }

uint64_t rng_next(Rng *rng)
{
    if (rng->index % 4 == 0) philox((const uint64_t[2]){ rng->seed, rng->stream }, rng->index / 4, rng->block);
    return rng->block[rng->index++ % 4];
}

/* Lemire's method: the high half of number x n is uniform once the few low halves that would favour some results are
 * rejected. */
uint64_t rng_below(Rng *rng, uint64_t n)
{
    uint128 product = (uint128)rng_next(rng) * n;
    if ((uint64_t)product < n)
        for (uint64_t reject = -n % n; (uint64_t)product < reject;) product = (uint128)rng_next(rng) * n;
    return (uint64_t)(product >> 64);
}

double rng_uniform(Rng *rng) { return (double)(rng_next(rng) >> 11) * 0x1p-53; }

void rng_permutation(uint64_t seed, uint64_t stream, int64_t count, int64_t *order)
{
    Rng rng = rng_stream(seed, stream);
    for (int64_t i = 0; i < count; i++) {
        int64_t j = (int64_t)rng_below(&rng, (uint64_t)i + 1); /* the "inside-out" form fills and shuffles in one go */
        if (j != i) order[i] = order[j];
        order[j] = i;
    }
}
