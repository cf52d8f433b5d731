/* Sums over replicas. Each replica owns a share of the flat parameter array: the gradient's share is summed at its
 * owner, the owner updates it, and the weights' share is sent to the others. */
#ifndef CATDPO_PARALLEL_REPLICA_H
#define CATDPO_PARALLEL_REPLICA_H

#include "catdpo/parallel/grid.h"

#include <stdint.h>

enum { REPLICA_PIECE = 1 << 18 }; /* floats in one message: 1 MiB, so that the addition stays in cache */

/* Share d of the flat array is [bounds[d], bounds[d+1]) (D+1 numbers, the same on all replicas); it is summed in the
 * order of replicas d, d-1, d-2, ... (cyclic), so the same layout gives the same bits. Afterwards only this replica's
 * own share of data is meaningful. scratch: REPLICA_PIECE floats. Collective over replica_comm. */
void replica_reduce_scatter(const Grid *grid, float *data, const int64_t *bounds, float *scratch);

/* Every replica sends its share to all others. Collective over replica_comm. */
void replica_allgather(const Grid *grid, float *data, const int64_t *bounds);

#endif
