#include "catdpo/files/tensors_file.h"
#include "tensors_private.h"

#include "catdpo/core/phase.h"
#include "catdpo/core/simd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- tensors and their parts ------------------------------------------------------------------------------------ */

/* "/model" + "/layers/0/mlp/up_proj/weight" */
static void name_dataset(char dataset[PART_DATASET], const char *group, const char *part)
{
    int at = snprintf(dataset, PART_DATASET, "%s/%s", group, part);
    for (int i = at - (int)strlen(part); i < at; i++)
        if (dataset[i] == '.') dataset[i] = '/';
}

/* Where part `index` of a fused tensor begins in the local rows. */
static int rows_before(const Tensor *t, int index)
{
    int before = 0, block = t->rows.local < t->rows.block ? t->rows.local : t->rows.block;
    CHECK(t->part_count == 1 || t->rows.length % t->rows.block == 0 || t->rows.local <= t->rows.block);
    for (int i = 0; i < index; i++) before += t->part[i].block;
    return (int)((int64_t)before * block / t->rows.block); /* a last, short block holds every part shortened alike */
}

/* Local columns [from, to) of part `index` of a tensor, as they lie in the local matrix. `writer`: nothing, unless a
 * repeated tensor is written by this rank. */
static Slab slab_of(const Tensor *t, const Grid *grid, int index, int from, int to, bool writer)
{
    const TensorPart *p = &t->part[index];
    Axis rows = axis_make(p->rows, p->block, t->rows.parts, t->rows.mine);
    bool repeated = t->vector && (grid->column > 0 || (t->everywhere && grid->row > 0));
    if (rows.local == 0 || from >= to || (writer && repeated)) return slab_none();
    SlabAxis row_axis = { .extent = p->rows,
                          .first = (int64_t)rows.mine * rows.block,
                          .block = rows.block,
                          .stride = (int64_t)rows.parts * rows.block,
                          .step = 1,
                          .block_step = t->rows.block };
    if (t->vector) return (Slab){ .axes = 1, .axis = { row_axis } };
    CHECK(t->columns.local <= t->columns.block); /* one block a process: columns are a range */
    SlabAxis column_axis = { .extent = t->columns.length,
                             .first = (int64_t)t->columns.mine * t->columns.block + from,
                             .block = to - from,
                             .stride = t->columns.length,
                             .step = t->rows.local,
                             .block_step = (int64_t)t->rows.local * (to - from) };
    return (Slab){ .axes = 2, .axis = { row_axis, column_axis } };
}

/* Local columns of a tensor that lie in [first, end) of the flat array. Shares are cut at whole columns. */
static void columns_within(const Tensor *t, int64_t first_float, int64_t end_float, int *from, int *to)
{
    int64_t first = first_float > t->offset ? first_float : t->offset;
    int64_t end = end_float < t->offset + t->local ? end_float : t->offset + t->local;
    *from = *to = 0;
    if (first < end) {
        *from = (int)((first - t->offset) / t->rows.local);
        *to = (int)((end - t->offset) / t->rows.local);
    }
}

int parts_count(const Parameters *p)
{
    int count = 0;
    for (int i = 0; i < p->count; i++) count += p->tensor[i].part_count;
    return count;
}

bool parts_digest(const Parameters *p, const uint64_t *checksums, char digest[WEIGHTS_DIGEST], Error *err)
{
    int count = parts_count(p), at = 0;
    char(*full)[PART_DATASET] = malloc((size_t)count * sizeof *full);
    const char **names = malloc((size_t)count * sizeof *names);
    bool ok = full && names;
    for (int i = 0; ok && i < p->count; i++)
        for (int j = 0; j < p->tensor[i].part_count; j++, at++) {
            const char *name = p->tensor[i].part[j].name;
            snprintf(full[at], PART_DATASET, "%s%s", strncmp(name, "lm_head", 7) == 0 ? "" : "model.", name);
            names[at] = full[at];
        }
    ok = ok && weights_digest(count, names, checksums, digest);
    free(full);
    free(names);
    return ok || error_fault(err, "out of memory for the names of %d tensors", count);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

bool all_finite(const float *x, int64_t n)
{
    return isfinite(simd_square_sum(x, n)) || (isfinite(simd_sum(x, n)) && isfinite(simd_max(x, (int)n)));
}

bool part_expect(H5File *file, const char *group, const Tensor *tensor, int index, char dataset[PART_DATASET],
                 int64_t dims[2], uint64_t *sum, Error *err)
{
    name_dataset(dataset, group, tensor->part[index].name);
    dims[0] = tensor->part[index].rows;
    dims[1] = tensor->columns.length;
    return h5_expect(file, dataset, DATA_FLOAT32, tensor->vector ? 1 : 2, dims, err) &&
           (!sum || h5_read_uint64(file, dataset, "checksum", sum, err));
}

bool part_is_whole(const H5File *file, const char *dataset, uint64_t found, uint64_t stored, Error *err)
{
    return found == stored ||
           error_usage(err,
                       "%s: %s is damaged: its checksum is %016llx, the file says %016llx. Copy or import it again",
                       file->path, dataset, (unsigned long long)found, (unsigned long long)stored);
}

static bool refuse_numbers(const H5File *file, const char *dataset, const char *others, Error *err)
{
    return error_usage(err, "%s: %s%s holds NaN or infinite numbers: start from a file that is whole", file->path,
                       dataset, others);
}

static bool refuse_negative(const H5File *file, const char *dataset, float value, Error *err)
{
    return error_usage(err, "%s: %s holds %g; a second moment is not negative: use another checkpoint", file->path,
                       dataset, (double)value);
}

/* One part from the file to its place in an array. With checksum != NULL it must be the one that the file gives.
 * Collective. */
static bool read_part(H5File *file, const Transformer *t, const char *group, const Tensor *tensor, int index,
                      const LoadedArray *array, uint64_t *checksum, Error *err)
{
    char dataset[PART_DATASET];
    int64_t dims[2];
    uint64_t stored = 0;
    int from, to;
    if (!part_expect(file, group, tensor, index, dataset, dims, checksum ? &stored : NULL, err)) return false;
    float *values = array->flat + (tensor->offset - array->first + rows_before(tensor, index));
    columns_within(tensor, array->first, array->end, &from, &to);
    Slab slab = slab_of(tensor, t->grid, index, from, to, false);
    if (!h5_read_slab(file, dataset, DATA_FLOAT32, &slab, values + (int64_t)from * tensor->rows.local, err))
        return false;
    if (!checksum) return true;
    columns_within(tensor, array->counted_first, array->counted_end, &from, &to);
    slab = slab_of(tensor, t->grid, index, from, to, true);
    *checksum = slab.axes > 0 ? checksum_slab(&slab, DATA_FLOAT32, values + (int64_t)from * tensor->rows.local) : 0;
    checksum_sum(1, checksum, t->grid->world);
    return part_is_whole(file, dataset, *checksum, stored, err);
}

/* Is a tensor's part of the array what it has to be? */
static bool check_numbers(const H5File *file, const char *group, const Tensor *tensor, const LoadedArray *array,
                          Error *err)
{
    int64_t from = tensor->offset > array->first ? tensor->offset : array->first;
    int64_t end = tensor->offset + tensor->local < array->end ? tensor->offset + tensor->local : array->end;
    char dataset[PART_DATASET];
    name_dataset(dataset, group, tensor->part[0].name);
    const float *values = array->flat + (from - array->first);
    if (from < end && !all_finite(values, end - from))
        return refuse_numbers(file, dataset, " or what goes with it", err);
    for (int64_t i = 0; array->positive && i < end - from; i++)
        if (values[i] < 0) return refuse_negative(file, dataset, values[i], err);
    return true;
}

bool tensors_read(H5File *file, const Transformer *t, const Parameters *p, const char *group, const LoadedArray *array,
                  uint64_t *checksums, Error *err)
{
    for (int i = 0, at = 0; i < p->count; i++) {
        const Tensor *tensor = &p->tensor[i];
        bool ok = true;
        timer_start(t->timer, PHASE_CHECKPOINT);
        for (int j = 0; ok && j < tensor->part_count; j++, at++)
            ok = read_part(file, t, group, tensor, j, array, checksums ? &checksums[at] : NULL, err);
        timer_stop(t->timer);
        if (!ok || !error_agree(t->grid->world, check_numbers(file, group, tensor, array, err), err)) return false;
    }
    return true;
}

/* ---- verifying -------------------------------------------------------------------------------------------------- */

/* One part, some rows at a time in buffer[most]. */
static bool verify_part(H5File *file, const char *group, const Tensor *tensor, int index, bool positive, float *buffer,
                        int64_t most, uint64_t *checksum, Error *err)
{
    char dataset[PART_DATASET];
    int64_t dims[2];
    uint64_t stored;
    int axes = tensor->vector ? 1 : 2;
    if (!part_expect(file, group, tensor, index, dataset, dims, &stored, err)) return false;
    int64_t width = axes == 1 ? 1 : dims[1], rows = most / width;
    *checksum = 0;
    for (int64_t at = 0; at < dims[0]; at += rows) {
        int64_t count = dims[0] - at < rows ? dims[0] - at : rows;
        Slab slab = slab_rows(axes, dims, at, count);
        if (!h5_read_slab(file, dataset, DATA_FLOAT32, &slab, buffer, err)) return false;
        *checksum += checksum_slab(&slab, DATA_FLOAT32, buffer);
        if (!all_finite(buffer, count * width)) return refuse_numbers(file, dataset, "", err);
        for (int64_t i = 0; positive && i < count * width; i++)
            if (buffer[i] < 0) return refuse_negative(file, dataset, buffer[i], err);
    }
    return part_is_whole(file, dataset, *checksum, stored, err);
}

bool tensors_verify(H5File *file, const Parameters *p, const char *group, bool positive, uint64_t *checksums,
                    TensorsProgress *progress, void *context, Error *err)
{
    int64_t most = 1 << 22;
    for (int i = 0; i < p->count; i++)
        if (p->tensor[i].columns.length > most) most = p->tensor[i].columns.length;
    float *buffer = malloc((size_t)most * sizeof *buffer);
    bool ok = buffer || error_fault(err, "out of memory for reading %s", file->path);
    for (int i = 0, at = 0; ok && i < p->count; i++)
        for (int j = 0; ok && j < p->tensor[i].part_count; j++, at++) {
            ok = verify_part(file, group, &p->tensor[i], j, positive, buffer, most, &checksums[at], err);
            if (ok && progress) progress(context, (int64_t)p->tensor[i].part[j].rows * p->tensor[i].columns.length);
        }
    free(buffer);
    return ok;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* Each part of each tensor in turn, on the columns of `array` that this rank owns. */
typedef struct OwnedPart {
    const Tensor *tensor;
    int index; /* of the part */
    Slab slab;
    const float *values; /* NULL where the slab is empty */
} OwnedPart;

static OwnedPart owned_part(const Transformer *t, const Parameters *p, const ShardedArray *array, int tensor, int index)
{
    OwnedPart owned = { .tensor = &p->tensor[tensor], .index = index };
    int from, to;
    columns_within(owned.tensor, array->first, array->end, &from, &to);
    owned.slab = slab_of(owned.tensor, t->grid, index, from, to, true);
    if (owned.slab.axes > 0)
        owned.values = array->flat + (owned.tensor->offset - array->first + (int64_t)from * owned.tensor->rows.local +
                                      rows_before(owned.tensor, index));
    return owned;
}

void tensors_checksums(const Transformer *t, const Parameters *p, const ShardedArray *array, uint64_t *checksums)
{
    int at = 0;
    for (int i = 0; i < p->count; i++)
        for (int j = 0; j < p->tensor[i].part_count; j++) {
            OwnedPart owned = owned_part(t, p, array, i, j);
            checksums[at++] = checksum_slab(&owned.slab, DATA_FLOAT32, owned.values);
        }
    checksum_sum(at, checksums, t->grid->world);
}

bool tensors_create(H5File *file, const Parameters *p, const char *group, const uint64_t *checksums, Error *err)
{
    int at = 0;
    for (int i = 0; i < p->count; i++)
        for (int j = 0; j < p->tensor[i].part_count; j++, at++) {
            const Tensor *tensor = &p->tensor[i];
            char dataset[PART_DATASET];
            name_dataset(dataset, group, tensor->part[j].name);
            int64_t dims[2] = { tensor->part[j].rows, tensor->columns.length };
            if (!h5_create_dataset(file, dataset, DATA_FLOAT32, tensor->vector ? 1 : 2, dims, err) ||
                !h5_write_uint64(file, dataset, "checksum", checksums[at], err))
                return false;
        }
    return true;
}

bool tensors_write(H5File *file, const Transformer *t, const Parameters *p, const char *group,
                   const ShardedArray *array, Error *err)
{
    for (int i = 0; i < p->count; i++)
        for (int j = 0; j < p->tensor[i].part_count; j++) {
            OwnedPart owned = owned_part(t, p, array, i, j);
            char dataset[PART_DATASET];
            name_dataset(dataset, group, owned.tensor->part[j].name);
            timer_start(t->timer, PHASE_CHECKPOINT);
            bool ok = h5_write_slab(file, dataset, DATA_FLOAT32, &owned.slab, owned.values, err);
            timer_stop(t->timer);
            if (!ok) return false;
        }
    return true;
}
