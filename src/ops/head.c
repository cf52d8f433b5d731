#include "catdpo/ops/head.h"

#include "catdpo/parallel/gemm.h"
#include "catdpo/core/simd.h"

#include <math.h>

enum { SUM_EXP, SUM_EXP_LOGIT, SUM_LOGIT, TARGET_LOGIT, SUMS };

/* Over one token's local logits: sums of exp(x - top), exp(x - top) (x - top) and x. Pieces in float, their sums in
 * double: a vocabulary is long enough for float alone to be off by 1e-5 nats. */
SIMD_CLONES
static void logit_sums(const float *x, int n, float top, double *sums)
{
    enum { PIECE = 1024 };
    sums[SUM_EXP] = sums[SUM_EXP_LOGIT] = sums[SUM_LOGIT] = 0;
    for (int start = 0; start < n; start += PIECE) {
        int end = start + PIECE < n ? start + PIECE : n;
        float exponentials = 0, weighted = 0, plain = 0;
#pragma omp simd reduction(+ : exponentials, weighted, plain)
        for (int i = start; i < end; i++) {
            float e = simd_exp(x[i] - top);
            exponentials += e;
            weighted += e * (x[i] - top);
            plain += x[i];
        }
        sums[SUM_EXP] += exponentials;
        sums[SUM_EXP_LOGIT] += weighted;
        sums[SUM_LOGIT] += plain;
    }
}

/* x = -c exp(x - shift) */
SIMD_CLONES
static void softmax_gradient(float *x, int n, float shift, float c)
{
    for (int i = 0; i < n; i++) x[i] = -c * simd_exp(x[i] - shift);
}

static Matrix chunk_matrix(const Head *head, const Axis *rows, int width, float *data)
{
    Axis columns = axis_make(head->grid->columns * width, width, head->grid->columns, head->grid->column);
    return matrix_make(head->grid, rows, &columns, rows->local, data);
}

/* hidden_part = the hidden state of the chunk's targets; padding becomes zero. */
static void gather(const Head *head, const Batch *batch, const Chunk *chunk, int count, const float *hidden)
{
    size_t h = (size_t)head->hidden.local;
    for (int j = 0; j < count; j++)
        memcpy(head->hidden_part + (size_t)j * h, hidden + (size_t)batch->target[chunk->target + j].column * h,
               sizeof(float) * h);
    memset(head->hidden_part + (size_t)count * h, 0, sizeof(float) * h * (size_t)(chunk->width - count));
}

/* dhidden += dhidden_part, for the chunk's targets */
SIMD_CLONES
static void scatter(const Head *head, const Batch *batch, const Chunk *chunk, int count, float *dhidden)
{
    int h = head->hidden.local;
    for (int j = 0; j < count; j++) {
        float *out = dhidden + (int64_t)batch->target[chunk->target + j].column * h;
        const float *in = head->dhidden_part + (int64_t)j * h;
        for (int i = 0; i < h; i++) out[i] += in[i];
    }
}

/* Row of the target's logit on this rank, or -1. */
static int target_row(const Head *head, int token)
{
    return token >= 0 && axis_owner(&head->vocab, token) == head->grid->row ? axis_local(&head->vocab, token) : -1;
}

static void add_token(SequenceResult *sum, const SequenceResult *token)
{
    sum->logp += token->logp;
    sum->entropy += token->entropy;
    sum->correct += token->correct;
    sum->logits += token->logits;
}

/* Statistics of every target of the chunk into result; head->lse and shift become the targets' log-sum-exp, top their
 * largest logit. Collective over column_comm. */
static void measure(const Head *head, const Batch *batch, const Chunk *chunk, int count, SequenceResult *result)
{
    const Grid *grid = head->grid;
    int v = head->vocab.local;
    for (int j = 0; j < count; j++) {
        const float *x = head->logits + (int64_t)j * v;
        double *sums = head->sums + (int64_t)j * SUMS;
        int row = target_row(head, batch->target[chunk->target + j].token);
        head->shift[j] = head->top[j] = simd_max(x, v);
        logit_sums(x, v, head->top[j], sums);
        sums[TARGET_LOGIT] = row >= 0 ? x[row] : 0;
    }
    if (grid->rows > 1 && count > 0) {
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, head->shift, count, MPI_FLOAT, MPI_MAX, grid->column_comm));
        for (int j = 0; j < count; j++) { /* from the local to the global largest logit */
            double *sums = head->sums + (int64_t)j * SUMS, step = (double)head->top[j] - head->shift[j],
                   factor = exp(step);
            sums[SUM_EXP_LOGIT] = v > 0 ? factor * (sums[SUM_EXP_LOGIT] + step * sums[SUM_EXP]) : 0;
            sums[SUM_EXP] = v > 0 ? factor * sums[SUM_EXP] : 0;
        }
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, head->sums, count * SUMS, MPI_DOUBLE, MPI_SUM, grid->column_comm));
    }
    for (int j = 0; j < count; j++) {
        const double *sums = head->sums + (int64_t)j * SUMS;
        const Target *target = &batch->target[chunk->target + j];
        double log_sum = log(sums[SUM_EXP]);
        head->top[j] = head->shift[j];
        head->lse[j] = head->shift[j] + log_sum;
        head->shift[j] = (float)head->lse[j];
        head->entropy[j] = log_sum - sums[SUM_EXP_LOGIT] / sums[SUM_EXP];
        if (target->token < 0) continue;
        SequenceResult *whole = &result[target->sequence - target->part];
        const SequenceResult token = { .logp = sums[TARGET_LOGIT] - head->lse[j],
                                       .entropy = head->entropy[j],
                                       .correct = sums[TARGET_LOGIT] >= head->top[j],
                                       .logits = sums[SUM_LOGIT] / head->vocab.length };
        add_token(whole, &token);
        if (target->part > 0) add_token(whole + target->part, &token);
    }
}

/* logits become d loss / d logits = c (1[target] - softmax); padding becomes zero. */
static void differentiate(const Head *head, const Batch *batch, const Chunk *chunk, int count)
{
    int v = head->vocab.local;
    for (int j = 0; j < count; j++) {
        const Target *target = &batch->target[chunk->target + j];
        float *x = head->logits + (int64_t)j * v, c = head->coefficient[target->sequence];
        softmax_gradient(x, v, head->shift[j], c);
        int row = target_row(head, target->token);
        if (row >= 0) x[row] += c;
    }
    memset(head->logits + (int64_t)count * v, 0, sizeof(float) * (size_t)(chunk->width - count) * (size_t)v);
}

/* Targets of the chunk on this process column. */
static int chunk_targets(const Chunk *chunk) { return chunk[1].target - chunk->target; }

static Matrix weight_matrix(const Head *head, float *table)
{
    return matrix_make(head->grid, &head->vocab, &head->features, head->vocab.local, table);
}

/* The chunk's logits and the results of its sequences. Collective over comm. */
static void chunk_forward(Head *head, const Batch *batch, const Chunk *chunk, const float *hidden, float *table,
                          SequenceResult *result)
{
    int first = batch->group[chunk->group].sequence, sequences = batch->group[chunk[1].group].sequence - first;
    CHECK(chunk->width <= head->max_chunk);
    gather(head, batch, chunk, chunk_targets(chunk), hidden);
    Matrix weight = weight_matrix(head, table), x = chunk_matrix(head, &head->hidden, chunk->width, head->hidden_part),
           logits = chunk_matrix(head, &head->vocab, chunk->width, head->logits);
    gemm(head->grid, PLAIN, &weight, PLAIN, &x, 0, &logits);
    measure(head, batch, chunk, chunk_targets(chunk), result);
    if (head->grid->columns > 1) /* a sequence is on one process column: the others add zero */
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &result[first], sequences * (int)(sizeof *result / sizeof(double)),
                                MPI_DOUBLE, MPI_SUM, head->grid->row_comm));
}

/* From the coefficients: += dhidden; += dtable (NULL: not wanted) if accumulate, else =. Collective over comm. */
static void chunk_backward(Head *head, const Batch *batch, const Chunk *chunk, float *table, float *dhidden,
                           float *dtable, bool accumulate)
{
    Matrix weight = weight_matrix(head, table), x = chunk_matrix(head, &head->hidden, chunk->width, head->hidden_part),
           logits = chunk_matrix(head, &head->vocab, chunk->width, head->logits);
    differentiate(head, batch, chunk, chunk_targets(chunk));
    Matrix dx = chunk_matrix(head, &head->hidden, chunk->width, head->dhidden_part);
    gemm(head->grid, TRANSPOSED, &weight, PLAIN, &logits, 0, &dx);
    scatter(head, batch, chunk, chunk_targets(chunk), dhidden);
    if (!dtable) return;
    Matrix dweight = weight_matrix(head, dtable);
    gemm(head->grid, PLAIN, &logits, TRANSPOSED, &x, accumulate, &dweight);
}

void head_forward(Head *head, const Batch *batch, const float *hidden, float *table, SequenceResult *result,
                  LogitsReader *read, void *context)
{
    memset(result, 0, sizeof *result * (size_t)batch->sequence_count);
    for (const Chunk *chunk = batch->chunk; chunk < batch->chunk + batch->chunk_count; chunk++) {
        if (chunk->width == 0) continue; /* nothing is predicted on any process column */
        chunk_forward(head, batch, chunk, hidden, table, result);
        if (!read) continue;
        read(context, &(ChunkLogits){ .count = chunk_targets(chunk),
                                      .target = batch->target + chunk->target,
                                      .vocab = &head->vocab,
                                      .logits = head->logits,
                                      .top = head->top,
                                      .lse = head->lse,
                                      .entropy = head->entropy });
    }
}

void head_run(Head *head, const Batch *batch, const float *hidden, float *table, SequenceResult *result,
              GroupGradient *gradient, void *context, float *dhidden, float *dtable, bool accumulate)
{
    memset(result, 0, sizeof *result * (size_t)batch->sequence_count);
    memset(dhidden, 0, sizeof(float) * (size_t)batch->width * (size_t)head->hidden.local);
    for (int i = 0; i < batch->chunk_count; i++) {
        const Chunk *chunk = &batch->chunk[i];
        chunk_forward(head, batch, chunk, hidden, table, result);
        gradient(context, batch, chunk->group, chunk[1].group - chunk->group, result, head->coefficient);
        chunk_backward(head, batch, chunk, table, dhidden, dtable, accumulate || i > 0);
    }
}
