#include "catdpo/parallel/matrix.h"

enum { DTYPE_DENSE = 1 };

static int axis_count(const Axis *axis, int part)
{
    int blocks = axis->length / axis->block, rest = axis->length % axis->block;
    int whole = blocks / axis->parts + (part < blocks % axis->parts);
    return whole * axis->block + (part == blocks % axis->parts ? rest : 0);
}

Axis axis_make(int length, int block, int parts, int mine)
{
    CHECK(length >= 0 && block > 0 && mine < parts);
    Axis axis = { .length = length, .block = block, .parts = parts, .mine = mine };
    axis.local = axis_count(&axis, mine);
    return axis;
}

Axis axis_even(int length, int parts, int mine)
{
    int block = (length + parts - 1) / parts;
    return axis_make(length, block > 0 ? block : 1, parts, mine);
}

int axis_owner(const Axis *axis, int global) { return global / axis->block % axis->parts; }

int axis_local(const Axis *axis, int global)
{
    return global / axis->block / axis->parts * axis->block + global % axis->block;
}

int axis_global(const Axis *axis, int local)
{
    return (local / axis->block * axis->parts + axis->mine) * axis->block + local % axis->block;
}

Matrix matrix_make(const Grid *grid, const Axis *rows, const Axis *columns, int stride, float *data)
{
    CHECK(stride >= rows->local && rows->parts == grid->rows && columns->parts == grid->columns);
    return (Matrix){
        .desc = { DTYPE_DENSE, grid->context, rows->length, columns->length, rows->block, columns->block, 0, 0,
                  stride > 0 ? stride : 1 },
        .rows = rows->length,
        .columns = columns->length,
        .data = data,
    };
}
