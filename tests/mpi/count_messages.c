/* Counts what a program sends through MPI, at MPI's profiling layer: linked into a test, or loaded before a program's
 * own libraries (LD_PRELOAD). With CATDPO_COUNT set, MPI_Finalize writes one line a rank into the file
 * "$CATDPO_COUNT.<rank>": bytes and messages.
 *
 * Bytes are those that leave a rank for another one. What a collective really sends is the MPI library's choice; it is
 * counted as the least that any algorithm needs: a broadcast or reduction over P ranks P - 1 times its size in all, an
 * Allreduce twice that.
 */
#include "count_messages.h"

#include <stdio.h>
#include <stdlib.h>

static double sent, calls;

double messages_bytes(void) { return sent; }
double messages_calls(void) { return calls; }

static double size_of(double count, MPI_Datatype type)
{
    int size;
    PMPI_Type_size(type, &size);
    return count * size;
}

static int ranks_of(MPI_Comm comm)
{
    int ranks;
    PMPI_Comm_size(comm, &ranks);
    return ranks;
}

static int rank_of(MPI_Comm comm)
{
    int rank;
    PMPI_Comm_rank(comm, &rank);
    return rank;
}

static void count_to(int destination, double bytes, MPI_Comm comm)
{
    if (destination == MPI_PROC_NULL || destination == rank_of(comm)) return;
    sent += bytes;
    calls++;
}

static void count_all(double bytes) { sent += bytes, calls++; }

int MPI_Send(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm)
{
    count_to(to, size_of(count, type), comm);
    return PMPI_Send(data, count, type, to, tag, comm);
}

int MPI_Rsend(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm)
{
    count_to(to, size_of(count, type), comm);
    return PMPI_Rsend(data, count, type, to, tag, comm);
}

int MPI_Ssend(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm)
{
    count_to(to, size_of(count, type), comm);
    return PMPI_Ssend(data, count, type, to, tag, comm);
}

int MPI_Isend(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *request)
{
    count_to(to, size_of(count, type), comm);
    return PMPI_Isend(data, count, type, to, tag, comm, request);
}

int MPI_Sendrecv(const void *out, int out_count, MPI_Datatype out_type, int to, int out_tag, void *in, int in_count,
                 MPI_Datatype in_type, int from, int in_tag, MPI_Comm comm, MPI_Status *status)
{
    count_to(to, size_of(out_count, out_type), comm);
    return PMPI_Sendrecv(out, out_count, out_type, to, out_tag, in, in_count, in_type, from, in_tag, comm, status);
}

int MPI_Bcast(void *data, int count, MPI_Datatype type, int root, MPI_Comm comm)
{
    int ranks = ranks_of(comm);
    count_all(size_of(count, type) * (ranks - 1) / ranks);
    return PMPI_Bcast(data, count, type, root, comm);
}

int MPI_Reduce(const void *out, void *in, int count, MPI_Datatype type, MPI_Op op, int root, MPI_Comm comm)
{
    int ranks = ranks_of(comm);
    count_all(size_of(count, type) * (ranks - 1) / ranks);
    return PMPI_Reduce(out, in, count, type, op, root, comm);
}

int MPI_Allreduce(const void *out, void *in, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm)
{
    int ranks = ranks_of(comm);
    count_all(2 * size_of(count, type) * (ranks - 1) / ranks);
    return PMPI_Allreduce(out, in, count, type, op, comm);
}

int MPI_Allgather(const void *out, int out_count, MPI_Datatype out_type, void *in, int in_count, MPI_Datatype in_type,
                  MPI_Comm comm)
{
    count_all(size_of(in_count, in_type) * (ranks_of(comm) - 1));
    return PMPI_Allgather(out, out_count, out_type, in, in_count, in_type, comm);
}

int MPI_Alltoallv(const void *out, const int *out_counts, const int *out_at, MPI_Datatype out_type, void *in,
                  const int *in_counts, const int *in_at, MPI_Datatype in_type, MPI_Comm comm)
{
    for (int rank = 0; rank < ranks_of(comm); rank++)
        if (out_counts[rank] > 0) count_to(rank, size_of(out_counts[rank], out_type), comm);
    return PMPI_Alltoallv(out, out_counts, out_at, out_type, in, in_counts, in_at, in_type, comm);
}

int MPI_Finalize(void)
{
    const char *name = getenv("CATDPO_COUNT");
    char path[4096];
    if (name) {
        snprintf(path, sizeof path, "%s.%d", name, rank_of(MPI_COMM_WORLD));
        FILE *file = fopen(path, "w");
        if (file) {
            fprintf(file, "%.0f %.0f\n", sent, calls);
            fclose(file);
        }
    }
    return PMPI_Finalize();
}
