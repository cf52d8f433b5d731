/* RMSNorm: y = (offset + w) * x * r with r = 1 / sqrt(mean(x^2) + epsilon), one r a token.
 * Features lie over process rows, so one sum over column_comm a token is all that is communicated. */
#ifndef CATDPO_OPS_RMSNORM_H
#define CATDPO_OPS_RMSNORM_H

#include "catdpo/parallel/grid.h"

typedef struct NormShape {
    const Grid *grid;
    int hidden; /* H, over all rows */
    int h, n;   /* local features, tokens (columns); arrays are h x n, column-major */
    double epsilon;
    float offset; /* 0, or 1 where weights are kept as their distance from 1 */
} NormShape;

/* values[n] summed up over process rows. Collective over column_comm. */
void rmsnorm_sum(const Grid *grid, double *values, int n);
/* rstd[n] = r of each token. sums: n doubles of scratch. Collective over column_comm. */
void rmsnorm_statistics(const NormShape *s, const float *x, float *rstd, double *sums);
/* y[h x n] from x, its rstd and w[h]. Local. */
void rmsnorm_apply(const NormShape *s, const float *x, const float *rstd, const float *w, float *y);
/* Given dy: dx[h x n] += its gradient, dw[h] (NULL: not wanted) += its gradient (this rank's tokens). sums: n doubles.
 * Collective over column_comm. */
void rmsnorm_backward(const NormShape *s, const float *x, const float *rstd, const float *w, const float *dy, float *dx,
                      float *dw, double *sums);

#endif
