/* Slabs of datasets: what a rank holds of a distributed array, moved collectively with MPI-IO. */
#include "h5_private.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- slabs ------------------------------------------------------------------------------------------------------- */

int64_t slab_axis_count(const SlabAxis *axis)
{
    CHECK(axis->block > 0 && axis->stride >= axis->block && axis->first >= 0);
    if (axis->first >= axis->extent) return 0;
    int64_t span = axis->extent - axis->first, rest = span % axis->stride;
    return span / axis->stride * axis->block + (rest < axis->block ? rest : axis->block);
}

int64_t slab_count(const Slab *slab)
{
    int64_t count = slab->axes > 0;
    for (int i = 0; i < slab->axes; i++) count *= slab_axis_count(&slab->axis[i]);
    return count;
}

Slab slab_none(void)
{
    return (Slab){ 0 };
}

Slab slab_rows(int axes, const int64_t dims[], int64_t first, int64_t count)
{
    Slab slab = { .axes = axes };
    CHECK(axes >= 1 && axes <= SLAB_AXES && first >= 0 && count >= 0 && first + count <= dims[0]);
    int64_t step = 1;
    for (int i = axes - 1; i >= 0; i--) {
        int64_t held = i == 0 ? count : dims[i];
        if (held == 0) return slab_none();
        slab.axis[i] = (SlabAxis){ .extent = dims[i], .first = i == 0 ? first : 0, .block = held, .stride = dims[i],
                                   .step = step, .block_step = step * held };
        step *= held;
    }
    return slab;
}

static SlabAxis matrix_axis(const Axis *axis, int64_t step)
{
    return (SlabAxis){ .extent = axis->length, .first = (int64_t)axis->mine * axis->block, .block = axis->block,
                       .stride = (int64_t)axis->parts * axis->block, .step = step, .block_step = step * axis->block };
}

Slab slab_matrix(const Axis *rows, const Axis *columns, int64_t stride)
{
    if (rows->local == 0 || columns->local == 0) return slab_none();
    return (Slab){ .axes = 2, .axis = { matrix_axis(rows, 1), matrix_axis(columns, stride) } };
}

/* ---- selections -------------------------------------------------------------------------------------------------- */

/* A regular run of indices of one axis: `count` blocks of `block`, `stride` apart. */
typedef struct Run {
    hsize_t start, stride, count, block;
} Run;

/* The held indices from the local indices [from, to) as at most three runs: the end of a block, whole blocks, the start of one. */
static int axis_runs(const SlabAxis *axis, int64_t from, int64_t to, Run runs[3])
{
    int count = 0;
    while (from < to) {
        int64_t inside = from % axis->block, whole = inside == 0 ? (to - from) / axis->block : 0;
        int64_t length = axis->block - inside < to - from ? axis->block - inside : to - from;
        runs[count++] = (Run){ (hsize_t)slab_index(axis, from), (hsize_t)axis->stride, whole > 0 ? (hsize_t)whole : 1,
                               whole > 0 ? (hsize_t)axis->block : (hsize_t)length };
        from += whole > 0 ? whole * axis->block : length;
    }
    return count;
}

/* Select the rows [from, to) (local indices of axis 0) of a slab in its dataset's space. */
static bool select_rows(hid_t space, const Slab *slab, int64_t from, int64_t to)
{
    if (from >= to) return H5Sselect_none(space) >= 0;
    Run runs[SLAB_AXES][3];
    int counts[SLAB_AXES], at[SLAB_AXES] = { 0 };
    for (int i = 0; i < slab->axes; i++) {
        const SlabAxis *axis = &slab->axis[i];
        counts[i] = axis_runs(axis, i == 0 ? from : 0, i == 0 ? to : slab_axis_count(axis), runs[i]);
    }
    for (bool first = true;; first = false) {  /* every combination of the axes' runs */
        hsize_t start[SLAB_AXES], stride[SLAB_AXES], count[SLAB_AXES], block[SLAB_AXES];
        for (int i = 0; i < slab->axes; i++) {
            const Run *run = &runs[i][at[i]];
            start[i] = run->start, stride[i] = run->stride, count[i] = run->count, block[i] = run->block;
        }
        if (H5Sselect_hyperslab(space, first ? H5S_SELECT_SET : H5S_SELECT_OR, start, stride, count, block) < 0) return false;
        int i = slab->axes - 1;
        while (i >= 0 && ++at[i] == counts[i]) at[i--] = 0;
        if (i < 0) return true;
    }
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

enum { TILE = 32 };  /* rows and columns copied at a time, so that a transposition stays in the cache */

/* A rectangle of elements, in the dense buffer and in memory. */
typedef struct Plane {
    char *dense, *held;
    int64_t rows, columns, pitch;      /* of the dense side: elements a row */
    int64_t row_step, column_step;     /* of the other */
} Plane;

#define COPY_PLANE(word) \
    for (int64_t i0 = 0; i0 < p->rows; i0 += TILE) \
        for (int64_t j0 = 0; j0 < p->columns; j0 += TILE) \
            for (int64_t i = i0; i < i0 + TILE && i < p->rows; i++) \
                for (int64_t j = j0; j < j0 + TILE && j < p->columns; j++) { \
                    word *dense = (word *)p->dense + i * p->pitch + j; \
                    word *held = (word *)p->held + i * p->row_step + j * p->column_step; \
                    if (pack) *dense = *held; \
                    else *held = *dense; \
                }

static void copy_plane(const Plane *p, size_t size, bool pack)
{
    if (size == 8) { COPY_PLANE(uint64_t) }
    else if (size == 4) { COPY_PLANE(uint32_t) }
    else { COPY_PLANE(uint8_t) }
}

static bool is_even(const SlabAxis *axis, int64_t held)
{
    return axis->block_step == axis->block * axis->step || held <= axis->block;
}

/* How many held indices from `at` on, below `end`, lie `step` apart in memory. */
static int64_t even_run(const SlabAxis *axis, int64_t held, int64_t at, int64_t end)
{
    int64_t run = is_even(axis, held) ? end - at : axis->block - at % axis->block;
    return run < end - at ? run : end - at;
}

/* Copy the held indices [from, to) of the last two axes, `memory` being where their index 0 lies. */
static void copy_matrix(const SlabAxis *row, const SlabAxis *column, int64_t held_rows, int64_t from, int64_t to, int64_t columns,
                        size_t size, char *buffer, char *memory, bool pack)
{
    for (int64_t i = from, rows; i < to; i += rows) {
        rows = even_run(row, held_rows, i, to);
        for (int64_t j = 0, width; j < columns; j += width) {
            width = even_run(column, columns, j, columns);
            copy_plane(&(Plane){ .dense = buffer + ((i - from) * columns + j) * (int64_t)size,
                                 .held = memory + (slab_offset(row, i) + slab_offset(column, j)) * (int64_t)size,
                                 .rows = rows, .columns = width, .pitch = columns, .row_step = row->step,
                                 .column_step = column->step }, size, pack);
        }
    }
}

/* Between the dense buffer and the slab's memory, rows [from, to); `held` are the indices of each axis. */
static void copy_rows(const Slab *slab, const int64_t held[], int64_t from, int64_t to, size_t size, char *buffer, char *memory,
                      bool pack)
{
    static const SlabAxis single = { .extent = 1, .block = 1, .stride = 1 };
    const SlabAxis *axis = slab->axis;
    int last = slab->axes - 1;
    if (last == 0) {  /* a column of rows: one plane with one column */
        copy_matrix(&axis[0], &single, held[0], from, to, 1, size, buffer, memory, pack);
        return;
    }
    if (last == 1) {
        copy_matrix(&axis[0], &axis[1], held[0], from, to, held[1], size, buffer, memory, pack);
        return;
    }
    int64_t plane = held[last - 1] * held[last] * (int64_t)size, planes = to - from;
    for (int i = 1; i < last - 1; i++) planes *= held[i];
    for (int64_t p = 0; p < planes; p++) {
        int64_t offset = 0, rest = p;
        for (int i = last - 2; i > 0; i--) {
            offset += slab_offset(&axis[i], rest % held[i]);
            rest /= held[i];
        }
        offset += slab_offset(&axis[0], from + rest);
        copy_matrix(&axis[last - 1], &axis[last], held[last - 1], 0, held[last - 1], held[last], size, buffer + p * plane,
                    memory + offset * (int64_t)size, pack);
    }
}

static bool is_dense(const Slab *slab, const int64_t held[])
{
    int64_t step = 1;
    for (int i = slab->axes - 1; i >= 0; i--) {
        if (held[i] > 1 && (slab->axis[i].step != step || !is_even(&slab->axis[i], held[i]))) return false;
        step *= held[i];
    }
    return true;
}

/* ---- moving ------------------------------------------------------------------------------------------------------ */

typedef struct Move {
    H5File *file;
    const char *name;
    DataType type;
    const Slab *slab;
    bool writing;
    int64_t held[SLAB_AXES];
    int64_t row_bytes;      /* of one index of axis 0 */
    int64_t rows_a_call;
    char *buffer;           /* NULL: the memory is dense and moved as it lies */
    hid_t set, file_space, list;
} Move;

/* One collective call: local rows [from, to), possibly none. */
static bool move_rows(const Move *m, int64_t from, int64_t to, char *values, Error *err)
{
    const Slab *slab = m->slab;
    bool some = from < to;
    hsize_t count = 1;
    if (some) count = (hsize_t)((to - from) * (m->row_bytes / (int64_t)data_size(m->type)));
    hid_t memory_space = H5Screate_simple(1, &count, NULL);
    CHECK(memory_space >= 0 && (some || H5Sselect_none(memory_space) >= 0));
    CHECK(select_rows(m->file_space, slab, from, to));
    char none[8], *dense = m->buffer ? m->buffer : some ? values + slab_offset(&slab->axis[0], from) * (int64_t)data_size(m->type) : none;
    hid_t type = h5_memory_type(m->type);
    if (m->writing && some && m->buffer) copy_rows(slab, m->held, from, to, data_size(m->type), dense, values, true);
    herr_t status = m->writing ? H5Dwrite(m->set, type, memory_space, m->file_space, m->list, dense)
                               : H5Dread(m->set, type, memory_space, m->file_space, m->list, dense);
    bool ok = h5_ok(status, err, m->writing ? "%s: cannot write %s: disk full or quota reached?" : "%s: cannot read %s",
                    m->file->path, m->name);  /* MPI-IO does not pass on the reason */
    if (ok && !m->writing && some && m->buffer) copy_rows(slab, m->held, from, to, data_size(m->type), dense, values, false);
    H5Sclose(memory_space);
    return ok;
}

/* Does the slab speak of a dataset of this shape? */
static bool has_extents(hid_t space, const Slab *slab)
{
    hsize_t extents[SLAB_AXES];
    if (H5Sget_simple_extent_ndims(space) != slab->axes || H5Sget_simple_extent_dims(space, extents, NULL) < 0) return false;
    for (int i = 0; i < slab->axes; i++)
        if (extents[i] != (hsize_t)slab->axis[i].extent) return false;
    return true;
}

/* Open the dataset and size this rank's calls. */
static bool prepare(Move *m, Error *err)
{
    H5File *file = m->file;
    const Slab *slab = m->slab;
    m->set = H5Dopen2(file->comm == MPI_COMM_NULL ? file->meta : file->data, m->name, H5P_DEFAULT);
    if (!h5_ok(m->set, err, "%s: cannot open %s", file->path, m->name)) return false;
    m->file_space = H5Dget_space(m->set);
    if (!h5_ok(m->file_space, err, "%s: cannot read the shape of %s", file->path, m->name)) return false;
    if (slab_count(slab) == 0) return true;
    if (!has_extents(m->file_space, slab)) return error_fault(err, "%s: %s has another shape than its slabs", file->path, m->name);

    m->row_bytes = (int64_t)data_size(m->type);
    for (int i = 0; i < slab->axes; i++) {
        m->held[i] = slab_axis_count(&slab->axis[i]);
        if (i > 0 && __builtin_mul_overflow(m->row_bytes, m->held[i], &m->row_bytes)) m->row_bytes = INT64_MAX;
    }
    if (m->row_bytes > INT_MAX) return error_fault(err, "%s: one row of %s is over 2 GB on a rank", file->path, m->name);
    m->rows_a_call = file->call_bytes / m->row_bytes > 0 ? file->call_bytes / m->row_bytes : 1;
    if (m->rows_a_call > m->held[0]) m->rows_a_call = m->held[0];
    if (is_dense(slab, m->held)) return true;
    m->buffer = malloc(m->rows_a_call * m->row_bytes);
    return m->buffer || error_fault(err, "%s: no memory to move %s", file->path, m->name);
}

/* Before anything of a foreign file is opened by all ranks: rank 0 looks at its header. */
static bool check_source(H5File *file, const char *name, DataType type, const Slab *slab, Error *err)
{
    int64_t mine[1 + SLAB_AXES] = { slab->axes }, known[1 + SLAB_AXES];  /* ranks that hold nothing know no extents */
    for (int i = 0; i < slab->axes; i++) mine[1 + i] = slab->axis[i].extent;
    memcpy(known, mine, sizeof known);
    if (file->comm != MPI_COMM_NULL) CHECK_MPI(MPI_Allreduce(mine, known, 1 + SLAB_AXES, MPI_INT64_T, MPI_MAX, file->comm));
    return known[0] == 0 || h5_expect(file, name, type, (int)known[0], known + 1, err);
}

static bool move_slab(H5File *file, const char *name, DataType type, const Slab *slab, bool writing, char *values, Error *err)
{
    Move m = { .file = file, .name = name, .type = type, .slab = slab, .writing = writing, .set = -1, .file_space = -1 };
    CHECK(file->call_bytes > 0 && file->call_bytes <= INT_MAX && writing == file->writing);
    if (!writing && !check_source(file, name, type, slab, err)) return false;
    if (!h5_open_data(file, err)) return false;
    m.list = H5Pcreate(H5P_DATASET_XFER);
    CHECK(m.list >= 0);
    if (file->comm != MPI_COMM_NULL) CHECK(H5Pset_dxpl_mpio(m.list, H5FD_MPIO_COLLECTIVE) >= 0);

    bool ok = h5_agree(file, prepare(&m, err), err);
    int64_t calls = ok && m.rows_a_call > 0 ? (m.held[0] + m.rows_a_call - 1) / m.rows_a_call : 0;
    if (file->comm != MPI_COMM_NULL) CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &calls, 1, MPI_INT64_T, MPI_MAX, file->comm));
    for (int64_t call = 0; ok && call < calls; call++) {
        int64_t from = call * m.rows_a_call, to = from + m.rows_a_call;
        if (to > m.held[0]) to = m.held[0];
        ok = h5_agree(file, move_rows(&m, from, to, values, err), err);
    }
    free(m.buffer);
    H5Pclose(m.list);
    if (m.file_space >= 0) H5Sclose(m.file_space);
    if (m.set >= 0) H5Dclose(m.set);
    return ok;
}

bool h5_read_slab(H5File *file, const char *dataset, DataType type, const Slab *slab, void *values, Error *err)
{
    return move_slab(file, dataset, type, slab, false, values, err);
}

bool h5_write_slab(H5File *file, const char *dataset, DataType type, const Slab *slab, const void *values, Error *err)
{
    return move_slab(file, dataset, type, slab, true, (char *)values, err);
}
