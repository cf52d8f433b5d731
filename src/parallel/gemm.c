#include "catdpo/parallel/gemm.h"

void psgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha,
             const float *a, const int *ia, const int *ja, const int *desca, const float *b, const int *ib,
             const int *jb, const int *descb, const float *beta, float *c, const int *ic, const int *jc,
             const int *descc);
void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha,
            const float *a, const int *lda, const float *b, const int *ldb, const float *beta, float *c,
            const int *ldc);
int pilaenv_(const int *context, const char *precision);

static int logical_block = 256;

void gemm_set_block(int block) { logical_block = block; }

/* Overrides ScaLAPACK's own at link time: its default of 32 costs a third of the speed. */
int pilaenv_(const int *context, const char *precision)
{
    (void)context, (void)precision;
    return logical_block;
}

void gemm(Grid *grid, Transpose op_a, const Matrix *a, Transpose op_b, const Matrix *b, float beta, Matrix *c)
{
    const int one = 1;
    const float alpha = 1;
    int m = c->rows, n = c->columns, k = op_a == PLAIN ? a->columns : a->rows;
    CHECK(m == (op_a == PLAIN ? a->rows : a->columns) && n == (op_b == PLAIN ? b->columns : b->rows));
    CHECK(k == (op_b == PLAIN ? b->rows : b->columns));
    char ta = (char)op_a, tb = (char)op_b;
    psgemm_(&ta, &tb, &m, &n, &k, &alpha, a->data, &one, &one, a->desc, b->data, &one, &one, b->desc, &beta, c->data,
            &one, &one, c->desc);
    grid->flops += 2.0 * m * n * k;
}

void gemm_local(Transpose op_a, Transpose op_b, int m, int n, int k, float alpha, const float *a, int lda,
                const float *b, int ldb, float beta, float *c, int ldc)
{
    char ta = (char)op_a, tb = (char)op_b;
    if (m > 0 && n > 0) sgemm_(&ta, &tb, &m, &n, &k, &alpha, a, &lda, b, &ldb, &beta, c, &ldc);
}
