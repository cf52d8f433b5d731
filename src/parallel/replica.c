#include "catdpo/parallel/replica.h"

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Pairwise exchange: in round k this replica sends to replica + k what that one owns and gets from replica - k what it
 * owns. */
void replica_reduce_scatter(const Grid *grid, float *data, const int64_t *bounds, float *scratch)
{
    int me = grid->replica, replicas = grid->replicas;
    for (int round = 1; round < replicas; round++) {
        int to = (me + round) % replicas, from = (me - round + replicas) % replicas;
        int64_t out = bounds[to], out_end = bounds[to + 1], in = bounds[me], in_end = bounds[me + 1];
        while (out < out_end || in < in_end) {
            int64_t send = smaller(REPLICA_PIECE, out_end - out), receive = smaller(REPLICA_PIECE, in_end - in);
            CHECK_MPI(MPI_Sendrecv(data + out, (int)send, MPI_FLOAT, send ? to : MPI_PROC_NULL, 0, scratch,
                                   (int)receive, MPI_FLOAT, receive ? from : MPI_PROC_NULL, 0, grid->replica_comm,
                                   MPI_STATUS_IGNORE));
            for (int64_t i = 0; i < receive; i++) data[in + i] += scratch[i];
            out += send;
            in += receive;
        }
    }
}

void replica_allgather(const Grid *grid, float *data, const int64_t *bounds)
{
    int me = grid->replica, replicas = grid->replicas;
    for (int round = 1; round < replicas; round++) {
        int to = (me + round) % replicas, from = (me - round + replicas) % replicas;
        int64_t out = bounds[me], out_end = bounds[me + 1], in = bounds[from], in_end = bounds[from + 1];
        while (out < out_end || in < in_end) {
            int64_t send = smaller(8 * REPLICA_PIECE, out_end - out), receive = smaller(8 * REPLICA_PIECE, in_end - in);
            CHECK_MPI(MPI_Sendrecv(data + out, (int)send, MPI_FLOAT, send ? to : MPI_PROC_NULL, 0, data + in,
                                   (int)receive, MPI_FLOAT, receive ? from : MPI_PROC_NULL, 0, grid->replica_comm,
                                   MPI_STATUS_IGNORE));
            out += send;
            in += receive;
        }
    }
}
