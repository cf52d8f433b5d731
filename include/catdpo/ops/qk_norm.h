/* RMSNorm of queries and keys, in place on qkv (attention.h): of each head by itself, or jointly of all query heads and
 * of all key heads, which takes one sum over process rows. */
#ifndef CATDPO_OPS_QK_NORM_H
#define CATDPO_OPS_QK_NORM_H

#include "catdpo/data/batch.h"

typedef struct QkNorm {
    const Grid *grid;
    int groups;     /* local, g */
    int all_groups; /* G */
    int per_group;  /* query heads a group */
    int head_dim;   /* d */
    bool joint;
    double epsilon;
    float offset; /* added to the weights, as in rmsnorm.h */
} QkNorm;

/* raw[as qkv] keeps the values before the norm. q_weight, k_weight: [d], the same for all heads, or joint [heads/G d g]
 * and [d g]. sums: 2 doubles a token if joint, else NULL. Then collective over column_comm, otherwise local. */
void qk_norm_forward(const QkNorm *n, const Batch *batch, const float *q_weight, const float *k_weight, float *qkv,
                     float *raw, double *sums);
/* The gradient of the same, in place on dqkv; dq_weight, dk_weight (NULL: not wanted) +=. sums: 4 doubles a token if
 * joint. */
void qk_norm_backward(const QkNorm *n, const Batch *batch, const float *q_weight, const float *k_weight,
                      const float *raw, float *dqkv, float *dq_weight, float *dk_weight, double *sums);

#endif
