/* psgemm, number by number: small integers have products that float32 holds exactly, so that any other number is a
 * fault and no tolerance is needed. */
#include "catdpo/selfcheck/selfcheck.h"

#include "catdpo/parallel/gemm.h"

#include <stdio.h>
#include <stdlib.h>

/* Sizes that divide no grid, larger than a block of PBLAS in one direction. */
enum { OUT = 331, IN = 213, TOKENS = 37 };

/* An integer in [-3, 3]. */
static int entry(int matrix, int row, int column)
{
    unsigned x = (unsigned)matrix * 0x9e3779b9u + (unsigned)row * 0x85ebca6bu + (unsigned)column * 0xc2b2ae35u;
    x = (x ^ x >> 15) * 0x2c1b3c6du;
    return (int)((x ^ x >> 13) % 7) - 3;
}

typedef struct Operand {
    Axis rows, columns;
    Matrix matrix;
    float *data;
} Operand;

static bool operand_make(Operand *o, const Grid *grid, int rows, int columns, int which)
{
    o->rows = axis_even(rows, grid->rows, grid->row);
    o->columns = axis_even(columns, grid->columns, grid->column);
    size_t count = (size_t)o->rows.local * (size_t)o->columns.local;
    o->data = malloc(sizeof(float) * (count + 1));
    if (!o->data) return false;
    for (int c = 0; c < o->columns.local; c++)
        for (int r = 0; r < o->rows.local; r++)
            o->data[(size_t)c * (size_t)o->rows.local + (size_t)r] =
                (float)entry(which, axis_global(&o->rows, r), axis_global(&o->columns, c));
    o->matrix = matrix_make(grid, &o->rows, &o->columns, o->rows.local, o->data);
    return true;
}

/* What training asks of psgemm: op(a) op(b), and whether it adds to what is there. */
static const struct Kind {
    const char *name;
    Transpose op_a, op_b;
    int m, n, k;
    float beta;
} kinds[] = {
    { "forward, W X", PLAIN, PLAIN, OUT, TOKENS, IN, 0 },
    { "input gradient, W' dY", TRANSPOSED, PLAIN, IN, TOKENS, OUT, 0 },
    { "weight gradient, dY X'", PLAIN, TRANSPOSED, OUT, IN, TOKENS, 1 },
};

/* Numbers of this rank's part of c that are not what the integers make; the first of them at row, column. */
static int64_t wrong_numbers(const struct Kind *kind, const Operand *c, int *row, int *column)
{
    int64_t wrong = 0;
    for (int j = 0; j < c->columns.local; j++)
        for (int i = 0; i < c->rows.local; i++) {
            int gi = axis_global(&c->rows, i), gj = axis_global(&c->columns, j);
            int sum = kind->beta != 0 ? entry(3, gi, gj) : 0;
            for (int l = 0; l < kind->k; l++)
                sum += (kind->op_a == PLAIN ? entry(1, gi, l) : entry(1, l, gi)) *
                       (kind->op_b == PLAIN ? entry(2, l, gj) : entry(2, gj, l));
            if (c->data[(size_t)j * (size_t)c->rows.local + (size_t)i] == (float)sum) continue;
            if (wrong++ == 0) *row = gi, *column = gj;
        }
    return wrong;
}

/* Wrong numbers over all ranks, or -1 without memory; where the first of the lowest rank is, in text. Collective. */
static int64_t check_kind(const SelfCheck *s, Grid *grid, const struct Kind *kind, char text[FINDING_TEXT])
{
    Operand a = { 0 }, b = { 0 }, c = { 0 };
    bool plain_a = kind->op_a == PLAIN, plain_b = kind->op_b == PLAIN;
    bool ok = operand_make(&a, grid, plain_a ? kind->m : kind->k, plain_a ? kind->k : kind->m, 1) &&
              operand_make(&b, grid, plain_b ? kind->k : kind->n, plain_b ? kind->n : kind->k, 2) &&
              operand_make(&c, grid, kind->m, kind->n, 3);
    Error ignored = { 0 };
    int64_t wrong = -1;
    struct {
        int64_t wrong;
        int rank, place[2];
    } mine, *all = malloc(sizeof *all * (size_t)s->ranks);
    ok = ok && all;
    if (error_agree(s->world, ok || error_fault(&ignored, "memory"), &ignored)) {
        int place[2] = { 0, 0 };
        gemm(grid, kind->op_a, &a.matrix, kind->op_b, &b.matrix, kind->beta, &c.matrix);
        mine.wrong = wrong_numbers(kind, &c, &place[0], &place[1]);
        mine.rank = s->rank, mine.place[0] = place[0], mine.place[1] = place[1];
        CHECK_MPI(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, s->world));
        wrong = 0;
        for (int r = s->ranks - 1; r >= 0; r--) {
            wrong += all[r].wrong;
            if (all[r].wrong > 0)
                snprintf(text, FINDING_TEXT, "%s on a %d x %d grid: rank %d, row %d, column %d", kind->name, grid->rows,
                         grid->columns, r, all[r].place[0], all[r].place[1]);
        }
    }
    free(all);
    free(a.data);
    free(b.data);
    free(c.data);
    return wrong;
}

void selfcheck_products(SelfCheck *s)
{
    Shape shapes[LAYOUTS];
    int layouts = selfcheck_layouts(s->ranks, shapes), done = 0;
    int64_t wrong = 0, numbers = 0;
    char where[FINDING_TEXT] = "";
    for (int l = 0; l < layouts; l++) {
        Grid grid;
        Error err = { 0 };
        if (!grid_create(&grid, s->world, shapes[l].replicas, shapes[l].rows, shapes[l].columns, &err)) {
            selfcheck_add(s, "products", CHECK_WRONG, "look at the message of BLACS above", "%s", err.message);
            return;
        }
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++, done++) {
            int64_t found = check_kind(s, &grid, &kinds[k], where);
            wrong += found;
            numbers += (int64_t)kinds[k].m * kinds[k].n * shapes[l].replicas;
        }
        grid_free(&grid);
    }
    if (wrong != 0)
        selfcheck_add(s, "products", CHECK_WRONG,
                      "this ScaLAPACK or BLAS computes wrong numbers: link another one (-Dscalapack=, -Dblas=), or "
                      "other kernels (OPENBLAS_CORETYPE=Haswell)",
                      "%lld of %lld numbers of psgemm are wrong, first %s", (long long)wrong, (long long)numbers,
                      where);
    else
        selfcheck_add(s, "products", CHECK_OK, NULL, "%lld numbers of psgemm exact: %d products on %d grids",
                      (long long)numbers, done, layouts);
}
