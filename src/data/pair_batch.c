#include "catdpo/data/pair_batch.h"

#include <stdlib.h>

static int descending(const void *x, const void *y)
{
    int a = *(const int *)x, b = *(const int *)y;
    return (a < b) - (a > b);
}

/* Sum of the `most` largest of values[count], and the largest alone in *top. Sorts values. */
static int64_t sum_largest(int *values, int64_t count, int most, int *top)
{
    int64_t sum = 0;
    qsort(values, (size_t)count, sizeof *values, descending);
    for (int64_t i = 0; i < count && i < most; i++) sum += values[i];
    *top = count > 0 ? values[0] : 0;
    return sum;
}

static int64_t clamp(int64_t value, int64_t budget, int64_t alone)
{
    int64_t bound = budget > alone ? budget : alone;
    return value < bound ? value : bound;
}

static bool find_sizes(const Pairs *pairs, const BatchLimits *limits, BatchSizes *most, Error *err)
{
    int *tokens = malloc(sizeof(int) * (size_t)(pairs->count + 1)),
        *targets = malloc(sizeof(int) * (size_t)(pairs->count + 1));
    if (!tokens || !targets) {
        free(tokens);
        free(targets);
        return error_fault(err, "out of memory for the lengths of %lld pairs", (long long)pairs->count);
    }
    for (int64_t i = 0; i < pairs->count; i++) {
        tokens[i] = pairs_length(pairs, 0, i) + pairs_length(pairs, 1, i) - 2; /* as if nothing were shared */
        targets[i] = pairs_completion(pairs, 0, i) + pairs_completion(pairs, 1, i);
    }
    int longest_pair, longest_targets;
    int64_t all_tokens = sum_largest(tokens, pairs->count, limits->groups, &longest_pair);
    int64_t all_targets = sum_largest(targets, pairs->count, limits->groups, &longest_targets);
    free(tokens);
    free(targets);
    int64_t width = clamp(all_tokens, limits->max_tokens, longest_pair);
    /* sharing a prompt lets a column have more targets than tokens by at most one a sequence */
    int sequences = PAIR_SIDES * limits->groups;
    int64_t column_targets = all_targets < width + sequences ? all_targets : width + sequences;
    *most = (BatchSizes){ .sequences = limits->parts > 1 ? limits->parts * sequences : sequences,
                          .width = (int)width,
                          .targets = (int)column_targets,
                          .chunk = (int)clamp(column_targets, limits->logit_columns, longest_targets) };
    if (width * limits->columns > 1 << 28)
        return error_usage(
            err,
            "a pass of %lld tokens on each of %d process columns is too large: lower batch.max_tokens or batch.pairs",
            (long long)width, limits->columns);
    return true;
}

bool pair_batcher_create(PairBatcher *b, const Pairs *pairs, const Grid *grid, const BatchLimits *limits, Error *err)
{
    BatchSizes most;
    *b = (PairBatcher){ .pairs = pairs };
    return find_sizes(pairs, limits, &most, err) && batcher_create(&b->base, grid, limits, &most, err);
}

void pair_batcher_free(PairBatcher *b)
{
    batcher_free(&b->base);
    *b = (PairBatcher){ 0 };
}

void pair_batcher_plan(PairBatcher *b, const int64_t *pairs, int count)
{
    batcher_clear(&b->base);
    for (int i = 0; i < count; i++) {
        Sequence both[PAIR_SIDES];
        for (int side = 0; side < PAIR_SIDES; side++) {
            int length = pairs_length(b->pairs, side, pairs[i]);
            both[side] = (Sequence){ .token = pairs_tokens(b->pairs, side, pairs[i]),
                                     .known = length,
                                     .end = length - 1,
                                     .predict = pairs_prompt(b->pairs, side, pairs[i]),
                                     .predict_end = length,
                                     .split = b->base.limits.parts > 1 ? pairs_split(b->pairs, side, pairs[i]) : 0,
                                     .column = -1 };
        }
        batcher_add(&b->base, pairs[i], both, PAIR_SIDES);
    }
    batcher_plan(&b->base);
}
