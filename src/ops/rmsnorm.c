#include "catdpo/ops/rmsnorm.h"

#include "catdpo/core/simd.h"

#include <math.h>

void rmsnorm_sum(const Grid *grid, double *values, int n)
{
    if (grid->rows > 1 && n > 0)
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, values, n, MPI_DOUBLE, MPI_SUM, grid->column_comm));
}

void rmsnorm_statistics(const NormShape *s, const float *x, float *rstd, double *sums)
{
    for (int t = 0; t < s->n; t++) sums[t] = simd_square_sum(x + (int64_t)t * s->h, s->h);
    rmsnorm_sum(s->grid, sums, s->n);
    for (int t = 0; t < s->n; t++) rstd[t] = (float)(1 / sqrt(sums[t] / s->hidden + s->epsilon));
}

SIMD_CLONES
void rmsnorm_apply(const NormShape *s, const float *x, const float *rstd, const float *w, float *y)
{
    for (int t = 0; t < s->n; t++) {
        const float *in = x + (int64_t)t * s->h;
        float *out = y + (int64_t)t * s->h, r = rstd[t], offset = s->offset;
        for (int i = 0; i < s->h; i++) out[i] = (offset + w[i]) * (in[i] * r);
    }
}

/* sum_i dy_i (offset + w_i) x_i */
SIMD_CLONES
static float input_sum(int h, const float *x, float offset, const float *w, const float *dy)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < h; i++) sum += dy[i] * x[i] * (offset + w[i]);
    return sum;
}

/* The same, and dw_i += dy_i x_i r */
SIMD_CLONES
static float backward_sums(int h, const float *x, float r, float offset, const float *w, const float *dy, float *dw)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < h; i++) {
        float product = dy[i] * x[i];
        sum += product * (offset + w[i]);
        dw[i] += product * r;
    }
    return sum;
}

/* dx_i += r (offset + w_i) dy_i - r^3 / H * sum * x_i */
SIMD_CLONES
static void backward_token(int h, const float *x, float r, float scale, float offset, const float *w, const float *dy,
                           float *dx)
{
    for (int i = 0; i < h; i++) dx[i] += r * (offset + w[i]) * dy[i] - scale * x[i];
}

void rmsnorm_backward(const NormShape *s, const float *x, const float *rstd, const float *w, const float *dy, float *dx,
                      float *dw, double *sums)
{
    for (int t = 0; t < s->n; t++) {
        int64_t at = (int64_t)t * s->h;
        sums[t] = dw ? backward_sums(s->h, x + at, rstd[t], s->offset, w, dy + at, dw)
                     : input_sum(s->h, x + at, s->offset, w, dy + at);
    }
    rmsnorm_sum(s->grid, sums, s->n);
    for (int t = 0; t < s->n; t++) {
        int64_t at = (int64_t)t * s->h;
        double r = rstd[t];
        backward_token(s->h, x + at, rstd[t], (float)(r * r * r * sums[t] / s->hidden), s->offset, w, dy + at, dx + at);
    }
}
