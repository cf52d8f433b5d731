#include "catdpo/data/mismatch.h"

#include <string.h>

static bool same_prompt(const Pairs *pairs, int64_t i, int64_t j)
{
    int length = pairs_prompt(pairs, PAIR_CHOSEN, i);
    return length == pairs_prompt(pairs, PAIR_CHOSEN, j) &&
           memcmp(pairs_tokens(pairs, PAIR_CHOSEN, i), pairs_tokens(pairs, PAIR_CHOSEN, j),
                  sizeof(int32_t) * (size_t)length) == 0;
}

/* The pair whose completions pair i gets, given that of pair i - 1 (-1: not known); -1 if all prompts are one. */
static int64_t partner_of(const Pairs *pairs, int64_t i, int64_t before)
{
    if (before >= 0 && same_prompt(pairs, i, i - 1)) return before; /* equal prompts lie side by side mostly */
    for (int64_t step = 1; step < pairs->count; step++) {
        int64_t j = (i + step) % pairs->count;
        if (!same_prompt(pairs, i, j)) return j;
    }
    return -1;
}

/* Tokens of pair j's completion that fit behind pair i's prompt. */
static int completion_that_fits(const Pairs *pairs, int side, int64_t i, int64_t j)
{
    int64_t room = pairs->longest - pairs_prompt(pairs, side, i);
    return pairs_completion(pairs, side, j) < room ? pairs_completion(pairs, side, j) : (int)room;
}

static void fill(const Pairs *pairs, Pairs *mismatched)
{
    int64_t partner = -1, used[PAIR_SIDES] = { 0 };
    for (int64_t i = 0; i < pairs->count; i++) {
        partner = partner_of(pairs, i, partner);
        for (int s = 0; s < PAIR_SIDES; s++) {
            PairSide *side = &mismatched->side[s];
            int prompt = pairs_prompt(pairs, s, i), completion = completion_that_fits(pairs, s, i, partner);
            int32_t *tokens = side->tokens + used[s];
            memcpy(tokens, pairs_tokens(pairs, s, i), sizeof *tokens * (size_t)prompt);
            memcpy(tokens + prompt, pairs_tokens(pairs, s, partner) + pairs_prompt(pairs, s, partner),
                   sizeof *tokens * (size_t)completion);
            side->prompt_length[i] = prompt;
            used[s] += prompt + completion;
            side->offsets[i + 1] = used[s];
        }
    }
}

bool pairs_mismatch(const Pairs *pairs, Pairs *mismatched, MPI_Comm comm, Error *err)
{
    int64_t partner = -1;
    PairsShape shape = { .count = pairs->count, .category_count = pairs->category_count };
    for (int64_t i = 0; i < pairs->count; i++) {
        partner = partner_of(pairs, i, partner);
        if (partner < 0)
            return error_usage(err,
                               "all %lld training pairs have the same prompt: a baseline of mismatched completions "
                               "needs at least two. Prepare more data, or take another objective.type",
                               (long long)pairs->count);
        for (int s = 0; s < PAIR_SIDES; s++)
            shape.tokens[s] += pairs_prompt(pairs, s, i) + completion_that_fits(pairs, s, i, partner);
    }
    if (!pairs_allocate(mismatched, &shape, comm, err)) return false;
    mismatched->vocab_size = pairs->vocab_size;
    mismatched->max_length = pairs->max_length;
    mismatched->longest = pairs->longest;
    memcpy(mismatched->data_digest, pairs->data_digest, PAIRS_DIGEST);
    memcpy(mismatched->tokenizer_digest, pairs->tokenizer_digest, PAIRS_DIGEST);
    memcpy(mismatched->template_digest, pairs->template_digest, PAIRS_DIGEST);
    if (pairs_is_writer(mismatched)) fill(pairs, mismatched);
    pairs_publish(mismatched);
    return true;
}
