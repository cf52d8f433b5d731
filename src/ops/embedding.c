#include "catdpo/ops/embedding.h"

#include <stdlib.h>
#include <string.h>

/* Sort the local indices of `axis` by owner(other): the features that two processes have in common, in increasing
 * order. */
static void sort_by_owner(const Axis *axis, const Axis *other, int *index, int *first)
{
    int count = 0;
    for (int part = 0; part < other->parts; part++) {
        first[part] = count;
        for (int i = 0; i < axis->local; i++)
            if (axis_owner(other, axis_global(axis, i)) == part) index[count++] = i;
    }
    first[other->parts] = count;
}

bool embedding_create(Embedding *e, const Grid *grid, int vocab, int hidden, float scale, int max_width, Error *err)
{
    size_t rows = (size_t)grid->rows, columns = (size_t)grid->columns;
    *e = (Embedding){
        .grid = grid,
        .vocab = axis_even(vocab, grid->rows, grid->row),
        .features = axis_even(hidden, grid->columns, grid->column),
        .hidden = axis_even(hidden, grid->rows, grid->row),
        .scale = scale,
    };
    e->send_feature = malloc(sizeof(int) * (size_t)(e->features.local + 1));
    e->receive_feature = malloc(sizeof(int) * (size_t)(e->hidden.local + 1));
    e->send_first = malloc(sizeof(int) * (rows + 1));
    e->receive_first = malloc(sizeof(int) * (columns + 1));
    e->send_row = malloc(sizeof(int) * (columns * (size_t)max_width + 1));
    e->send_row_first = malloc(sizeof(int) * (columns + 1));
    e->receive_token = malloc(sizeof(int) * (size_t)(max_width + 1));
    e->receive_token_first = malloc(sizeof(int) * (rows + 1));
    e->counts = malloc(sizeof(int) * 4 * rows * columns);
    if (!e->send_feature || !e->receive_feature || !e->send_first || !e->receive_first || !e->send_row ||
        !e->send_row_first || !e->receive_token || !e->receive_token_first || !e->counts) {
        embedding_free(e);
        return error_fault(err, "out of memory for the embedding's index lists");
    }
    sort_by_owner(&e->features, &e->hidden, e->send_feature, e->send_first);
    sort_by_owner(&e->hidden, &e->features, e->receive_feature, e->receive_first);
    return true;
}

void embedding_free(Embedding *e)
{
    free(e->send_feature);
    free(e->receive_feature);
    free(e->send_first);
    free(e->receive_first);
    free(e->send_row);
    free(e->send_row_first);
    free(e->receive_token);
    free(e->receive_token_first);
    free(e->counts);
    *e = (Embedding){ 0 };
}

int64_t embedding_send_floats(const Embedding *e, int max_width)
{
    return (int64_t)e->grid->columns * max_width * e->features.local;
}

int64_t embedding_receive_floats(const Embedding *e, int max_width) { return (int64_t)max_width * e->hidden.local; }

typedef struct Counts {
    int *send, *send_at, *receive, *receive_at; /* [R C], floats */
} Counts;

/* The index lists and counts of a pass. */
static Counts plan_exchange(Embedding *e, const Batch *batch)
{
    const Grid *grid = e->grid;
    int rows = grid->rows, columns = grid->columns, ranks = rows * columns, count = 0;
    for (int c = 0; c < columns; c++) {
        e->send_row_first[c] = count;
        for (int t = 0; t < batch->width; t++) {
            int token = batch->token[c * batch->width + t];
            if (token >= 0 && axis_owner(&e->vocab, token) == grid->row)
                e->send_row[count++] = axis_local(&e->vocab, token);
        }
    }
    e->send_row_first[columns] = count;

    const int *mine = batch->token + grid->column * batch->width;
    count = 0;
    for (int r = 0; r < rows; r++) {
        e->receive_token_first[r] = count;
        for (int t = 0; t < batch->width; t++)
            if (mine[t] >= 0 && axis_owner(&e->vocab, mine[t]) == r) e->receive_token[count++] = t;
    }
    e->receive_token_first[rows] = count;

    Counts n = { e->counts, e->counts + ranks, e->counts + 2 * ranks, e->counts + 3 * ranks };
    int sent = 0, received = 0;
    for (int rank = 0; rank < ranks; rank++) {
        int r = rank / columns, c = rank % columns;
        n.send[rank] = (e->send_row_first[c + 1] - e->send_row_first[c]) * (e->send_first[r + 1] - e->send_first[r]);
        n.receive[rank] = (e->receive_token_first[r + 1] - e->receive_token_first[r]) *
                          (e->receive_first[c + 1] - e->receive_first[c]);
        n.send_at[rank] = sent;
        n.receive_at[rank] = received;
        sent += n.send[rank];
        received += n.receive[rank];
    }
    return n;
}

void embedding_forward(Embedding *e, const Batch *batch, const float *table, float *x)
{
    Counts n = plan_exchange(e, batch);
    const Grid *grid = e->grid;
    for (int rank = 0; rank < grid->rows * grid->columns; rank++) {
        int r = rank / grid->columns, c = rank % grid->columns;
        float *out = e->send + n.send_at[rank];
        for (int f = e->send_first[r]; f < e->send_first[r + 1];
             f++) { /* feature by feature: a table column stays in cache */
            const float *column = table + (int64_t)e->send_feature[f] * e->vocab.local;
            for (int t = e->send_row_first[c]; t < e->send_row_first[c + 1]; t++) *out++ = column[e->send_row[t]];
        }
    }
    CHECK_MPI(MPI_Alltoallv(e->send, n.send, n.send_at, MPI_FLOAT, e->receive, n.receive, n.receive_at, MPI_FLOAT,
                            grid->comm));
    memset(x, 0, sizeof(float) * (size_t)batch->width * (size_t)e->hidden.local);
    for (int rank = 0; rank < grid->rows * grid->columns; rank++) {
        int r = rank / grid->columns, c = rank % grid->columns;
        const float *in = e->receive + n.receive_at[rank];
        for (int f = e->receive_first[c]; f < e->receive_first[c + 1]; f++)
            for (int t = e->receive_token_first[r]; t < e->receive_token_first[r + 1]; t++)
                x[(int64_t)e->receive_token[t] * e->hidden.local + e->receive_feature[f]] = e->scale * *in++;
    }
}

void embedding_backward(Embedding *e, const Batch *batch, const float *dx, float *dtable)
{
    Counts n = plan_exchange(e, batch);
    const Grid *grid = e->grid;
    for (int rank = 0; rank < grid->rows * grid->columns; rank++) {
        int r = rank / grid->columns, c = rank % grid->columns;
        float *out = e->receive + n.receive_at[rank];
        for (int f = e->receive_first[c]; f < e->receive_first[c + 1]; f++)
            for (int t = e->receive_token_first[r]; t < e->receive_token_first[r + 1]; t++)
                *out++ = e->scale * dx[(int64_t)e->receive_token[t] * e->hidden.local + e->receive_feature[f]];
    }
    CHECK_MPI(MPI_Alltoallv(e->receive, n.receive, n.receive_at, MPI_FLOAT, e->send, n.send, n.send_at, MPI_FLOAT,
                            grid->comm));
    for (int rank = 0; rank < grid->rows * grid->columns; rank++) {
        int r = rank / grid->columns, c = rank % grid->columns;
        const float *in = e->send + n.send_at[rank];
        for (int f = e->send_first[r]; f < e->send_first[r + 1]; f++) {
            float *column = dtable + (int64_t)e->send_feature[f] * e->vocab.local;
            for (int t = e->send_row_first[c]; t < e->send_row_first[c + 1]; t++) column[e->send_row[t]] += *in++;
        }
    }
}
