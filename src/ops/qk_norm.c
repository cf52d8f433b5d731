#include "catdpo/ops/qk_norm.h"

#include "catdpo/core/simd.h"
#include "catdpo/ops/rmsnorm.h"

#include <math.h>

enum { QUERY, KEY, PARTS };

/* Rows that have one r and follow each other in qkv, and their first weight. */
typedef struct Block {
    int part, at, length, weight;
} Block;

static int qkv_rows(const QkNorm *n) { return n->groups * (n->per_group + 2) * n->head_dim; }
/* In a group of heads: a block a head, or one of queries and one of keys. */
static int blocks_of_group(const QkNorm *n) { return n->joint ? PARTS : n->per_group + 1; }

static Block block_of(const QkNorm *n, int group, int i)
{
    int d = n->head_dim, queries = n->per_group * d, at = group * (queries + 2 * d);
    if (!n->joint) return (Block){ i == n->per_group ? KEY : QUERY, at + i * d, d, 0 };
    if (i == QUERY) return (Block){ QUERY, at, queries, group * queries };
    return (Block){ KEY, at + queries, d, group * d };
}

/* Features that one r is the mean over. */
static int features(const QkNorm *n, int part)
{
    return n->head_dim * (!n->joint ? 1 : part == KEY ? n->all_groups : n->all_groups * n->per_group);
}

static double rstd(const QkNorm *n, int part, double square_sum)
{
    return 1 / sqrt(square_sum / features(n, part) + n->epsilon);
}

void qk_norm_forward(const QkNorm *n, const Batch *batch, const float *q_weight, const float *k_weight, float *qkv,
                     float *raw, double *sums)
{
    int rows = qkv_rows(n), blocks = blocks_of_group(n);
    memcpy(raw, qkv, sizeof(float) * (size_t)rows * (size_t)batch->used);
    for (int t = 0; n->joint && t < batch->used; t++) {
        double *sum = sums + PARTS * t;
        sum[QUERY] = sum[KEY] = 0;
        for (int i = 0; i < n->groups * blocks; i++) {
            Block b = block_of(n, i / blocks, i % blocks);
            sum[b.part] += simd_square_sum(raw + (int64_t)t * rows + b.at, b.length);
        }
    }
    if (n->joint) rmsnorm_sum(n->grid, sums, PARTS * batch->used);
    for (int t = 0; t < batch->used; t++)
        for (int i = 0; i < n->groups * blocks; i++) {
            Block b = block_of(n, i / blocks, i % blocks);
            float *x = qkv + (int64_t)t * rows + b.at;
            const float *w = (b.part == KEY ? k_weight : q_weight) + b.weight;
            double square_sum = n->joint ? sums[PARTS * t + b.part] : simd_square_sum(x, b.length);
            float r = (float)rstd(n, b.part, square_sum);
            for (int j = 0; j < b.length; j++) x[j] = (n->offset + w[j]) * (x[j] * r);
        }
}

/* sum_j dy_j (offset + w_j) x_j */
static double weighted_product(const QkNorm *n, int length, const float *w, const float *x, const float *dy)
{
    double sum = 0;
    for (int j = 0; j < length; j++) sum += (double)dy[j] * (n->offset + w[j]) * x[j];
    return sum;
}

void qk_norm_backward(const QkNorm *n, const Batch *batch, const float *q_weight, const float *k_weight,
                      const float *raw, float *dqkv, float *dq_weight, float *dk_weight, double *sums)
{
    int rows = qkv_rows(n), blocks = blocks_of_group(n);
    for (int t = 0; n->joint && t < batch->used; t++) {
        double *sum = sums + 2 * PARTS * t; /* of x^2, then of the weighted products */
        sum[QUERY] = sum[KEY] = sum[PARTS + QUERY] = sum[PARTS + KEY] = 0;
        for (int i = 0; i < n->groups * blocks; i++) {
            Block b = block_of(n, i / blocks, i % blocks);
            int64_t at = (int64_t)t * rows + b.at;
            const float *w = (b.part == KEY ? k_weight : q_weight) + b.weight;
            sum[b.part] += simd_square_sum(raw + at, b.length);
            sum[PARTS + b.part] += weighted_product(n, b.length, w, raw + at, dqkv + at);
        }
    }
    if (n->joint) rmsnorm_sum(n->grid, sums, 2 * PARTS * batch->used);
    for (int t = 0; t < batch->used; t++)
        for (int i = 0; i < n->groups * blocks; i++) {
            Block b = block_of(n, i / blocks, i % blocks);
            int64_t at = (int64_t)t * rows + b.at;
            const float *w = (b.part == KEY ? k_weight : q_weight) + b.weight, *x = raw + at;
            const double *sum = sums + 2 * PARTS * t;
            float *dy = dqkv + at, *dw = b.part == KEY ? dk_weight : dq_weight;
            double r = rstd(n, b.part, n->joint ? sum[b.part] : simd_square_sum(x, b.length));
            double product = n->joint ? sum[PARTS + b.part] : weighted_product(n, b.length, w, x, dy);
            double scale = r * r * r / features(n, b.part) * product;
            for (int j = 0; j < b.length; j++) {
                if (dw) dw[b.weight + j] += (float)(dy[j] * x[j] * r);
                dy[j] = (float)(r * (n->offset + w[j]) * dy[j] - scale * x[j]);
            }
        }
}
