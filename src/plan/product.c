/* What PBLAS does in a product, as ScaLAPACK's psgemm does it since 1998 (reference implementation, Intel's and others'
 * included): it compares what its three algorithms would move, takes the cheapest, and works through panels of a
 * logical block.
 *
 *   AB   panels of A go along process rows, panels of B along process columns; each rank multiplies into its part of C
 *   AC   panels of A go out, their products with B are summed up to the owner of that part of C
 *   BC   panels of B go out, their products with A are summed up to the owner of that part of C
 *
 * A panel that lies across the processes in the other direction is turned first: nearly all of it changes hands.
 */
#include "catdpo/plan/plan.h"

static const double COMBINE = 1.3; /* PBLAS's weight of a sum against a broadcast, and of a clear win */

enum { FLOAT_BYTES = 4 };

static double ceil_to(double length, double block, int parts)
{
    int64_t blocks = ((int64_t)length + (int64_t)block - 1) / (int64_t)block;
    return (double)((blocks + parts - 1) / parts) * block;
}

Extent extent_make(int64_t length, int64_t row_block, int rows, int64_t column_block, int columns)
{
    return (Extent){ (double)length, ceil_to((double)length, (double)row_block, rows),
                     ceil_to((double)length, (double)column_block, columns) };
}

static double larger(double a, double b) { return a > b ? a : b; }
static double smaller(double a, double b) { return a < b ? a : b; }

typedef enum { ALGORITHM_AB, ALGORITHM_AC, ALGORITHM_BC } Algorithm;

/* psgemm's own estimate of what each algorithm moves, and its choice. */
static Algorithm choose(Transpose op_a, Transpose op_b, const Extent *m, const Extent *n, const Extent *k, int rows,
                        int columns)
{
    double row = columns > 1, column = rows > 1; /* does anything move along process rows, along process columns? */
    double ab, ac, bc;
    if (op_a == PLAIN && op_b == PLAIN) {
        ab = k->length * (row * m->over_rows + column * n->over_columns);
        ac = m->length *
             (row * k->over_rows + larger(k->over_rows, k->over_columns) + COMBINE * column * n->over_columns);
        bc = n->length *
             (COMBINE * row * m->over_rows + column * k->over_columns + larger(k->over_columns, k->over_rows));
    } else if (op_b == PLAIN) {
        ab = k->length * (row * m->over_rows + larger(m->over_rows, m->over_columns) + column * n->over_columns);
        ac = m->length * (row * k->over_rows + COMBINE * column * n->over_columns);
        bc = n->length *
             (row * k->over_rows + COMBINE * column * m->over_columns + larger(m->over_columns, m->over_rows));
    } else {
        ab = k->length * (row * m->over_rows + column * n->over_columns + larger(n->over_columns, n->over_rows));
        ac = m->length *
             (COMBINE * row * n->over_rows + larger(n->over_rows, n->over_columns) + column * k->over_columns);
        bc = n->length * (COMBINE * row * m->over_rows + column * k->over_columns);
    }
    if (ab <= COMBINE * bc && ab <= COMBINE * ac) return ALGORITHM_AB;
    return bc <= ac && COMBINE * bc <= ab ? ALGORITHM_BC : ALGORITHM_AC;
}

/* Messages of a rank when `count` panels go along a line of `ranks` processes. */
static double messages(double count, int ranks) { return ranks > 1 ? count : 0; }

ProductCost product_cost(Transpose op_a, Transpose op_b, Extent m, Extent n, Extent k, int rows, int columns, int block)
{
    double mk = m.length * k.length, kn = k.length * n.length, mn = m.length * n.length; /* sizes of A, B and C */
    double turned = 1 - 1.0 / (rows * columns); /* of a panel that changes its direction, what moves */
    double along_row = columns - 1,
           along_column = rows - 1; /* copies of a panel that go along a process row, a process column */
    double row, column, panel, panels, work, copied, workspace, summed = 0;
    switch (choose(op_a, op_b, &m, &n, &k, rows, columns)) {
    case ALGORITHM_AB:
        panel = smaller(block, k.length);
        panels = ceil_to(k.length, block, 1) / block;
        row = along_row * mk + (op_a == TRANSPOSED ? turned * mk : 0);
        column = along_column * kn + (op_b == TRANSPOSED ? turned * kn : 0);
        work = m.over_rows * n.over_columns * k.length;
        copied = 2 * (m.over_rows + n.over_columns) * k.length + 2 * m.over_rows * n.over_columns * panels;
        workspace = panel * (m.over_rows + n.over_columns);
        break;
    case ALGORITHM_AC:
        panel = smaller(block, m.length);
        panels = ceil_to(m.length, block, 1) / block;
        if (op_b == PLAIN) { /* panels of A against B's rows; sums down the columns */
            row = along_row * mk + (op_a == PLAIN ? turned * mk : 0);
            column = along_column * mn;
            work = k.over_rows * n.over_columns * m.length;
            workspace = panel * (k.over_rows + n.over_columns);
            summed = rows > 1 ? panel * n.over_columns : 0;
            copied = 2 * m.length * k.over_rows + 5 * m.length * n.over_columns;
        } else {
            column = along_column * mk;
            row = along_row * mn + turned * mn;
            work = n.over_rows * k.over_columns * m.length;
            workspace = panel * (k.over_columns + n.over_rows);
            summed = columns > 1 ? panel * n.over_rows : 0;
            copied = 2 * m.length * k.over_columns + 5 * m.length * n.over_rows;
        }
        break;
    case ALGORITHM_BC:
    default:
        panel = smaller(block, n.length);
        panels = ceil_to(n.length, block, 1) / block;
        if (op_a == PLAIN) { /* panels of B against A's columns; sums along the rows */
            column = along_column * kn + (op_b == PLAIN ? turned * kn : 0);
            row = along_row * mn;
            work = m.over_rows * k.over_columns * n.length;
            workspace = panel * (k.over_columns + m.over_rows);
            summed = columns > 1 ? panel * m.over_rows : 0;
            copied = 2 * n.length * k.over_columns + 5 * n.length * m.over_rows;
        } else {
            row = along_row * kn;
            column = along_column * mn + turned * mn;
            work = k.over_rows * m.over_columns * n.length;
            workspace = panel * (k.over_rows + m.over_columns);
            summed = rows > 1 ? panel * m.over_columns : 0;
            copied = 2 * n.length * k.over_rows + 5 * n.length * m.over_columns;
        }
    }
    return (ProductCost){ .flops = 2 * work,
                          .copied = FLOAT_BYTES * copied,
                          .row_bytes = FLOAT_BYTES * row,
                          .column_bytes = FLOAT_BYTES * column,
                          .row_messages = messages(panels, columns),
                          .column_messages = messages(panels, rows),
                          .workspace = FLOAT_BYTES * workspace,
                          .kept = FLOAT_BYTES * summed };
}
