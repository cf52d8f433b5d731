/* Head and loss in one pass. Logits exist for targets only and for a few groups of sequences (a Chunk) at a time: a
 * group's log-probs give its loss coefficients, which turn the logits in place into their gradient, which gives the
 * gradients of the hidden state and of the table. They are never kept. Without a loss, a reader may look at the logits
 * while they are there: to choose the next tokens by.
 *
 * The vocabulary lies over process rows: largest logit and sums are combined over column_comm, a token at a time.
 */
#ifndef CATDPO_OPS_HEAD_H
#define CATDPO_OPS_HEAD_H

#include "catdpo/data/batch.h"
#include "catdpo/parallel/matrix.h"

/* Sums over the targets of a sequence of which the token is known. */
typedef struct SequenceResult {
    double logp;    /* log-probability, nats */
    double entropy; /* of the predictions, nats */
    double correct; /* tokens that were the most likely one */
    double logits;  /* mean logit over the vocabulary, summed over tokens */
} SequenceResult;

/* Given the results of the sequences of groups [first, first + count) of the batch, set the coefficient d loss / d logp
 * of each; both are indexed by sequence of the pass. Same answer on all ranks of the grid. Not collective. */
typedef void GroupGradient(void *context, const Batch *batch, int first, int count, const SequenceResult *result,
                           float *coefficient);

/* The logits of a chunk: those of `count` targets of this process column, for this process row's part of the
 * vocabulary.
 */
typedef struct ChunkLogits {
    int count;
    const Target *target; /* [count] */
    const Axis *vocab;
    float *logits;         /* [v x count]; the reader may change them */
    const float *top;      /* [count] largest logit, over the whole vocabulary */
    const double *lse;     /* [count] log-sum-exp, over the whole vocabulary: token r has the log-prob logit[r] - lse */
    const double *entropy; /* [count] of the prediction, nats */
} ChunkLogits;

/* Called for every chunk that has targets anywhere, on all ranks of the grid, so it may communicate. */
typedef void LogitsReader(void *context, const ChunkLogits *logits);

/* Buffers are views of the Transformer's one allocation of activations. */
typedef struct Head {
    Grid *grid;
    Axis vocab, features, hidden; /* as in embedding.h */
    int max_chunk;
    float *hidden_part;  /* [h x max_chunk] hidden state of the chunk's targets, then its gradient */
    float *dhidden_part; /* [h x max_chunk] */
    float *logits;       /* [v x max_chunk] */
    float *top, *shift;  /* [max_chunk] largest logit, local, then global; log-sum-exp */
    double *sums;        /* [max_chunk x 4] */
    double *lse;         /* [max_chunk] log-sum-exp */
    double *entropy;     /* [max_chunk] */
    float *coefficient;  /* [sequences of a pass] */
} Head;

/* hidden[h x n] is the final norm's output, table[v x h_c] the weights. result[sequence_count] is filled on all ranks
 * of the grid; read (NULL: nobody) sees the logits. Collective over grid->comm. */
void head_forward(Head *head, const Batch *batch, const float *hidden, float *table, SequenceResult *result,
                  LogitsReader *read, void *context);

/* The same without a reader, and with the gradients: dhidden[h x n] (overwritten) and dtable (NULL: not wanted; +=, or
 * overwritten by the first chunk unless accumulate). All targets are known. Collective over grid->comm. */
void head_run(Head *head, const Batch *batch, const float *hidden, float *table, SequenceResult *result,
              GroupGradient *gradient, void *context, float *dhidden, float *dtable, bool accumulate);

#endif
