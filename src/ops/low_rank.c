#include "catdpo/ops/low_rank.h"

#include "catdpo/parallel/gemm.h"

#include <string.h>

int low_rank_block(int rank, int columns)
{
    int block = (rank + columns - 1) / columns;
    while (rank % block != 0) block++;
    return block;
}

/* [rows x n] on every process column */
static Matrix activation(const LowRank *l, const Axis *rows, int n, float *data)
{
    Axis columns = axis_make(l->grid->columns * n, n, l->grid->columns, l->grid->column);
    return matrix_make(l->grid, rows, &columns, rows->local, data);
}

static Matrix wide_matrix(const LowRank *l, float *data)
{
    return matrix_make(l->grid, &l->out, &l->inner_wide, l->out.local, data);
}

/* ---- B and its wide form ---------------------------------------------------------------------------------------- */

/* Rows of a part that lie together: in B, and in a column of `wide` that is the part's. */
typedef struct Run {
    int64_t b, wide;
    int rows;
} Run;

/* In local row block `block`; the last one may be short, and then all its parts are shortened alike. */
static Run run_of(const LowRank *l, int block, int part)
{
    int start = block * l->out.block, length = l->out.local - start, before = 0;
    if (length > l->out.block) length = l->out.block;
    for (int p = 0; p < part; p++) before += l->part[p].rows;
#define SHORT(rows) ((int)((int64_t)(rows)*length / l->out.block))
    return (Run){ .b = (int64_t)block * l->block + SHORT(before),
                  .wide = start + SHORT(l->part[part].first),
                  .rows = SHORT(l->part[part].rows) };
#undef SHORT
}

/* wide = s B */
static void widen(const LowRank *l)
{
    memset(l->wide, 0, sizeof(float) * (size_t)l->out.local * (size_t)l->inner_wide.local);
    for (int part = 0; part < l->parts; part++)
        for (int block = 0; block * l->out.block < l->out.local; block++) {
            Run run = run_of(l, block, part);
            for (int c = 0; c < l->columns; c++) {
                const float *b = l->b + (int64_t)c * l->rows + run.b;
                float *wide = l->wide + (int64_t)(part * l->columns + c) * l->out.local + run.wide;
                for (int i = 0; i < run.rows; i++) wide[i] = l->scale * b[i];
            }
        }
}

/* db = (db if accumulate +) s dwide, where B has elements */
static void gather_gradient(const LowRank *l, bool accumulate)
{
    for (int part = 0; part < l->parts; part++)
        for (int block = 0; block * l->out.block < l->out.local; block++) {
            Run run = run_of(l, block, part);
            for (int c = 0; c < l->columns; c++) {
                float *db = l->db + (int64_t)c * l->rows + run.b;
                const float *wide = l->dwide + (int64_t)(part * l->columns + c) * l->out.local + run.wide;
                for (int i = 0; i < run.rows; i++) db[i] = (accumulate ? db[i] : 0) + l->scale * wide[i];
            }
        }
}

/* ---- products --------------------------------------------------------------------------------------------------- */

void low_rank_forward(const LowRank *l, int n, float *x, float *y)
{
    Matrix xm = activation(l, &l->in, n, x), ym = activation(l, &l->out, n, y), z = activation(l, &l->inner, n, l->z),
           wide = wide_matrix(l, l->wide);
    widen(l);
    gemm(l->grid, PLAIN, &l->a, PLAIN, &xm, 0, &z);
    gemm(l->grid, PLAIN, &wide, PLAIN, &z, 1, &ym);
}

void low_rank_backward_input(const LowRank *l, int n, float *dx, float *dy)
{
    Matrix dxm = activation(l, &l->in, n, dx), dym = activation(l, &l->out, n, dy),
           dz = activation(l, &l->inner, n, l->dz), wide = wide_matrix(l, l->wide);
    widen(l);
    gemm(l->grid, TRANSPOSED, &wide, PLAIN, &dym, 0, &dz);
    gemm(l->grid, TRANSPOSED, &l->a, PLAIN, &dz, 1, &dxm);
}

void low_rank_backward_weight(const LowRank *l, int n, float *x, float *dy, bool accumulate)
{
    Matrix xm = activation(l, &l->in, n, x), dym = activation(l, &l->out, n, dy), z = activation(l, &l->inner, n, l->z),
           dz = activation(l, &l->inner, n, l->dz), dwide = wide_matrix(l, l->dwide), da = l->da;
    gemm(l->grid, PLAIN, &l->a, PLAIN, &xm, 0, &z);
    gemm(l->grid, PLAIN, &dym, TRANSPOSED, &z, 0, &dwide);
    gather_gradient(l, accumulate);
    gemm(l->grid, PLAIN, &dz, TRANSPOSED, &xm, accumulate, &da);
}

void low_rank_merge(const LowRank *l, Matrix *weight)
{
    Matrix wide = wide_matrix(l, l->wide);
    widen(l);
    gemm(l->grid, PLAIN, &wide, PLAIN, &l->a, 1, weight);
}
