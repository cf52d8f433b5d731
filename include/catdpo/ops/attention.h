/* Causal attention with grouped-query heads. It never communicates: a key/value group's heads are on one process row, a
 * sequence is on one process column.
 *
 * Arrays are column-major over this column's tokens. qkv[(heads/G + 2) d g x n] holds for each of the g local groups
 * its query heads, its key head and its value head (parameters.h); out and dout [heads/G d g x n] the query features in
 * the same order.
 */
#ifndef CATDPO_OPS_ATTENTION_H
#define CATDPO_OPS_ATTENTION_H

#include "catdpo/data/batch.h"
#include "catdpo/ops/rotary.h"

typedef struct AttentionShape {
    int groups;    /* local, g */
    int per_group; /* query heads a group */
    int head_dim;  /* d */
    int window;    /* a token sees so many tokens up to itself; 0: all of them */
    float scale;   /* of the scores, 1 / sqrt(d) as a rule */
} AttentionShape;

/* Keys and values of earlier passes in one layer, for each local group: keys[d x columns], then values[d x columns]. */
typedef struct CachedKeys {
    float *data; /* NULL: there is no cache; not owned */
    int columns;
} CachedKeys;

/* Floats of scratch that forward and backward need for segments (with all that they attend to) of up to `longest`
 * tokens. */
int64_t attention_scratch(const AttentionShape *s, int longest);

/* Scores that forward computes for the segments of batch, for one head: those that are masked in a block of queries
 * too. window: as in AttentionShape. */
double attention_scores(const Batch *batch, int window);

/* Rotates the query and key heads of the tokens of batch, in place on qkv. Local. */
void attention_rotate(const AttentionShape *s, const Batch *batch, const Rotary *rotary, float *qkv);
/* The gradient of the same, in place on dqkv. */
void attention_rotate_backward(const AttentionShape *s, const Batch *batch, const Rotary *rotary, float *dqkv);

/* Copies the keys and values of the segments that are kept to their place in the cache. qkv is prepared. */
void attention_keep(const AttentionShape *s, const Batch *batch, const float *qkv, const CachedKeys *cached);

/* out = softmax(scale q k') v over the keys within the window, of the pass and, for segments that ask for them, of the
 * cache (what they keep is there already); padding columns become zero. lse[heads/G g x n] = log-sum-exp of the scores,
 * for the backward. */
void attention_forward(const AttentionShape *s, const Batch *batch, const float *qkv, const CachedKeys *cached,
                       float *out, float *lse, float *scratch);
/* dqkv (overwritten; padding columns zero) from dout and what the forward saw and made, without a cache. */
void attention_backward(const AttentionShape *s, const Batch *batch, const float *qkv, const float *out,
                        const float *lse, const float *dout, float *dqkv, float *scratch);

#endif
