/* The embedding look-up: the one place where data changes its distribution. The table [V x H] has the vocabulary over
 * process rows and features over process columns; the activations [H x N C] have features over process rows and tokens
 * over process columns. Every rank knows all token ids of a pass, so one vector collective each way is enough. */
#ifndef CATDPO_OPS_EMBEDDING_H
#define CATDPO_OPS_EMBEDDING_H

#include "catdpo/data/batch.h"
#include "catdpo/parallel/matrix.h"

typedef struct Embedding {
    const Grid *grid;
    Axis vocab;               /* over process rows: the table's rows */
    Axis features;            /* over process columns: the table's columns */
    Axis hidden;              /* over process rows: the activations' rows */
    float scale;              /* that the rows of the table are multiplied with */
    int *send_feature;        /* [features.local] local table columns, sorted by the process row that wants them */
    int *send_first;          /* [R + 1] */
    int *receive_feature;     /* [hidden.local] local activation rows, sorted by the process column that has them */
    int *receive_first;       /* [C + 1] */
    int *send_row;            /* [C max_width] local table rows, by the process column that wants them */
    int *send_row_first;      /* [C + 1] */
    int *receive_token;       /* [max_width] local token columns, by the process row that has them */
    int *receive_token_first; /* [R + 1] */
    int *counts;              /* [4 R C] MPI counts and displacements */
    float *send, *receive;    /* not owned: see embedding_buffers */
} Embedding;

bool embedding_create(Embedding *e, const Grid *grid, int vocab, int hidden, float scale, int max_width, Error *err);
void embedding_free(Embedding *e);
/* Floats of the two buffers that the caller has to give (Embedding.send, .receive). */
int64_t embedding_send_floats(const Embedding *e, int max_width);
int64_t embedding_receive_floats(const Embedding *e, int max_width);

/* x[h x n] = scale * rows of table[v x h_c] for the tokens of batch; padding becomes zero. Collective over grid->comm.
 */
void embedding_forward(Embedding *e, const Batch *batch, const float *table, float *x);
/* dtable[v x h_c] += scale * dx. Collective over grid->comm. */
void embedding_backward(Embedding *e, const Batch *batch, const float *dx, float *dtable);

#endif
