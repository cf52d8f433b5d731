/* Preference pairs: token sequences of a chosen and a rejected response, harm categories and flags.
 *
 * N pairs, K categories. A sequence is prompt + completion as the chat template renders it. The arrays of a Pairs lie
 * once a node, in memory that its ranks share; after pairs_publish they are read-only.
 */
#ifndef CATDPO_DATA_PAIRS_H
#define CATDPO_DATA_PAIRS_H

#include "catdpo/core/error.h"
#include "catdpo/core/side.h"
#include "catdpo/objective/objective.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    CATEGORY_NAME = 64, /* bytes of a category's name, with its NUL */
    CATEGORIES_MAX = 1024,
    PAIRS_DIGEST = 72, /* bytes of a digest, with its NUL */
    SCORE_NAME = 64,   /* bytes of a score's name, with its NUL */
    SCORES_MAX = 16,
};

typedef struct PairSide {
    int64_t *offsets;       /* [N + 1]; sequence i is tokens[offsets[i] .. offsets[i + 1]) */
    int64_t token_count;    /* offsets[N] */
    int32_t *tokens;        /* [token_count], in [0, vocab_size) */
    int32_t *prompt_length; /* [N]; in [1, length - 1] */
} PairSide;

typedef struct Pairs {
    int64_t count;                        /* N >= 0 */
    int category_count;                   /* K >= 1 */
    char (*category_name)[CATEGORY_NAME]; /* [K] */
    uint8_t *category_harm;               /* [K]: the margin applies to some pair that has it */
    PairSide side[PAIR_SIDES];
    uint8_t *category_mask;               /* [N, K], 0 or 1, at least one 1 a row */
    uint8_t *margin_applies;              /* [N]: s = 1, chosen is safe and rejected is not */
    uint8_t *chosen_safe, *rejected_safe; /* [N]: 1 safe, 0 unsafe, 255 unknown */
    int8_t *chosen_better;                /* [N], helpfulness: 1 chosen, 0 rejected, -1 unknown */
    bool has_segments;                    /* the completions have two: reasoning, then the answer; else both NULL: */
    int32_t *segment_end;           /* [N, 2] tokens of the completion's first segment, each side; may be 0 or all */
    double *segment_weight;         /* [N, 2] of the segments in the loss; negative: the other side is the better */
    int score_count;                /* M: scores of each response; 0: there are none */
    char (*score_name)[SCORE_NAME]; /* [M] */
    double *score[PAIR_SIDES];      /* [N, M], larger is better */
    double *score_weight;           /* [N, M] in [0, 1], each row adds up to 1 */
    int64_t vocab_size;             /* of the tokenizer: its largest token id + 1 */
    int64_t max_length;             /* limit that the sequences were prepared with; 0: none */
    int64_t longest;                /* tokens of the longest sequence; 0 if N = 0 */
    char data_digest[PAIRS_DIGEST], tokenizer_digest[PAIRS_DIGEST], template_digest[PAIRS_DIGEST];
    char *settings; /* how they were prepared, JSON text; owned */
    MPI_Comm node;  /* ranks that share the arrays; owned, MPI_COMM_NULL: none */
    MPI_Win window; /* the shared memory; owned */
    void *memory;   /* instead, of a process alone; owned */
} Pairs;

/* What the sizes of the arrays follow from. */
typedef struct PairsShape {
    int64_t count;              /* N */
    int category_count;         /* K */
    int64_t tokens[PAIR_SIDES]; /* of all sequences of a side */
    bool has_segments;
    int score_count; /* M */
} PairsShape;

/* Memory for pairs of this shape, zeroed, shared by the ranks of comm that are on one node; the first of them
 * (pairs_is_writer) fills in the arrays. The other fields are zero. Collective over comm. MPI_COMM_NULL: memory of this
 * process alone, which needs no MPI. */
bool pairs_allocate(Pairs *pairs, const PairsShape *shape, MPI_Comm comm, Error *err);
bool pairs_is_writer(const Pairs *pairs);
/* Ends the writing: from here on every rank of the node sees what the writer wrote. Collective over pairs->node. */
void pairs_publish(Pairs *pairs);
/* Collective over pairs->node. Harmless on a zeroed or freed Pairs. */
void pairs_free(Pairs *pairs);

/* Checks every promise of the comments above and fills longest and margin_applies. An EXIT_USAGE error names `where`
 * (file and group), array, index and remedy. On the writer, before pairs_publish; not collective. */
bool pairs_check(Pairs *pairs, const char *where, Error *err);

static inline const int32_t *pairs_tokens(const Pairs *pairs, int side, int64_t i)
{
    return pairs->side[side].tokens + pairs->side[side].offsets[i];
}
/* Tokens of prompt and completion, of the prompt, and of the completion alone. */
static inline int pairs_length(const Pairs *pairs, int side, int64_t i)
{
    return (int)(pairs->side[side].offsets[i + 1] - pairs->side[side].offsets[i]);
}
static inline int pairs_prompt(const Pairs *pairs, int side, int64_t i) { return pairs->side[side].prompt_length[i]; }
static inline int pairs_completion(const Pairs *pairs, int side, int64_t i)
{
    return pairs_length(pairs, side, i) - pairs_prompt(pairs, side, i);
}
/* What an objective may know of pair i; its log-probs are 0 and for the caller to fill in (view_logps, view_frozen). */
PairView pairs_view(const Pairs *pairs, int64_t i);

/* The token with which the second segment begins. */
static inline int pairs_split(const Pairs *pairs, int side, int64_t i)
{
    return pairs_prompt(pairs, side, i) + pairs->segment_end[PAIR_SIDES * i + side];
}
/* Row of the category mask, [K]. */
static inline const uint8_t *pairs_categories(const Pairs *pairs, int64_t i)
{
    return pairs->category_mask + i * pairs->category_count;
}

/* Log-probabilities of all pairs, nats: [N] of the whole completions and, where they have segments, of the second. */
typedef struct PairLogps {
    double *whole[PAIR_SIDES];
    double *answer[PAIR_SIDES]; /* NULL: not wanted */
    float *features;            /* [N, sides, H] mean, over a completion's tokens, of the last hidden state (behind the
                                 * final norm) that predicts it; NULL: not wanted */
} PairLogps;

/* Those of pair i under the policy, and under the frozen models, into a view. */
static inline void view_logps(PairView *view, const PairLogps *policy, int64_t i)
{
    for (int side = 0; side < PAIR_SIDES; side++) {
        view->logp[side] = policy->whole[side][i];
        if (policy->answer[side]) view->answer[side] = policy->answer[side][i];
    }
}
static inline void view_frozen(PairView *view, const PairLogps *reference, const PairLogps *second, int64_t i)
{
    for (int side = 0; side < PAIR_SIDES; side++) {
        view->reference[side] = reference->whole[side][i];
        if (reference->answer[side]) view->answer_reference[side] = reference->answer[side][i];
        view->second[side] = second->whole[side][i];
    }
}

#endif
