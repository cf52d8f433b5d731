/* What LoRA adds to a frozen weight: W x + s B A x. The matrix that is adapted may consist of parts with rows of their
 * own (q, k and v): each adapted part has its own A and B of rank r.
 *
 *     A     [parts r x in]   the parts' A one below the other, in blocks of `inner`
 *     B     [rows x r]       the rows of the adapted parts, dealt out as those of W are
 *     wide  [out x parts r]  s B with a column block for each part, zero elsewhere: made from B before each use, so
 * that one product serves all parts
 *
 * `in` lies over process columns and `out` over process rows, as in W; the rank over the other axis only as far as it
 * divides evenly (low_rank_block). All products are psgemm; x and y are as in linear.h. */
#ifndef CATDPO_OPS_LOW_RANK_H
#define CATDPO_OPS_LOW_RANK_H

#include "catdpo/parallel/matrix.h"

#include <stdint.h>

enum { LOW_RANK_PARTS = 3 };

/* Rows of an adapted part in a full row block of W. */
typedef struct LowRankPart {
    int first, rows;
} LowRankPart;

/* Views and buffers; owns nothing. */
typedef struct LowRank {
    Grid *grid;
    Axis in, out;           /* rows of x and y */
    Axis inner, inner_wide; /* rows of A x over process rows; columns of `wide` over process columns */
    LowRankPart part[LOW_RANK_PARTS];
    int parts;
    int rows, columns;   /* of B on this rank */
    int block;           /* rows of B in a full row block */
    float scale;         /* s = alpha / r, or alpha / sqrt(r) */
    Matrix a, da;        /* da: data NULL where there is no backward pass, like db */
    float *b, *db;       /* [rows x columns] */
    float *wide, *dwide; /* [out.local x inner_wide.local] buffers that layers share */
    float *z, *dz;       /* [inner.local x n] likewise: A x and its gradient */
} LowRank;

/* Into how many pieces the rank is cut: their length, the least divisor of `rank` of which a row of `columns` processes
 * holds at most one each. */
int low_rank_block(int rank, int columns);

/* y[out x n] += s B A x[in x n]. Collective over grid->comm. */
void low_rank_forward(const LowRank *l, int n, float *x, float *y);
/* dx[in x n] += s A' B' dy[out x n]; leaves s B' dy in l->dz. Collective over grid->comm. */
void low_rank_backward_input(const LowRank *l, int n, float *dx, float *dy);
/* dA and dB (+= if accumulate, else =) from x and dy, of which low_rank_backward_input has been called with the same dy
 * last. Collective over grid->comm. */
void low_rank_backward_weight(const LowRank *l, int n, float *x, float *dy, bool accumulate);
/* W[out x in] += s B A. Collective over grid->comm. */
void low_rank_merge(const LowRank *l, Matrix *weight);

#endif
