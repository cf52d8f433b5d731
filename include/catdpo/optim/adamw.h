/* AdamW on local shards, and what has to be summed over ranks before it.
 *
 * Gradients of matrices come out of PBLAS complete for a replica; those of vectors are of one process column's tokens
 * only. Replicas share the flat array out (parameters_share): each sums and, with `shard`, updates and keeps moments
 * for its own share only.
 */
#ifndef CATDPO_OPTIM_ADAMW_H
#define CATDPO_OPTIM_ADAMW_H

#include "catdpo/model/parameters.h"

typedef struct OptimizerSettings {
    double beta1, beta2, epsilon;
    double weight_decay;  /* of matrices; vectors (norms, biases) are not decayed */
    double max_grad_norm; /* 0: no clipping */
    bool shard;
} OptimizerSettings;

typedef struct Optimizer {
    OptimizerSettings settings;
    const Parameters *parameters; /* not owned */
    const Grid *grid;             /* not owned */
    int64_t *bounds;              /* [D + 1] shares of the flat array */
    int64_t first, end;           /* what this replica updates: its share, or all */
    float *m, *v;                 /* [end - first] */
    float *scratch;               /* one message */
    int64_t updates;              /* done so far */
    int64_t moment_bytes;
} Optimizer;

/* Moments start at zero. Collective over grid->world, errors agreed. */
bool optimizer_create(Optimizer *o, const Parameters *p, const Grid *grid, const OptimizerSettings *settings,
                      Error *err);
void optimizer_free(Optimizer *o);

/* Sums gradients (of this replica's passes) over process columns and replicas; afterwards this replica's share is
 * complete. Collective over world. */
void optimizer_reduce(Optimizer *o, float *gradients);

/* Norm of the summed gradient over all ranks, the same number on each. Collective over world. */
double optimizer_norm(const Optimizer *o, const float *gradients);

/* One AdamW update of the weights on all ranks with the gradient scaled to max_grad_norm if `norm` is larger (true: it
 * was). w -= rate (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon) + weight_decay w). Collective over
 * replica_comm. */
bool optimizer_update(Optimizer *o, float *weights, const float *gradients, double rate, double norm);

/* Sends the updated shares to all replicas. Collective over replica_comm. */
void optimizer_spread(const Optimizer *o, float *weights);

#endif
