#include "catdpo/ops/linear.h"

#include "catdpo/parallel/gemm.h"

#include <stdint.h>

/* [rows x n] on every process column */
static Matrix activation(const Linear *l, const Axis *rows, int n, float *data)
{
    Axis columns = axis_make(l->grid->columns * n, n, l->grid->columns, l->grid->column);
    return matrix_make(l->grid, rows, &columns, rows->local, data);
}

/* y += x */
static void add(int n, const float *restrict x, float *restrict y)
{
    for (int i = 0; i < n; i++) y[i] += x[i];
}

void linear_forward(const Linear *l, int n, float *x, float beta, float *y)
{
    Matrix xm = activation(l, &l->in, n, x), ym = activation(l, &l->out, n, y);
    gemm(l->grid, PLAIN, &l->weight, PLAIN, &xm, beta, &ym);
    if (l->adapter) low_rank_forward(l->adapter, n, x, y);
    for (int t = 0; l->bias && t < n; t++) add(l->out.local, l->bias, y + (int64_t)t * l->out.local);
}

void linear_backward_input(const Linear *l, int n, float *dx, float *dy)
{
    Matrix dxm = activation(l, &l->in, n, dx), dym = activation(l, &l->out, n, dy);
    gemm(l->grid, TRANSPOSED, &l->weight, PLAIN, &dym, 0, &dxm);
    if (l->adapter) low_rank_backward_input(l->adapter, n, dx, dy);
}

void linear_backward_weight(const Linear *l, int n, float *x, float *dy, bool accumulate)
{
    Matrix xm = activation(l, &l->in, n, x), dym = activation(l, &l->out, n, dy), dw = l->gradient;
    if (dw.data) gemm(l->grid, PLAIN, &dym, TRANSPOSED, &xm, accumulate, &dw);
    if (l->adapter) low_rank_backward_weight(l->adapter, n, x, dy, accumulate);
    for (int t = 0; l->dbias && t < n; t++) add(l->out.local, dy + (int64_t)t * l->out.local, l->dbias);
}
