/* Promise: what catdpo plan says that a product moves is what PBLAS sends: bytes within 2 %, on every grid of these
 * ranks, for every transposition that the program uses, for shapes that lead PBLAS to each of its algorithms, at three
 * sizes of its logical block. */
#include "count_messages.h"

#include "catdpo/plan/plan.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct {
    Transpose a, b;
} operations[] = { { PLAIN, PLAIN }, { TRANSPOSED, PLAIN }, { PLAIN, TRANSPOSED } };
static const int shapes[][3] = { { 600, 900, 1200 },  { 1200, 600, 900 }, { 900, 1200, 600 },  { 2000, 300, 300 },
                                 { 300, 2000, 300 },  { 300, 300, 2000 }, { 2000, 2000, 300 }, { 300, 2000, 2000 },
                                 { 2000, 300, 2000 }, { 100, 120, 140 },  { 4000, 200, 576 },  { 577, 1352, 1537 } };
static const int blocks[] = { 32, 256, 512 };

/* Both axes of an operand: a dimension lies over process rows or over process columns. */
static float *operand(const Grid *grid, int rows, int columns, Matrix *matrix)
{
    Axis down = axis_even(rows, grid->rows, grid->row), across = axis_even(columns, grid->columns, grid->column);
    float *data = calloc((size_t)down.local * (size_t)across.local + 1, sizeof *data);
    assert_non_null(data);
    *matrix = matrix_make(grid, &down, &across, down.local, data);
    return data;
}

static Extent extent(const Grid *grid, int length)
{
    return extent_make(length, (length + grid->rows - 1) / grid->rows, grid->rows,
                       (length + grid->columns - 1) / grid->columns, grid->columns);
}

/* Bytes that all ranks send in one product. */
static double counted(Grid *grid, int operation, int m, int n, int k)
{
    bool turn_a = operations[operation].a == TRANSPOSED, turn_b = operations[operation].b == TRANSPOSED;
    Matrix a, b, c;
    float *data[] = { operand(grid, turn_a ? k : m, turn_a ? m : k, &a),
                      operand(grid, turn_b ? n : k, turn_b ? k : n, &b), operand(grid, m, n, &c) };
    double before = messages_bytes(), all;
    gemm(grid, operations[operation].a, &a, operations[operation].b, &b, 0, &c);
    double mine = messages_bytes() - before;
    CHECK_MPI(PMPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_SUM, grid->world));
    for (int i = 0; i < 3; i++) free(data[i]);
    return all;
}

static void test_products(void **state)
{
    (void)state;
    int ranks;
    CHECK_MPI(MPI_Comm_size(MPI_COMM_WORLD, &ranks));
    for (int rows = 1; rows <= ranks; rows++) {
        Grid grid;
        Error err = { 0 };
        if (ranks % rows != 0) continue;
        assert_true(grid_create(&grid, MPI_COMM_WORLD, 1, rows, ranks / rows, &err));
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (int o = 0; o < 3; o++)
                for (int b = ranks > 2 ? (int)(i + (size_t)o) % 3 : 0;
                     b<3; b += ranks> 2 ? 3 : 1) { /* many ranks on few cores are slow */
                    int m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
                    gemm_set_block(blocks[b]);
                    double sent = counted(&grid, o, m, n, k);
                    ProductCost cost =
                        product_cost(operations[o].a, operations[o].b, extent(&grid, m), extent(&grid, n),
                                     extent(&grid, k), grid.rows, grid.columns, blocks[b]);
                    double planned = cost.row_bytes + cost.column_bytes;
                    if (fabs(planned - sent) > 0.02 * sent)
                        print_error("%c%c %d x %d x %d on %d x %d, block %d: %.0f bytes planned, %.0f sent\n",
                                    operations[o].a, operations[o].b, m, n, k, grid.rows, grid.columns, blocks[b],
                                    planned, sent);
                    assert_true(fabs(planned - sent) <= 0.02 * sent);
                }
        grid_free(&grid);
    }
}

int main(int argc, char *argv[])
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_products) };
    MPI_Init(&argc, &argv);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}
