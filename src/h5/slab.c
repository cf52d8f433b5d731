/* Slabs: which indices a rank holds, and where they lie in its memory. Nothing here communicates or knows of files. */
#include "private.h"

#include <string.h>

/* ---- which indices ----------------------------------------------------------------------------------------------- */

int64_t slab_axis_below(const SlabAxis *axis, int64_t index)
{
    CHECK(axis->block > 0 && axis->stride >= axis->block && axis->first >= 0);
    if (index > axis->extent) index = axis->extent;
    if (index <= axis->first) return 0;
    int64_t span = index - axis->first, rest = span % axis->stride;
    return span / axis->stride * axis->block + (rest < axis->block ? rest : axis->block);
}

int64_t slab_axis_count(const SlabAxis *axis) { return slab_axis_below(axis, axis->extent); }

int64_t slab_count(const Slab *slab)
{
    int64_t count = slab->axes > 0;
    for (int i = 0; i < slab->axes; i++) count *= slab_axis_count(&slab->axis[i]);
    return count;
}

Slab slab_none(void) { return (Slab){ 0 }; }

Slab slab_rows(int axes, const int64_t dims[], int64_t first, int64_t count)
{
    Slab slab = { .axes = axes };
    CHECK(axes >= 1 && axes <= SLAB_AXES && first >= 0 && count >= 0 && first + count <= dims[0]);
    int64_t step = 1;
    for (int i = axes - 1; i >= 0; i--) {
        int64_t held = i == 0 ? count : dims[i];
        if (held == 0) return slab_none();
        slab.axis[i] = (SlabAxis){ .extent = dims[i],
                                   .first = i == 0 ? first : 0,
                                   .block = held,
                                   .stride = dims[i],
                                   .step = step,
                                   .block_step = step * held };
        step *= held;
    }
    return slab;
}

static SlabAxis matrix_axis(const Axis *axis, int64_t step)
{
    return (SlabAxis){ .extent = axis->length,
                       .first = (int64_t)axis->mine * axis->block,
                       .block = axis->block,
                       .stride = (int64_t)axis->parts * axis->block,
                       .step = step,
                       .block_step = step * axis->block };
}

Slab slab_matrix(const Axis *rows, const Axis *columns, int64_t stride)
{
    if (rows->local == 0 || columns->local == 0) return slab_none();
    return (Slab){ .axes = 2, .axis = { matrix_axis(rows, 1), matrix_axis(columns, stride) } };
}

/* ---- where they lie ---------------------------------------------------------------------------------------------- */

enum { TILE = 32 }; /* rows and columns copied at a time */

/* A rectangle of elements, in the dense buffer and in memory. */
typedef struct Plane {
    char *dense, *held;
    int64_t rows, columns, pitch;  /* of the dense side: elements a row */
    int64_t row_step, column_step; /* of the other */
} Plane;

/* A transposition, by tiles that are gathered first: lines of the one side that lie a power of two apart would throw
 * each other out of the cache before they are used up. */
#define COPY_PLANE(word)                                                                                               \
    for (int64_t i0 = 0; i0 < p->rows; i0 += TILE)                                                                     \
        for (int64_t j0 = 0; j0 < p->columns; j0 += TILE) {                                                            \
            word tile[TILE][TILE + 1];                                                                                 \
            int rows = p->rows - i0 < TILE ? (int)(p->rows - i0) : TILE;                                               \
            int columns = p->columns - j0 < TILE ? (int)(p->columns - j0) : TILE;                                      \
            word *dense = (word *)p->dense + i0 * p->pitch + j0;                                                       \
            word *held = (word *)p->held + i0 * p->row_step + j0 * p->column_step;                                     \
            for (int i = 0; !pack && i < rows; i++) memcpy(tile[i], dense + i * p->pitch, columns * sizeof(word));     \
            for (int j = 0; j < columns; j++)                                                                          \
                for (int i = 0; i < rows; i++) {                                                                       \
                    word *element = held + i * p->row_step + j * p->column_step;                                       \
                    if (pack)                                                                                          \
                        tile[i][j] = *element;                                                                         \
                    else                                                                                               \
                        *element = tile[i][j];                                                                         \
                }                                                                                                      \
            for (int i = 0; pack && i < rows; i++) memcpy(dense + i * p->pitch, tile[i], columns * sizeof(word));      \
        }

static void copy_plane(const Plane *p, size_t size, bool pack)
{
    if (p->column_step == 1) { /* lines that are dense on both sides */
        for (int64_t i = 0; i < p->rows; i++) {
            char *dense = p->dense + i * p->pitch * (int64_t)size, *held = p->held + i * p->row_step * (int64_t)size;
            memcpy(pack ? dense : held, pack ? held : dense, p->columns * size);
        }
    } else if (size == 8) {
        COPY_PLANE(uint64_t)
    } else if (size == 4) {
        COPY_PLANE(uint32_t)
    } else {
        COPY_PLANE(uint8_t)
    }
}

/* How many held indices from `at` on, below `end`, lie `step` apart in memory. */
static int64_t even_run(const SlabAxis *axis, int64_t at, int64_t end)
{
    if (axis->block_step == axis->block * axis->step) return end - at;
    int64_t run = axis->block - at % axis->block;
    return run < end - at ? run : end - at;
}

/* Copy the held indices [from, to) x [left, right) of two axes, `memory` being where their index 0 lies. */
static void copy_matrix(const SlabAxis *row, const SlabAxis *column, int64_t from, int64_t to, int64_t left,
                        int64_t right, size_t size, char *buffer, char *memory, bool pack)
{
    int64_t columns = right - left;
    for (int64_t i = from, rows; i < to; i += rows) {
        rows = even_run(row, i, to);
        for (int64_t j = left, width; j < right; j += width) {
            width = even_run(column, j, right);
            copy_plane(&(Plane){ .dense = buffer + ((i - from) * columns + j - left) * (int64_t)size,
                                 .held = memory + (slab_offset(row, i) + slab_offset(column, j)) * (int64_t)size,
                                 .rows = rows,
                                 .columns = width,
                                 .pitch = columns,
                                 .row_step = row->step,
                                 .column_step = column->step },
                       size, pack);
        }
    }
}

void slab_copy(const Slab *slab, int64_t from, int64_t to, size_t size, void *dense, void *values, bool pack)
{
    static const SlabAxis single = { .extent = 1, .block = 1, .stride = 1 };
    const SlabAxis *axis = slab->axis;
    char *buffer = dense, *memory = values;
    int last = slab->axes - 1;
    if (from >= to) return;
    if (last == 0) { /* one line */
        copy_matrix(&single, &axis[0], 0, 1, from, to, size, buffer, memory, pack);
        return;
    }
    int64_t held[SLAB_AXES] = { 0 }, planes = to - from;
    for (int i = 0; i <= last; i++) held[i] = slab_axis_count(&axis[i]);
    if (last == 1) {
        copy_matrix(&axis[0], &axis[1], from, to, 0, held[1], size, buffer, memory, pack);
        return;
    }
    int64_t plane = held[last - 1] * held[last] * (int64_t)size;
    for (int i = 1; i < last - 1; i++) planes *= held[i];
    for (int64_t p = 0; p < planes; p++) {
        int64_t offset = 0, rest = p;
        for (int i = last - 2; i > 0; i--) {
            offset += slab_offset(&axis[i], rest % held[i]);
            rest /= held[i];
        }
        offset += slab_offset(&axis[0], from + rest);
        copy_matrix(&axis[last - 1], &axis[last], 0, held[last - 1], 0, held[last], size, buffer + p * plane,
                    memory + offset * (int64_t)size, pack);
    }
}

Slab slab_within(const Slab *slab, int64_t *offset)
{
    Slab within = *slab;
    int64_t step = 1;
    *offset = 0;
    for (int i = slab->axes - 1; i >= 0; i--) {
        SlabAxis *axis = &within.axis[i];
        axis->step = step;
        axis->block_step = axis->stride * step;
        *offset += axis->first * step;
        step *= axis->extent;
    }
    return within;
}
