/* A linear layer y = (W + s B A) x + b and its gradients: every product of the model's layers. x and y have features
 * over process rows and tokens over process columns, n of them on each. */
#ifndef CATDPO_OPS_LINEAR_H
#define CATDPO_OPS_LINEAR_H

#include "catdpo/ops/low_rank.h"

/* Views of the weights and their gradients; owns nothing. */
typedef struct Linear {
    Grid *grid;
    Axis in, out;           /* rows of x and of y */
    Matrix weight;          /* [out x in] */
    Matrix gradient;        /* [out x in]; data NULL where W is frozen or there is no backward pass */
    const float *bias;      /* [out.local]; NULL: none */
    float *dbias;           /* [out.local]; NULL where there is none, it is frozen, or there is no backward pass */
    const LowRank *adapter; /* NULL: none */
} Linear;

/* y[out x n] = (W + s B A) x[in x n] + b + beta y. Collective over grid->comm. */
void linear_forward(const Linear *l, int n, float *x, float beta, float *y);
/* dx[in x n] = (W + s B A)' dy[out x n]. Collective over grid->comm. */
void linear_backward_input(const Linear *l, int n, float *dx, float *dy);
/* dW = dy[out x n] x[in x n]' (+ dW if accumulate); db += the sum of dy over this process column's tokens; the
 * adapter's gradients likewise, for which linear_backward_input has to be called before with the same dy. Nothing for
 * what is frozen. Collective over grid->comm. */
void linear_backward_weight(const Linear *l, int n, float *x, float *dy, bool accumulate);

#endif
