/* Head and loss in one pass. Logits exist for targets only and for a few groups of sequences (a Chunk) at a time: a
 * group's log-probs give its loss coefficients, which turn the logits in place into their gradient, which gives the
 * gradients of the hidden state and of the table. They are never kept.
 *
 * The vocabulary lies over process rows: largest logit and sums are combined over column_comm, a token at a time.
 */
#ifndef CATDPO_OPS_HEAD_H
#define CATDPO_OPS_HEAD_H

#include "catdpo/data/batch.h"
#include "catdpo/parallel/matrix.h"

/* Sums over the targets of a sequence. */
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

/* Buffers are views of the Transformer's one allocation of activations. */
typedef struct Head {
    Grid *grid;
    Axis vocab, features, hidden; /* as in embedding.h */
    int max_chunk;
    float *hidden_part;  /* [h x max_chunk] hidden state of the chunk's targets, then its gradient */
    float *dhidden_part; /* [h x max_chunk] */
    float *logits;       /* [v x max_chunk] */
    float *top, *shift;  /* [max_chunk] local largest logit; global largest, then log-sum-exp */
    double *sums;        /* [max_chunk x 4] */
    float *coefficient;  /* [sequences of a pass] */
} Head;

/* hidden[h x n] is the final norm's output. result[sequence_count] is filled on all ranks of the grid. With gradient !=
 * NULL also dhidden[h x n] (overwritten) and dtable (+=, or overwritten by the first chunk unless accumulate).
 * Collective over grid->comm. */
void head_run(Head *head, const Batch *batch, const float *hidden, float *table, SequenceResult *result,
              GroupGradient *gradient, void *context, float *dhidden, float *dtable, bool accumulate);

#endif
