/* metrics.h5 as a run writes it: rows kept in memory, then added to the file. */
#include "metrics_private.h"

#include "catdpo/h5/checksum.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 64 }; /* at most */

struct Metrics {
    char path[FILE_PATH], folder[FILE_PATH]; /* folder: of unfinished files; "": beside */
    MPI_Comm comm;
    int rank, ranks;
    int64_t pairs;                 /* of a step of this run */
    int64_t lengths[METRICS_AXES]; /* in the file; STEP: rows that it has, the last one is step lengths[STEP] */
    int64_t rows, capacity;        /* in the buffers */
    Spares *spares;                /* rank 0 */
    char *memory,
        *buffer[COLUMNS];       /* [capacity, width] of the column's type; NULL: this rank's values are not stored */
    uint64_t checksum[COLUMNS]; /* rank 0: of each column's rows in the file */
    int64_t *partial, *all_partial; /* [2K] n and violations since the last flush; rank 0: [ranks, 2K] of all */
};

/* The columns of today's version: calls `column` c with its index i. */
#define EACH_COLUMN(i, c)                                                                                              \
    int i = 0;                                                                                                         \
    for (const Field *c = metrics_columns.field; c->kind != FIELD_END; c++, i++)                                       \
        if (field_is_in(c, METRICS_VERSION))

/* Elements of a row. */
static int64_t width_of(const Metrics *m, const Field *c) { return is_scalar(c) ? 1 : m->lengths[c->axis[1]]; }

static const char *unfinished(const Metrics *m) { return *m->folder ? m->folder : NULL; }

double metrics_bytes(int64_t steps, int64_t categories, int64_t pairs, int64_t phases)
{
    const int64_t lengths[METRICS_AXES] = { steps, categories, pairs, phases, 0 };
    return fields_bytes(&metrics_columns, lengths);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Room for the rows, once the widths are known. */
static bool allocate(Metrics *m, Error *err)
{
    size_t used[COLUMNS] = { 0 }, bytes = 0, counts = 2 * (size_t)m->lengths[CATEGORY];
    EACH_COLUMN(i, c)
    {
        CHECK(i < COLUMNS);
        used[i] = bytes;
        if (m->rank == 0 || c->tag != SAME) bytes += (size_t)(m->capacity * width_of(m, c)) * data_size(c->type);
        bytes = (bytes + 7) / 8 * 8;
    }
    m->memory = malloc(bytes + 1);
    m->partial = calloc(counts, sizeof *m->partial);
    m->all_partial = m->rank == 0 ? calloc(counts * (size_t)m->ranks, sizeof *m->all_partial) : NULL;
    EACH_COLUMN(k, column)
    m->buffer[k] = m->memory && (m->rank == 0 || column->tag != SAME) ? m->memory + used[k] : NULL;
    return (m->memory && m->partial && (m->rank > 0 || m->all_partial)) ||
           error_fault(err, "%s: no memory for %" PRId64 " rows", m->path, m->capacity);
}

static Metrics *metrics_new(const char *path, const MetricsInfo *info, MPI_Comm comm, Error *err)
{
    CHECK(info->category_count >= 1 && info->phase_count >= 1 && info->pairs_per_step >= 1 && info->capacity >= 1);
    CHECK(strlen(path) < FILE_PATH);
    Metrics *m = calloc(1, sizeof *m);
    if (!error_agree(comm, m || error_fault(err, "%s: out of memory", path), err)) {
        free(m);
        return NULL;
    }
    *m = (Metrics){ .comm = comm, .pairs = info->pairs_per_step, .capacity = info->capacity };
    strcpy(m->path, path);
    snprintf(m->folder, sizeof m->folder, "%s", info->folder ? info->folder : "");
    CHECK_MPI(MPI_Comm_rank(comm, &m->rank));
    CHECK_MPI(MPI_Comm_size(comm, &m->ranks));
    const int64_t lengths[METRICS_AXES] = { 0, info->category_count, info->pairs_per_step, info->phase_count,
                                            m->ranks };
    memcpy(m->lengths, lengths, sizeof lengths);
    return m;
}

void metrics_free(Metrics *m)
{
    if (!m) return;
    spares_free(m->spares);
    free(m->memory);
    free(m->partial);
    free(m->all_partial);
    free(m);
}

/* ---- a new file -------------------------------------------------------------------------------------------------- */

/* Rank 0: the phases' names, as they are stored. */
static bool copy_phases(MetricsHead *head, Error *err)
{
    int count = head->info.phase_count;
    head->phase = calloc((size_t)count, sizeof *head->phase);
    if (!head->phase) return error_fault(err, "out of memory for the names of %d phases", count);
    for (int p = 0; p < count; p++) snprintf(head->phase[p], CATEGORY_NAME, "%s", head->info.phase_name[p]);
    return true;
}

/* Rank 0: the head, and columns with room for m->lengths[STEP] rows. */
static bool lay_out(H5File *file, const Metrics *m, const MetricsInfo *info, int64_t restarts, Error *err)
{
    char hdf5[32];
    unsigned major, minor, release;
    H5get_libversion(&major, &minor, &release);
    snprintf(hdf5, sizeof hdf5, "%u.%u.%u", major, minor, release);
    int64_t *no_counts = calloc((size_t)m->ranks * (size_t)info->category_count, sizeof *no_counts);
    MetricsHead head = { .info = *info,
                         .hdf5 = hdf5,
                         .restarts = restarts,
                         .partial_n = no_counts,
                         .partial_violations = no_counts,
                         .partial_first = m->lengths[STEP] + 1,
                         .partial_last = m->lengths[STEP] };
    bool ok = (no_counts || error_fault(err, "%s: out of memory", m->path)) && copy_phases(&head, err) &&
              h5_write_format(file, metrics_head.name, metrics_head.version, err) &&
              fields_write(file, &metrics_head, &head, m->lengths, err) &&
              fields_write(file, &metrics_columns, NULL, m->lengths, err);
    free(head.phase);
    free(no_counts);
    return ok;
}

static bool write_checksums(H5File *file, const uint64_t sums[COLUMNS], Error *err)
{
    EACH_COLUMN(i, c)
    if (!h5_write_uint64(file, c->object, "checksum", sums[i], err)) return false;
    return true;
}

/* Rank 0: the copies of the file that the next flushes need. */
static bool prepare_spares(Metrics *m, Error *err)
{
    m->spares = spares_new(m->path, unfinished(m), err);
    return m->spares && spares_prepare(m->spares, err);
}

static bool create(Metrics *m, const MetricsInfo *info, Error *err)
{
    H5File file;
    bool ok = h5_create(&file, m->path, unfinished(m), MPI_COMM_NULL, err) && lay_out(&file, m, info, 0, err) &&
              write_checksums(&file, m->checksum, err) && h5_commit(&file, err);
    h5_close(&file);
    return ok && prepare_spares(m, err);
}

Metrics *metrics_create(const char *path, const MetricsInfo *info, MPI_Comm comm, Error *err)
{
    Metrics *m = metrics_new(path, info, comm, err);
    if (!m) return NULL;
    if (error_agree(comm, allocate(m, err) && (m->rank > 0 || create(m, info, err)), err)) return m;
    metrics_free(m);
    return NULL;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

bool metrics_full(const Metrics *m) { return m->rows == m->capacity; }

/* The file may have room for more pairs than this run's steps have. */
static void pad_pairs(const Metrics *m, const Field *c, void *row)
{
    for (int64_t i = m->pairs; i < m->lengths[PAIR]; i++) {
        if (c->type == DATA_INT64)
            ((int64_t *)row)[i] = -1;
        else
            ((double *)row)[i] = c->tag == COUNTED ? INFINITY : NAN;
    }
}

/* An array that the row does not have. */
static void no_values(const Field *c, void *row, size_t width)
{
    CHECK(c->type == DATA_FLOAT64 && c->nan);
    for (size_t i = 0; i < width; i++) ((double *)row)[i] = NAN;
}

void metrics_append(Metrics *m, const StepMetrics *row)
{
    CHECK(m->rows < m->capacity);
    CHECK(row->step == m->lengths[STEP] + m->rows + 1);
    int64_t k = m->lengths[CATEGORY];
    EACH_COLUMN(i, c)
    {
        if (!m->buffer[i]) continue;
        const void *field = (const char *)row + c->offset, *values = field;
        bool of_pairs = !is_scalar(c) && c->axis[1] == PAIR;
        size_t size = data_size(c->type), width = (size_t)width_of(m, c);
        char *target = m->buffer[i] + (size_t)m->rows * width * size;
        if (!is_scalar(c)) memcpy(&values, field, sizeof values); /* the field is a pointer to them */
        if (!values) {
            no_values(c, target, width);
            continue;
        }
        memcpy(target, values, (of_pairs ? (size_t)m->pairs : width) * size);
        if (of_pairs) pad_pairs(m, c, target);
    }
    for (int64_t j = 0; j < k; j++) {
        m->partial[j] += row->partial_n[j];
        m->partial[k + j] += row->partial_violations[j];
    }
    m->rows++;
}

/* Rank 0 gets the largest values, those that one rank has counted, and all ranks' counts. Collective; doing it again
 * changes nothing. */
static void gather(Metrics *m)
{
    int counts = 2 * (int)m->lengths[CATEGORY];
    EACH_COLUMN(i, c)
    {
        if (c->tag == SAME) continue;
        CHECK(c->type == DATA_FLOAT64);
        CHECK_MPI(MPI_Reduce(m->rank == 0 ? MPI_IN_PLACE : m->buffer[i], m->buffer[i], (int)(m->rows * width_of(m, c)),
                             MPI_DOUBLE, c->tag == LARGEST ? MPI_MAX : MPI_MIN, 0, m->comm));
        double *values = (double *)(void *)m->buffer[i];
        for (int64_t j = 0; m->rank == 0 && c->tag == COUNTED && j < m->rows * width_of(m, c); j++)
            if (isinf(values[j]) && values[j] > 0) values[j] = NAN; /* nobody has it; a log-prob is below zero */
    }
    CHECK_MPI(MPI_Gather(m->partial, counts, MPI_INT64_T, m->all_partial, counts, MPI_INT64_T, 0, m->comm));
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

/* The new rows of a column in memory, in a dataset that has them. */
static Slab new_rows(const Metrics *m, const Field *c, int64_t dims[FIELD_AXES])
{
    dims[0] = m->lengths[STEP] + m->rows;
    for (int i = 1; i < c->axes; i++) dims[i] = m->lengths[c->axis[i]];
    return slab_rows(c->axes, dims, m->lengths[STEP], m->rows);
}

static bool add_rows(H5File *file, const Metrics *m, uint64_t sums[COLUMNS], Error *err)
{
    EACH_COLUMN(i, c)
    {
        int64_t dims[FIELD_AXES];
        Slab slab = new_rows(m, c, dims);
        sums[i] = m->checksum[i] + checksum_slab(&slab, c->type, m->buffer[i]);
        if (!h5_resize(file, c->object, c->axes, dims, err) ||
            !h5_write_slab(file, c->object, c->type, &slab, m->buffer[i], err))
            return false;
    }
    return write_checksums(file, sums, err);
}

/* The ranks' counts of the steps since the last flush. */
static bool write_partial(H5File *file, const Metrics *m, Error *err)
{
    int64_t k = m->lengths[CATEGORY], dims[2] = { m->ranks, k };
    Slab slab = slab_rows(2, dims, 0, m->ranks);
    slab.axis[0].step = 2 * k;
    return h5_write_slab(file, "/train/partial/n", DATA_INT64, &slab, m->all_partial, err) &&
           h5_write_slab(file, "/train/partial/violations", DATA_INT64, &slab, m->all_partial + k, err) &&
           h5_write_int64(file, "/train/partial", "first_step", m->lengths[STEP] + 1, err) &&
           h5_write_int64(file, "/train/partial", "last_step", m->lengths[STEP] + m->rows, err);
}

static bool write_rows(Metrics *m, Error *err)
{
    uint64_t sums[COLUMNS];
    H5File file;
    bool ok = h5_extend(&file, m->spares, err) && add_rows(&file, m, sums, err) && write_partial(&file, m, err) &&
              h5_commit(&file, err);
    h5_close(&file);
    if (ok) memcpy(m->checksum, sums, sizeof sums);
    return ok;
}

bool metrics_flush(Metrics *m, Error *err)
{
    if (m->rows == 0) return true;
    gather(m);
    if (!error_agree(m->comm, m->rank > 0 || write_rows(m, err), err)) return false;
    m->lengths[STEP] += m->rows;
    m->rows = 0;
    memset(m->partial, 0, 2 * (size_t)m->lengths[CATEGORY] * sizeof *m->partial);
    return true;
}

/* ---- continuing -------------------------------------------------------------------------------------------------- */

static bool same_name(const H5File *file, const char *what, int64_t i, const char *found, const char *wanted,
                      Error *err)
{
    return strcmp(found, wanted) == 0 ||
           error_usage(err, "%s: %s %" PRId64 " is \"%s\", in this run it is \"%s\": not a file of the same training",
                       file->path, what, i, found, wanted);
}

/* The index of a phase's name in this run; -1: it has none. */
static int phase_place(const MetricsInfo *info, const char *name)
{
    for (int p = 0; p < info->phase_count; p++)
        if (strcmp(info->phase_name[p], name) == 0) return p;
    return -1;
}

/* Does the file belong to this run, and reach `step`? */
static bool same_run(const H5File *file, const MetricsHead *head, const int64_t lengths[METRICS_AXES],
                     const MetricsInfo *info, int64_t step, Error *err)
{
    if (lengths[CATEGORY] != info->category_count)
        return error_usage(err, "%s: has %" PRId64 " categories, this run has %d: not a file of the same training",
                           file->path, lengths[CATEGORY], info->category_count);
    for (int k = 0; k < info->category_count; k++)
        if (!same_name(file, "category", k, head->info.category_name[k], info->category_name[k], err)) return false;
    for (int64_t p = 0; p < lengths[PHASE]; p++)
        if (phase_place(info, head->phase[p]) < 0)
            return error_usage(err, "%s: has a phase \"%s\", which this run has not: not a file of the same training",
                               file->path, head->phase[p]);
    if (head->info.partial_unit != info->partial_unit)
        return error_usage(err,
                           "%s: attribute \"unit\" of /train/partial/violations is %g, in this run it is %g: not a "
                           "file of the same training",
                           file->path, head->info.partial_unit, info->partial_unit);
    return lengths[STEP] >= step || error_usage(err,
                                                "%s: ends at step %" PRId64 ", the checkpoint is of step %" PRId64
                                                ": not a file of the same training",
                                                file->path, lengths[STEP], step);
}

typedef struct Copy {
    H5File *from, *to;
    Metrics *m;
    const MetricsInfo *info;
    const MetricsHead *head; /* of the old file */
    int column;
    char *block; /* owned */
    size_t bytes;
} Copy;

static void spread_phases(const Copy *copy, const double *from, int64_t count, double *to, int64_t all)
{
    for (int64_t p = 0; p < all; p++) to[p] = 0;
    for (int64_t p = 0; p < count; p++) to[phase_place(copy->info, copy->head->phase[p])] = from[p];
}

/* Rows of an old column into the new file, which may be wider; rows behind its end are left out. */
static bool copy_rows(void *context, const Field *c, int64_t first, int64_t count, int64_t width, const void *values,
                      Error *err)
{
    Copy *copy = context;
    Metrics *m = copy->m;
    size_t size = data_size(c->type), wide = (size_t)width_of(m, c);
    int64_t dims[FIELD_AXES], keep = m->lengths[STEP];
    for (int64_t i = 0; strcmp(c->object, "/train/step") == 0 && i < count && first + i < keep; i++)
        if (((const int64_t *)values)[i] != first + i + 1)
            return error_usage(err, "%s: row %" PRId64 " is step %" PRId64 ": damaged", copy->from->path, first + i,
                               ((const int64_t *)values)[i]);
    if (first + count > keep) count = keep - first;
    if (count <= 0) return true;
    if (copy->bytes < (size_t)count * wide * size) {
        free(copy->block);
        copy->bytes = (size_t)count * wide * size;
        copy->block = malloc(copy->bytes);
        if (!copy->block) copy->bytes = 0;
        if (!copy->block) return error_fault(err, "%s: no memory to copy %s", copy->from->path, c->object);
    }
    bool phases = !is_scalar(c) && c->axis[1] == PHASE;
    for (int64_t i = 0; i < count; i++) {
        char *row = copy->block + (size_t)i * wide * size;
        if (phases) { /* an earlier version had fewer */
            spread_phases(copy, (const double *)values + i * width, width, (double *)(void *)row, (int64_t)wide);
            continue;
        }
        memcpy(row, (const char *)values + (size_t)(i * width) * size, (size_t)width * size);
        for (size_t j = (size_t)width; j < wide; j++) { /* a run of more pairs a step */
            if (c->type == DATA_INT64)
                ((int64_t *)(void *)row)[j] = -1;
            else
                ((double *)(void *)row)[j] = NAN;
        }
    }
    dims[0] = keep;
    for (int i = 1; i < c->axes; i++) dims[i] = m->lengths[c->axis[i]];
    Slab slab = slab_rows(c->axes, dims, first, count);
    m->checksum[copy->column] += checksum_slab(&slab, c->type, copy->block);
    return h5_write_slab(copy->to, c->object, c->type, &slab, copy->block, err);
}

/* A column that the old file's version did not have: an extendible dataset of real numbers is NaN where nothing was
 * written, and so is its checksum. */
static void fill_rows(Copy *copy, const Field *c)
{
    static const double none = NAN;
    int64_t dims[FIELD_AXES];
    CHECK(c->type == DATA_FLOAT64 && c->axes <= 2);
    dims[0] = copy->m->lengths[STEP], dims[1] = width_of(copy->m, c);
    Slab slab = slab_rows(c->axes, dims, 0, dims[0]);
    for (int i = 0; i < slab.axes; i++) slab.axis[i].step = slab.axis[i].block_step = 0;
    copy->m->checksum[copy->column] += checksum_slab(&slab, c->type, &none);
}

static bool copy_columns(Copy *copy, const int64_t lengths[METRICS_AXES], Error *err)
{
    bool ok = true;
    EACH_COLUMN(i, c)
    {
        copy->column = i;
        if (!field_is_in(c, copy->from->version))
            fill_rows(copy, c);
        else
            ok = ok && metrics_read_column(copy->from, c, lengths, copy_rows, copy, err);
    }
    free(copy->block);
    return ok;
}

/* Rank 0: a new file with the old one's first rows takes its place. */
static bool copy_file(Metrics *m, H5File *from, const MetricsHead *head, const int64_t lengths[METRICS_AXES],
                      const MetricsInfo *info, Error *err)
{
    H5File to;
    char created[64];
    bool ok = h5_read_string(from, "/", "created", created, sizeof created, err) &&
              h5_create(&to, m->path, unfinished(m), MPI_COMM_NULL, err);
    if (!ok) return false;
    ok = lay_out(&to, m, info, head->restarts + 1, err) && h5_write_string(&to, "/", "created", created, err) &&
         copy_columns(&(Copy){ .from = from, .to = &to, .m = m, .info = info, .head = head }, lengths, err) &&
         write_checksums(&to, m->checksum, err) && h5_commit(&to, err);
    h5_close(&to);
    return ok;
}

static bool resume(Metrics *m, const MetricsInfo *info, int64_t step, Error *err)
{
    H5File from;
    MetricsHead head = { 0 };
    int64_t lengths[METRICS_AXES];
    bool ok = h5_open(&from, m->path, MPI_COMM_NULL, err) && metrics_read_head(&from, &head, lengths, err) &&
              same_run(&from, &head, lengths, info, step, err);
    m->lengths[STEP] = step;
    if (ok && lengths[PAIR] > m->lengths[PAIR]) m->lengths[PAIR] = lengths[PAIR];
    ok = ok && copy_file(m, &from, &head, lengths, info, err);
    metrics_head_free(&head);
    h5_close(&from);
    return ok && prepare_spares(m, err);
}

Metrics *metrics_resume(const char *path, const MetricsInfo *info, int64_t step, MPI_Comm comm, Error *err)
{
    Metrics *m = metrics_new(path, info, comm, err);
    if (!m) return NULL;
    CHECK(step >= 0);
    bool ok = error_agree(comm, m->rank > 0 || resume(m, info, step, err), err);
    if (ok) CHECK_MPI(MPI_Bcast(m->lengths, METRICS_AXES, MPI_INT64_T, 0, comm));
    if (ok && error_agree(comm, allocate(m, err), err)) return m;
    metrics_free(m);
    return NULL;
}
