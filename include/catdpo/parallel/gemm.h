/* The one engine of all products: PBLAS psgemm. */
#ifndef CATDPO_PARALLEL_GEMM_H
#define CATDPO_PARALLEL_GEMM_H

#include "catdpo/parallel/matrix.h"

typedef enum { PLAIN = 'N', TRANSPOSED = 'T' } Transpose;

/* c = op(a) op(b) + beta c. Shapes must agree. Collective over grid->comm; counts its work in grid->flops. */
void gemm(Grid *grid, Transpose op_a, const Matrix *a, Transpose op_b, const Matrix *b, float beta, Matrix *c);

/* PBLAS's logical block (what pilaenv_ answers) for all later products of this process. PBLAS asks for it through a
 * Fortran function without a context of ours, so it is the one piece of state that belongs to the process. A ScaLAPACK
 * that does not ask pilaenv_ (MKL, COSMA, SLATE) has knobs of its own and ignores it. Not collective; must be equal on
 * all ranks. */
void gemm_set_block(int block);

/* c = op(a) op(b) * alpha + beta c on this rank alone (BLAS sgemm), column-major with leading dimensions. */
void gemm_local(Transpose op_a, Transpose op_b, int m, int n, int k, float alpha, const float *a, int lda,
                const float *b, int ldb, float beta, float *c, int ldc);

#endif
