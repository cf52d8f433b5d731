/* Promises: with a sliding window, over several blocks of queries and a prompt that two responses share, attention and
 * its gradient are those of the definition; a window counts positions, wherever the prompt's columns lie; what it cuts
 * off costs nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/ops/attention.h"
#include "catdpo/core/rng.h"

/* Two prompts, then two responses to the first and one to the second: no response lies beside its prompt's end but the
 * last. */
enum { D = 6, PER_GROUP = 2, GROUPS = 2, PROMPT = 150, OTHER = 20, FIRST = 300, SECOND = 9, THIRD = 140 };
enum { USED = PROMPT + OTHER + FIRST + SECOND + THIRD, WIDTH = USED + 3 };
enum { GROUP_ROWS = (PER_GROUP + 2) * D, ROWS = GROUPS * GROUP_ROWS, OUT = GROUPS * PER_GROUP * D };
enum { HEADS = GROUPS * PER_GROUP, LONGEST = PROMPT + FIRST };

static Segment segments[] = {
    { .start = 0, .length = PROMPT },
    { .start = PROMPT + OTHER + FIRST, .length = SECOND, .prefix_length = PROMPT, .position = PROMPT },
    { .start = PROMPT, .length = OTHER },
    { .start = PROMPT + OTHER, .length = FIRST, .prefix_length = PROMPT, .position = PROMPT },
    { .start = USED - THIRD, .length = THIRD, .prefix_start = PROMPT, .prefix_length = OTHER, .position = OTHER },
};
static const Batch batch = { .width = WIDTH, .used = USED, .segment_count = 5, .segment = segments };

/* Column of the token at `position` of the segment's sequence. */
static int column_at(const Segment *s, int position)
{
    return position < s->prefix_length ? s->prefix_start + position : s->start + position - s->prefix_length;
}

/* By the definition, in double. out[OUT x WIDTH]; with dout also dqkv[ROWS x WIDTH]. */
static void define(const AttentionShape *s, const float *qkv, double *out, const float *dout, double *dqkv)
{
    double *p = malloc(sizeof(double) * LONGEST), *dp = malloc(sizeof(double) * LONGEST);
    for (int i = 0; i < batch.segment_count; i++)
        for (int t = 0; t < segments[i].length; t++)
            for (int head = 0; head < HEADS; head++) {
                const Segment *segment = &segments[i];
                int query = segment->start + t, own = segment->prefix_length + t;
                int first = s->window > 0 && own >= s->window ? own - s->window + 1 : 0;
                int at = head / PER_GROUP * GROUP_ROWS, q = at + head % PER_GROUP * D, k = at + PER_GROUP * D,
                    v = k + D;
                double sum = 0, delta = 0;
                for (int j = first; j <= own; j++) {
                    const float *key = qkv + column_at(segment, j) * ROWS + k;
                    p[j] = 0;
                    for (int r = 0; r < D; r++) p[j] += (double)qkv[query * ROWS + q + r] * key[r];
                    p[j] = exp(s->scale * p[j]);
                    sum += p[j];
                }
                for (int j = first; j <= own; j++) {
                    int column = column_at(segment, j) * ROWS;
                    p[j] /= sum;
                    dp[j] = 0;
                    for (int r = 0; r < D; r++) {
                        double d = dout[query * OUT + head * D + r];
                        out[query * OUT + head * D + r] += p[j] * qkv[column + v + r];
                        dqkv[column + v + r] += p[j] * d;
                        dp[j] += d * qkv[column + v + r];
                    }
                    delta += p[j] * dp[j];
                }
                for (int j = first; j <= own; j++) {
                    int column = column_at(segment, j) * ROWS;
                    double dscore = p[j] * (dp[j] - delta) * s->scale;
                    for (int r = 0; r < D; r++) {
                        dqkv[query * ROWS + q + r] += dscore * qkv[column + k + r];
                        dqkv[column + k + r] += dscore * qkv[query * ROWS + q + r];
                    }
                }
            }
    free(p);
    free(dp);
}

static void assert_near(const char *what, int window, const float *have, const double *want, int count)
{
    double worst = 0, largest = 0;
    for (int i = 0; i < count; i++) {
        worst = fmax(worst, isfinite(have[i]) ? fabs(have[i] - want[i]) : INFINITY);
        largest = fmax(largest, fabs(want[i]));
    }
    /* sums of up to LONGEST products in float, their errors as of a random walk, and exp's 2 units */
    double tolerance = FLT_EPSILON * (sqrt(LONGEST) + 4) * largest;
    if (!(worst <= tolerance)) fail_msg("%s with window %d: off by %g of %g", what, window, worst, largest);
}

static void check(int window)
{
    AttentionShape s = { .groups = GROUPS, .per_group = PER_GROUP, .head_dim = D, .window = window, .scale = 0.7f };
    Rng rng = rng_stream(7, 0);
    float *qkv = malloc(sizeof(float) * ROWS * WIDTH), *dout = malloc(sizeof(float) * OUT * WIDTH),
          *out = malloc(sizeof(float) * OUT * WIDTH), *dqkv = malloc(sizeof(float) * ROWS * WIDTH),
          *lse = malloc(sizeof(float) * HEADS * WIDTH),
          *scratch = malloc(sizeof(float) * (size_t)attention_scratch(&s, LONGEST));
    double *want = calloc(OUT * WIDTH, sizeof(double)), *dwant = calloc(ROWS * WIDTH, sizeof(double));
    for (int i = 0; i < ROWS * WIDTH; i++) qkv[i] = (float)(2 * rng_uniform(&rng) - 1);
    for (int i = 0; i < OUT * WIDTH; i++) dout[i] = (float)(2 * rng_uniform(&rng) - 1);
    define(&s, qkv, want, dout, dwant);
    attention_forward(&s, &batch, qkv, &(CachedKeys){ 0 }, out, lse, scratch);
    attention_backward(&s, &batch, qkv, out, lse, dout, dqkv, scratch);
    assert_near("output", window, out, want, OUT * WIDTH);
    assert_near("gradient", window, dqkv, dwant, ROWS * WIDTH);
    void *all[] = { qkv, dout, out, dqkv, lse, scratch, want, dwant };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void any_window_is_the_definition(void **state)
{
    (void)state;
    static const int windows[] = { 0, 1, 2, 19, 127, 128, 129, 160, 449, 450, 10000 };
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) check(windows[i]);
}

static void what_a_window_cuts_off_costs_nothing(void **state)
{
    (void)state;
    enum { TOKENS = 4096, WINDOW = 100, BLOCK = 128 };
    Segment segment = { .length = TOKENS };
    Batch one = { .width = TOKENS, .used = TOKENS, .segment_count = 1, .segment = &segment };
    assert_true(attention_scores(&one, WINDOW) <= TOKENS * (WINDOW + BLOCK - 1.0));
    assert_true(attention_scores(&one, TOKENS) == attention_scores(&one, 0));
    assert_true(attention_scores(&one, 0) >= TOKENS / 2.0 * TOKENS);
    Segment response = { .start = TOKENS, .length = 10, .prefix_length = TOKENS, .position = TOKENS };
    one.segment = &response; /* the whole prompt but its end is cut off */
    assert_true(attention_scores(&one, WINDOW) <= 10 * (WINDOW + 9.0));
    Segment next = { .length = 1, .position = TOKENS, .cached = { { 0, TOKENS } }, .keep = { TOKENS, 1 } };
    one.segment = &next;
    assert_true(attention_scores(&one, WINDOW) == WINDOW);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_window_is_the_definition),
        cmocka_unit_test(what_a_window_cuts_off_costs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
