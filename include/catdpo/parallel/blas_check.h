/* Which BLAS runs underneath, whether it uses this processor, and whether threads and ranks fit the cores. */
#ifndef CATDPO_PARALLEL_BLAS_CHECK_H
#define CATDPO_PARALLEL_BLAS_CHECK_H

#include <mpi.h>

typedef struct BlasReport {
    char library[256]; /* name and version as the library tells them, and the file that sgemm_ came from */
    char core[32];     /* kernels that OpenBLAS chose; "" if another library */
    int threads;       /* BLAS threads a rank */
    int node_ranks;    /* ranks on this node */
    int node_cores;    /* cores that the ranks of this node may use, together */
    double gflops; /* measured sgemm rate of the slowest rank, all ranks at work, GF/s a rank; 0: no memory for that */
    char warning[512]; /* what is wrong and its remedy; "" if nothing is */
} BlasReport;

/* OpenBLAS falls back to its slowest kernels without a word on a processor newer than itself, and chooses those for
 * AVX-512 where others are faster (AMD's Zen 4). Kernels can only be chosen before the library loads, so this sets
 * OPENBLAS_CORETYPE and starts the program again. Returns if there is nothing to repair. Has MKL give the same bits
 * each time (MKL_CBWR), unless the user has chosen. Call before MPI_Init.
 */
void blas_repair(char *argv[]);

/* Sets `threads` BLAS threads; GF/s of sgemm on matrices that fit the caches, on this process alone; 0 without memory
 * for them. Not collective, needs no MPI. */
double blas_rate(int threads);

/* Sets `threads` BLAS threads, measures and judges. The same report on all ranks. Collective over comm. */
BlasReport blas_check(MPI_Comm comm, int threads);

#endif
