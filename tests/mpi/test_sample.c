/* Promises: with the vocabulary cut over any number of ranks the same tokens come out as on one; 1e5 draws follow the
 * distribution that each filter leaves (chi-square); greedy takes the likeliest, the lowest number among equal ones; a
 * temperature near 0 does the same; log-probs are the model's own whatever the filters; the repetition penalty changes
 * what it has to; logits that are no numbers give no token. */
#include "catdpo/ops/sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { VOCAB = 23, DRAWS = 100000, AT_ONCE = 50 };
static const SampleSettings plain = { .temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 5 };
static int rank, ranks;

/* Logits with a tie (tokens 4 and 9) and a long tail. */
static double logit_of(int token) { return token == 9 ? logit_of(4) : 3 * sin(token * 1.7) - 0.05 * token; }

static double lse_of(double *entropy)
{
    double sum = 0, mean = 0;
    for (int v = 0; v < VOCAB; v++) sum += exp(logit_of(v));
    for (int v = 0; v < VOCAB; v++) mean += exp(logit_of(v)) / sum * logit_of(v);
    *entropy = log(sum) - mean;
    return log(sum);
}

/* Tokens for `count` targets of the same logits, each at its own position, from this rank's part of the vocabulary. */
static void sample(const SampleSettings *settings, const Axis *vocab, MPI_Comm comm, int count, int64_t first,
                   const int32_t *before, int known, SampledToken *chosen)
{
    double lse[AT_ONCE], entropy[AT_ONCE];
    float *logits = malloc(sizeof *logits * (size_t)(count * vocab->local + 1));
    SampleText text[AT_ONCE];
    void *memory = malloc((size_t)sample_work(count, VOCAB));
    assert_true(logits && memory && count <= AT_ONCE);
    for (int j = 0; j < count; j++) {
        lse[j] = lse_of(&entropy[j]);
        text[j] = (SampleText){ sample_stream(settings->seed, 3, 1), (uint64_t)(first + j), before, known };
        for (int i = 0; i < vocab->local; i++) logits[j * vocab->local + i] = (float)logit_of(axis_global(vocab, i));
    }
    sample_tokens(settings,
                  &(ChunkLogits){ .count = count, .vocab = vocab, .logits = logits, .lse = lse, .entropy = entropy },
                  comm, text, chosen, memory);
    free(logits);
    free(memory);
}

static Axis cut(void) { return axis_even(VOCAB, ranks, rank); }

/* ---- the distribution that the filters leave, written here independently ----------------------------------------- */

static void expected(const SampleSettings *s, double p[VOCAB])
{
    double sum = 0, top = 0;
    bool kept[VOCAB];
    for (int v = 0; v < VOCAB; v++) sum += p[v] = exp(logit_of(v) / s->temperature), kept[v] = true;
    for (int v = 0; v < VOCAB; v++) {
        int better = 0;
        for (int w = 0; w < VOCAB; w++) better += p[w] > p[v];
        if (s->top_k > 0 && better >= s->top_k) kept[v] = false;
    }
    double kept_sum = 0;
    for (int v = 0; v < VOCAB; v++) kept_sum += kept[v] ? p[v] : 0;
    bool after_k[VOCAB];
    memcpy(after_k, kept, sizeof kept);
    for (int v = 0; v < VOCAB; v++) {
        double better = 0;
        for (int w = 0; w < VOCAB; w++) better += after_k[w] && p[w] > p[v] ? p[w] : 0;
        if (better >= s->top_p * kept_sum) kept[v] = false;
    }
    for (int v = 0; v < VOCAB; v++) top = fmax(top, p[v]);
    for (int v = 0; v < VOCAB; v++) kept[v] = kept[v] && p[v] >= s->min_p * top;
    sum = 0;
    for (int v = 0; v < VOCAB; v++) sum += p[v] = kept[v] ? p[v] : 0;
    for (int v = 0; v < VOCAB; v++) p[v] /= sum;
}

static void test_draws_follow_the_distribution(void **state)
{
    (void)state;
    const SampleSettings each[] = {
        plain,
        { .temperature = 0.7, .top_p = 1, .repetition_penalty = 1, .seed = 1 },
        { .temperature = 1, .top_p = 1, .top_k = 5, .repetition_penalty = 1, .seed = 2 },
        { .temperature = 1, .top_p = 0.8, .repetition_penalty = 1, .seed = 3 },
        { .temperature = 1.5, .top_p = 1, .min_p = 0.2, .repetition_penalty = 1, .seed = 4 },
        { .temperature = 0.9, .top_p = 0.9, .top_k = 9, .min_p = 0.1, .repetition_penalty = 1, .seed = 6 }
    };
    Axis vocab = cut();
    for (size_t e = 0; e < sizeof each / sizeof *each; e++) {
        double p[VOCAB], count[VOCAB] = { 0 }, square = 0;
        int kept = 0;
        expected(&each[e], p);
        for (int64_t first = 0; first < DRAWS; first += AT_ONCE) {
            SampledToken chosen[AT_ONCE];
            sample(&each[e], &vocab, MPI_COMM_WORLD, AT_ONCE, first, NULL, 0, chosen);
            for (int j = 0; j < AT_ONCE; j++) count[chosen[j].token]++;
        }
        for (int v = 0; v < VOCAB; v++) {
            if (p[v] == 0) assert_true(count[v] == 0);
            if (p[v] > 0) square += pow(count[v] - DRAWS * p[v], 2) / (DRAWS * p[v]), kept++;
        }
        /* chi-square with kept - 1 degrees of freedom: mean kept - 1, variance twice that; 5 deviations */
        assert_true(kept > 1 && square < kept - 1 + 5 * sqrt(2.0 * (kept - 1)));
    }
}

static bool in_list(int token, const int32_t *list, int count)
{
    for (int i = 0; i < count; i++)
        if (list[i] == token) return true;
    return false;
}

static void test_any_number_of_ranks(void **state)
{
    (void)state;
    const SampleSettings settings[] = {
        plain,
        { .temperature = 0.8, .top_p = 0.9, .top_k = 12, .min_p = 0.01, .repetition_penalty = 1.3, .seed = 9 },
        { .temperature = 0, .top_p = 1, .repetition_penalty = 1.2 }
    };
    const int32_t before[] = { 4, 1, 4, 22, 17 };
    Axis vocab = cut(), whole = axis_even(VOCAB, 1, 0);
    double entropy, lse = lse_of(&entropy);
    int repeated = 0;
    for (int s = 0; s < 3; s++)
        for (int64_t first = 0; first < 1000; first += AT_ONCE) {
            SampledToken here[AT_ONCE], alone[AT_ONCE];
            sample(&settings[s], &vocab, MPI_COMM_WORLD, AT_ONCE, first, before, 5, here);
            sample(&settings[s], &whole, MPI_COMM_SELF, AT_ONCE, first, before, 5, alone);
            for (int j = 0; j < AT_ONCE; j++) {
                assert_int_equal(here[j].token, alone[j].token);
                assert_true(here[j].logp == alone[j].logp && here[j].entropy == alone[j].entropy);
                /* of the model itself, also of a token that the penalty held back */
                assert_true(fabs(here[j].logp - (logit_of(here[j].token) - lse)) < 1e-5);
                repeated += in_list(here[j].token, before, 5);
            }
        }
    assert_true(repeated > 0);
}

static void test_greedy(void **state)
{
    (void)state;
    Axis vocab = cut();
    SampledToken chosen;
    int best = 0;
    double entropy, lse = lse_of(&entropy);
    for (int v = 1; v < VOCAB; v++) best = logit_of(v) > logit_of(best) ? v : best;
    const double temperatures[] = { 0, 1e-6 };
    for (int i = 0; i < 2; i++) {
        SampleSettings s = plain;
        s.temperature = temperatures[i];
        sample(&s, &vocab, MPI_COMM_WORLD, 1, 0, NULL, 0, &chosen);
        assert_int_equal(chosen.token, best);
        assert_true(fabs(chosen.logp - (logit_of(best) - lse)) < 1e-5 && fabs(chosen.entropy - entropy) < 1e-5);
    }
    SampleSettings s = plain; /* what was used is held back: the next one; its log-prob is the model's */
    s.temperature = 0, s.repetition_penalty = 100;
    int32_t used[VOCAB];
    int others = 0;
    for (int v = 0; v < VOCAB; v++)
        if (v != 4 && v != 9) used[others++] = v;
    sample(&s, &vocab, MPI_COMM_WORLD, 1, 0, used, others, &chosen);
    int left = logit_of(4) > 0 ? 4 : chosen.token;
    assert_int_equal(chosen.token, left); /* 4 and 9 are equal: the lower number */
    assert_true(fabs(chosen.logp - (logit_of(chosen.token) - lse)) < 1e-5);
}

static void test_no_numbers(void **state)
{
    (void)state;
    Axis vocab = cut();
    float logits[VOCAB];
    double lse = NAN, entropy = NAN;
    SampledToken chosen;
    SampleText text = { 0 };
    void *memory = malloc((size_t)sample_work(1, VOCAB));
    for (int greedy = 0; greedy < 2; greedy++) {
        SampleSettings s = plain;
        s.temperature = greedy ? 0 : 1;
        for (int i = 0; i < VOCAB; i++) logits[i] = NAN;
        sample_tokens(&s,
                      &(ChunkLogits){ .count = 1, .vocab = &vocab, .logits = logits, .lse = &lse, .entropy = &entropy },
                      MPI_COMM_WORLD, &text, &chosen, memory);
        assert_int_equal(chosen.token, -1);
    }
    free(memory);
}

int main(int argc, char *argv[])
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_draws_follow_the_distribution),
                                        cmocka_unit_test(test_any_number_of_ranks), cmocka_unit_test(test_greedy),
                                        cmocka_unit_test(test_no_numbers) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}
