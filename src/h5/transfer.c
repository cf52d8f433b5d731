/* Slabs of datasets, moved by all ranks.
 *
 * What the ranks hold of a tensor is scattered over its rows in small pieces. So the values change hands first, by MPI:
 * in each round every rank gets some whole, consecutive rows, and moves those between memory and file in one piece. The
 * file is read once however many replicas want it, and no rank touches another's rows.
 *
 * By default a rank moves its rows on its own (HDF5's independent transfer through MPI-IO) and the verdicts are agreed
 * afterwards. With collective transfers nothing is gained, since the rows are in one piece already, and a full disk is
 * fatal: of Open MPI 4.1.4's components vulcan, two_phase and ROMIO wait for ever for a rank whose write failed,
 * dynamic and dynamic_gen2 report success and have lost data (tests/mpi/test_h5_faults.c with file.collective = true).
 */
#include "private.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    LEAST_BYTES = 1 << 20
}; /* a rank's rows are not cut smaller than this, so that small tensors take few writers */

typedef struct Move {
    H5File *file;
    const char *name;
    DataType type;
    size_t size;            /* of an element */
    bool writing, patching; /* patching: the slabs leave holes in the rows, whose old values stay */
    bool direct;            /* in this round all shares of this rank's rows are whole rows: they need no place beside */
    int ranks, rank;
    Slab *slab;                 /* [ranks], all ranks' (their memory is their own) */
    int64_t row_count;          /* elements of a row */
    int64_t begin, end;         /* rows that are held by somebody */
    int64_t rows_a_rank;        /* in one round */
    int *counts, *places;       /* [2 * ranks]: elements sent and received, and where */
    char *mine, *others, *rows; /* this rank's slab, all ranks' shares of its rows if not direct, its rows */
    hid_t set, space, list;
} Move;

/* ---- the plan: the same on all ranks ----------------------------------------------------------------------------- */

typedef struct Range {
    int64_t from, to;
} Range;

/* The rows that a rank moves in a round. */
static Range rows_of(const Move *m, int64_t round, int rank)
{
    int64_t from = m->begin + (round * m->ranks + rank) * m->rows_a_rank, to = from + m->rows_a_rank;
    return (Range){ from < m->end ? from : m->end, to < m->end ? to : m->end };
}

/* The held indices of axis 0 within some rows. */
static Range held_within(const Slab *slab, Range rows)
{
    if (slab->axes == 0) return (Range){ 0, 0 };
    return (Range){ slab_axis_below(&slab->axis[0], rows.from), slab_axis_below(&slab->axis[0], rows.to) };
}

static int64_t elements_within(const Slab *slab, Range rows)
{
    Range held = held_within(slab, rows);
    int64_t count = held.to - held.from;
    for (int i = 1; i < slab->axes; i++) count *= slab_axis_count(&slab->axis[i]);
    return count;
}

static int64_t count_rounds(const Move *m)
{
    int64_t rows = m->ranks * m->rows_a_rank;
    return (m->end - m->begin + rows - 1) / rows;
}

/* The most elements that any rank sends or receives in any round. */
static int64_t largest_exchange(const Move *m)
{
    int64_t most = 0;
    for (int64_t round = 0; round < count_rounds(m); round++) {
        Range all = { rows_of(m, round, 0).from, rows_of(m, round, m->ranks - 1).to };
        for (int r = 0; r < m->ranks; r++) {
            int64_t held = elements_within(&m->slab[r], all);
            if (held > most) most = held;
        }
        for (int r = 0; r < m->ranks; r++) {
            Range rows = rows_of(m, round, r);
            int64_t wanted = 0;
            for (int q = 0; q < m->ranks && rows.from < rows.to; q++) wanted += elements_within(&m->slab[q], rows);
            if (wanted > most) most = wanted;
        }
    }
    return most;
}

/* How many rows a rank takes in a round: all in one round if call_bytes allows. */
static void choose_rows(Move *m)
{
    int64_t most = m->file->call_bytes / (int64_t)m->size, span = m->end - m->begin;
    int64_t rows = (span + m->ranks - 1) / m->ranks, least = LEAST_BYTES / ((int64_t)m->size * m->row_count);
    if (rows < least) rows = least;
    if (rows > span) rows = span;
    if (rows > most / m->row_count) rows = most / m->row_count;
    m->rows_a_rank = rows > 0 ? rows : 1;
    while (m->rows_a_rank > 1 && largest_exchange(m) > most) m->rows_a_rank = (m->rows_a_rank + 1) / 2;
}

/* Learn all ranks' slabs; false (agreed, with err set) if there is no memory. *dims and *axes are those of the slabs;
 * no axes: nobody holds anything. */
static bool gather_slabs(Move *m, const Slab *slab, int *axes, int64_t dims[SLAB_AXES], Error *err)
{
    m->slab = malloc(m->ranks * sizeof *m->slab);
    m->counts = malloc(2 * m->ranks * sizeof *m->counts);
    m->places = malloc(2 * m->ranks * sizeof *m->places);
    bool ok = m->slab && m->counts && m->places;
    if (!h5_agree(m->file, ok || error_fault(err, "%s: no memory to move %s", m->file->path, m->name), err))
        return false;
    if (m->file->comm == MPI_COMM_NULL)
        m->slab[0] = *slab;
    else
        CHECK_MPI(MPI_Allgather(slab, sizeof *slab, MPI_BYTE, m->slab, sizeof *slab, MPI_BYTE, m->file->comm));

    int64_t held = 0;
    *axes = 0;
    m->begin = INT64_MAX, m->end = 0;
    for (int r = 0; r < m->ranks; r++) {
        const Slab *s = &m->slab[r];
        int64_t count = slab_count(s);
        if (count == 0) m->slab[r] = slab_none();
        if (count == 0) continue;
        CHECK(*axes == 0 || *axes == s->axes);
        *axes = s->axes;
        for (int i = 0; i < s->axes; i++) dims[i] = s->axis[i].extent;
        int64_t last = slab_index(&s->axis[0], slab_axis_count(&s->axis[0]) - 1) + 1;
        if (s->axis[0].first < m->begin) m->begin = s->axis[0].first;
        if (last > m->end) m->end = last;
        held += count;
    }
    m->row_count = 1;
    for (int i = 1; i < *axes; i++) m->row_count *= dims[i];
    m->patching = m->writing && *axes > 0 && held != (m->end - m->begin) * m->row_count;
    return true;
}

/* ---- one round --------------------------------------------------------------------------------------------------- */

/* All ranks' shares of this rank's rows. */
static char *shares(const Move *m) { return m->direct ? m->rows : m->others; }

/* This rank's slab <-> m->mine, in the order of the ranks that move its rows; <-> its shares where that is this rank.
 */
static void copy_mine(const Move *m, int64_t round, const Slab *slab, char *values, bool pack)
{
    for (int r = 0; r < m->ranks; r++) {
        Range held = held_within(slab, rows_of(m, round, r));
        char *dense = r == m->rank ? shares(m) + m->places[m->ranks + r] * (int64_t)m->size
                                   : m->mine + m->places[r] * (int64_t)m->size;
        slab_copy(slab, held.from, held.to, m->size, dense, values, pack);
    }
}

/* This rank's rows <-> m->others, in the order of the ranks that hold them. */
static void copy_others(const Move *m, int64_t round, bool pack)
{
    if (m->direct) return;
    Range rows = rows_of(m, round, m->rank);
    for (int r = 0; r < m->ranks; r++) {
        int64_t offset;
        Slab within = slab_within(&m->slab[r], &offset);
        Range held = held_within(&within, rows);
        offset -= rows.from * m->row_count;
        slab_copy(&within, held.from, held.to, m->size, m->others + m->places[m->ranks + r] * (int64_t)m->size,
                  m->rows + offset * (int64_t)m->size, pack);
    }
}

/* The places of all shares within this rank's rows, if each is nothing or whole, consecutive rows; false: they are not.
 */
static bool place_directly(Move *m, Range rows)
{
    for (int r = 0; r < m->ranks; r++) {
        const Slab *slab = &m->slab[r];
        Range held = held_within(slab, rows);
        int64_t count = held.to - held.from, from = count > 0 ? slab_index(&slab->axis[0], held.from) : rows.from;
        if (count > 0 && (slab_index(&slab->axis[0], held.to - 1) - from != count - 1 ||
                          elements_within(slab, rows) != count * m->row_count))
            return false;
        m->places[m->ranks + r] = (int)((from - rows.from) * m->row_count);
    }
    return true;
}

/* Fill counts and places: [0, ranks) of m->mine, [ranks, 2 ranks) of the shares. What a rank has for itself does not
 * travel. */
static void count_round(Move *m, int64_t round)
{
    int mine = 0, others = 0;
    m->direct = !m->patching && place_directly(m, rows_of(m, round, m->rank));
    for (int r = 0; r < m->ranks; r++) {
        bool self = r == m->rank;
        int to_move = (int)elements_within(&m->slab[r], rows_of(m, round, m->rank));
        m->counts[r] = self ? 0 : (int)elements_within(&m->slab[m->rank], rows_of(m, round, r));
        m->counts[m->ranks + r] = self ? 0 : to_move;
        m->places[r] = mine;
        if (!m->direct) m->places[m->ranks + r] = others;
        mine += m->counts[r];
        others += to_move;
    }
}

/* m->mine to the shares (writing) or back. */
static void exchange(const Move *m)
{
    if (m->ranks == 1) return;
    MPI_Datatype type = m->size == 8 ? MPI_UINT64_T : m->size == 4 ? MPI_UINT32_T : MPI_UINT8_T;
    int from = m->writing ? 0 : m->ranks, to = m->writing ? m->ranks : 0;
    CHECK_MPI(MPI_Alltoallv(m->writing ? m->mine : shares(m), m->counts + from, m->places + from, type,
                            m->writing ? shares(m) : m->mine, m->counts + to, m->places + to, type, m->file->comm));
}

/* This rank's rows between memory and file. */
static bool move_rows(const Move *m, Range rows, bool writing, Error *err)
{
    H5File *file = m->file;
    bool some = rows.from < rows.to;
    if (!some && !file->collective) return true;
    hsize_t start[SLAB_AXES] = { (hsize_t)rows.from }, count[SLAB_AXES], total = 1;
    CHECK(H5Sget_simple_extent_dims(m->space, count, NULL) >= 0);
    if (some) {
        count[0] = (hsize_t)(rows.to - rows.from);
        total = count[0] * (hsize_t)m->row_count;
        CHECK(H5Sselect_hyperslab(m->space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0);
    }
    hid_t memory = H5Screate_simple(1, &total, NULL), type = h5_memory_type(m->type);
    CHECK(memory >= 0 && (some || (H5Sselect_none(memory) >= 0 && H5Sselect_none(m->space) >= 0)));
    herr_t status = writing ? H5Dwrite(m->set, type, memory, m->space, m->list, m->rows)
                            : H5Dread(m->set, type, memory, m->space, m->list, m->rows);
    bool ok = h5_ok(status, err, writing ? "%s: cannot write %s: disk full or quota reached?" : "%s: cannot read %s",
                    file->path, m->name); /* MPI-IO does not pass on the reason */
    if (writing && ok && some) h5_start_flushing(file, (int64_t)total * (int64_t)m->size);
    H5Sclose(memory);
    return ok;
}

static bool move_round(Move *m, int64_t round, const Slab *slab, char *values, Error *err)
{
    Range rows = rows_of(m, round, m->rank);
    count_round(m, round);
    if (m->writing) {
        copy_mine(m, round, slab, values, true);
        exchange(m);
        if (m->patching && !h5_agree(m->file, move_rows(m, rows, false, err), err)) return false;
        copy_others(m, round, false);
        return h5_agree(m->file, move_rows(m, rows, true, err), err);
    }
    if (!h5_agree(m->file, move_rows(m, rows, false, err), err)) return false;
    copy_others(m, round, true);
    exchange(m);
    copy_mine(m, round, slab, values, false);
    return true;
}

/* ---- all rounds -------------------------------------------------------------------------------------------------- */

/* Open the dataset, which must have the slabs' shape, and get the memory for a round. */
static bool prepare(Move *m, int axes, const int64_t dims[], Error *err)
{
    H5File *file = m->file;
    hsize_t extents[SLAB_AXES];
    hid_t access = H5Pcreate(H5P_DATASET_ACCESS); /* of a chunk that gets some rows only these are written */
    CHECK(access >= 0 && H5Pset_chunk_cache(access, 0, 0, H5D_CHUNK_CACHE_W0_DEFAULT) >= 0);
    m->set = H5Dopen2(file->comm == MPI_COMM_NULL ? file->meta : file->data, m->name, access);
    H5Pclose(access);
    if (!h5_ok(m->set, err, "%s: cannot open %s", file->path, m->name)) return false;
    m->space = H5Dget_space(m->set);
    if (!h5_ok(m->space, err, "%s: cannot read the shape of %s", file->path, m->name)) return false;
    bool same = H5Sget_simple_extent_ndims(m->space) == axes && H5Sget_simple_extent_dims(m->space, extents, NULL) >= 0;
    for (int i = 0; same && i < axes; i++) same = extents[i] == (hsize_t)dims[i];
    if (!same) return error_fault(err, "%s: %s has another shape than the slabs", file->path, m->name);

    size_t buffer = (size_t)largest_exchange(m) * m->size, rows = (size_t)(m->rows_a_rank * m->row_count) * m->size;
    if (buffer / m->size > INT_MAX || rows > INT_MAX)
        return error_fault(err, "%s: one row of %s is over 2 GB", file->path, m->name);
    buffer = (buffer + 63) / 64 * 64;
    if (file->scratch_bytes < 2 * buffer + rows) {
        free(file->scratch);
        file->scratch_bytes = 2 * buffer + rows;
        file->scratch = malloc(file->scratch_bytes);
    }
    if (!file->scratch) {
        file->scratch_bytes = 0;
        return error_fault(err, "%s: no memory to move %s", file->path, m->name);
    }
    m->mine = file->scratch, m->others = m->mine + buffer, m->rows = m->others + buffer;
    return true;
}

static bool move_all(Move *m, const Slab *slab, char *values, Error *err)
{
    H5File *file = m->file;
    int axes;
    int64_t dims[SLAB_AXES];
    if (!gather_slabs(m, slab, &axes, dims, err)) return false;
    if (axes == 0) return true;
    if (!m->writing && !h5_expect(file, m->name, m->type, axes, dims, err)) return false;
    if (!h5_open_data(file, err)) return false;
    choose_rows(m);
    m->list = H5Pcreate(H5P_DATASET_XFER);
    CHECK(m->list >= 0);
    if (file->comm != MPI_COMM_NULL)
        CHECK(H5Pset_dxpl_mpio(m->list, file->collective ? H5FD_MPIO_COLLECTIVE : H5FD_MPIO_INDEPENDENT) >= 0);
    bool ok = h5_agree(file, prepare(m, axes, dims, err), err);
    for (int64_t round = 0; ok && round < count_rounds(m); round++)
        ok = move_round(m, round, &m->slab[m->rank], values, err);
    H5Pclose(m->list);
    if (m->space >= 0) H5Sclose(m->space);
    if (m->set >= 0) H5Dclose(m->set);
    return ok;
}

static bool move_slab(H5File *file, const char *name, DataType type, const Slab *slab, bool writing, char *values,
                      Error *err)
{
    Move m = { .file = file,
               .name = name,
               .type = type,
               .size = data_size(type),
               .writing = writing,
               .ranks = 1,
               .rank = file->rank,
               .set = -1,
               .space = -1 };
    CHECK(file->call_bytes > 0 && file->call_bytes <= INT_MAX && writing == file->writing);
    if (file->comm != MPI_COMM_NULL) CHECK_MPI(MPI_Comm_size(file->comm, &m.ranks));
    bool ok = move_all(&m, slab, values, err);
    free(m.slab);
    free(m.counts);
    free(m.places);
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
