/* Promise: the random numbers are Philox 4x64-10's published ones, a function of seed, stream and index alone; a
 * permutation is one, repeats for the same seed and is uniform. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/core/rng.h"

static void numbers_are_philox(void **state)
{
    (void)state;
    /* The first row is the known answer of the authors' Random123; all come from NumPy's Philox bit generator as well.
     */
    static const struct {
        uint64_t seed, stream, number[8];
    } known[] = {
        { 0,
          0,
          { 0x16554d9eca36314c, 0xdb20fe9d672d0fdc, 0xd7e772cee186176b, 0x7e68b68aec7ba23b, 0x02f4ba6408e4d89b,
            0x3dd62b0b9ca8c5b2, 0x1c8667a55d902e79, 0x907d7a052fd5b4dc } },
        { 42,
          7,
          { 0x2fd1bc0d2c8697bb, 0x8ee17f67a549bba6, 0x1bdce1f847e7df47, 0xe123b6bbe4e89f03, 0xa64064f34e84b9a3,
            0xe287959a866a08fd, 0x8dc181f009b96c03, 0xf3f6001d4fa83454 } },
        { UINT64_MAX,
          UINT64_C(1) << 63,
          { 0xfeed97f3830ae6e7, 0x9db0530af0ffecd3, 0x4fe939f2ed70bf81, 0x4131150541ea104c, 0x35eb76d7051d188f,
            0x82213878ba27aeb6, 0x96b811cf826a8922, 0x80dcd0bee6666a18 } },
    };
    for (int k = 0; k < 3; k++) {
        Rng rng = rng_stream(known[k].seed, known[k].stream);
        for (uint64_t i = 0; i < 8; i++) {
            assert_true(rng_next(&rng) == known[k].number[i]);
            assert_true(rng_at(known[k].seed, known[k].stream, i) == known[k].number[i]);
        }
    }
}

static void permutation_is_one_and_repeats(void **state)
{
    (void)state;
    enum { N = 1000 };
    int64_t first[N], again[N], other[N];
    int seen[N] = { 0 };
    rng_permutation(1, 2, N, first);
    rng_permutation(1, 2, N, again);
    rng_permutation(1, 3, N, other);
    assert_memory_equal(first, again, sizeof first);
    assert_memory_not_equal(first, other, sizeof first);
    for (int i = 0; i < N; i++) seen[first[i]]++;
    for (int i = 0; i < N; i++) assert_int_equal(seen[i], 1);
    rng_permutation(1, 2, 0, first); /* nothing to do, nothing to break */
}

static void permutation_is_uniform(void **state)
{
    (void)state;
    int counts[4][4] = { { 0 } },
        runs = 40000; /* how often element i comes to place p: 10000 each, give or take 5 sigma */
    for (int run = 0; run < runs; run++) {
        int64_t order[4];
        rng_permutation(5, (uint64_t)run, 4, order);
        for (int p = 0; p < 4; p++) counts[order[p]][p]++;
    }
    for (int i = 0; i < 4; i++)
        for (int p = 0; p < 4; p++) assert_true(abs(counts[i][p] - runs / 4) < 5 * 87);
}

static void below_is_uniform_and_below(void **state)
{
    (void)state;
    Rng rng = rng_stream(9, 0);
    int counts[6] = { 0 };
    for (int i = 0; i < 60000; i++) counts[rng_below(&rng, 6)]++;
    for (int i = 0; i < 6; i++) assert_true(abs(counts[i] - 10000) < 5 * 92);
    uint64_t large = (UINT64_C(1) << 63) + 1; /* where rejection is frequent */
    for (int i = 0; i < 100; i++) assert_true(rng_below(&rng, large) < large);
    assert_true(rng_below(&rng, 1) == 0);
}

static void reals_are_uniform(void **state)
{
    (void)state;
    Rng rng = rng_stream(11, 1);
    double sum = 0, squares = 0;
    int count = 100000;
    for (int i = 0; i < count; i++) {
        double x = rng_uniform(&rng);
        assert_true(x >= 0 && x < 1);
        sum += x, squares += x * x;
    }
    assert_true(fabs(sum / count - 1.0 / 2) < 0.005 && fabs(squares / count - 1.0 / 3) < 0.005);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_philox),     cmocka_unit_test(permutation_is_one_and_repeats),
        cmocka_unit_test(permutation_is_uniform), cmocka_unit_test(below_is_uniform_and_below),
        cmocka_unit_test(reals_are_uniform),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
