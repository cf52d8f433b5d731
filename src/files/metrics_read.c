/* metrics.h5 as a process alone reads it: the head, and columns with their checksums. */
#include "metrics_private.h"

#include "catdpo/h5/checksum.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4 << 20 }; /* bytes read at once */

bool metrics_read_head(H5File *file, MetricsHead *head, int64_t lengths[METRICS_AXES], Error *err)
{
    CHECK(file->comm == MPI_COMM_NULL);
    *head = (MetricsHead){ 0 };
    for (int i = 0; i < METRICS_AXES; i++) lengths[i] = -1;
    if (!h5_check_format(file, METRICS_FORMAT, METRICS_VERSION, err) ||
        !fields_measure(file, &metrics_head, lengths, err) || !fields_measure(file, &metrics_columns, lengths, err) ||
        !fields_read(file, &metrics_head, head, lengths, err))
        return false;
    head->info.category_count = (int)lengths[CATEGORY];
    head->info.phase_count = (int)lengths[PHASE];
    head->info.pairs_per_step = lengths[PAIR];
    return true;
}

void metrics_head_free(MetricsHead *head) { fields_free(&metrics_head, head); }

static bool read_blocks(H5File *file, const Field *c, int axes, const int64_t dims[], int64_t width, char *block,
                        int64_t most, uint64_t *sum, MetricsRows *rows, void *context, Error *err)
{
    *sum = 0;
    for (int64_t at = 0; at < dims[0] && width > 0; at += most) {
        int64_t count = dims[0] - at < most ? dims[0] - at : most;
        Slab slab = slab_rows(axes, dims, at, count);
        if (!h5_read_slab(file, c->object, c->type, &slab, block, err)) return false;
        *sum += checksum_slab(&slab, c->type, block);
        if (rows && !rows(context, c, at, count, width, block, err)) return false;
    }
    return true;
}

bool metrics_read_column(H5File *file, const Field *c, const int64_t lengths[METRICS_AXES], MetricsRows *rows,
                         void *context, Error *err)
{
    int64_t dims[FIELD_AXES], width = 1;
    uint64_t stored, sum;
    for (int i = 0; i < c->axes; i++) dims[i] = lengths[c->axis[i]];
    for (int i = 1; i < c->axes; i++) width *= dims[i];
    if (!h5_read_uint64(file, c->object, "checksum", &stored, err)) return false;
    int64_t bytes = width * (int64_t)data_size(c->type), most = bytes < BLOCK && bytes > 0 ? BLOCK / bytes : 1;
    if (most > dims[0]) most = dims[0];
    char *block = malloc((size_t)(most * bytes) + 8);
    if (!block) return error_fault(err, "%s: no memory to read %s", file->path, c->object);
    bool ok = read_blocks(file, c, c->axes, dims, width, block, most, &sum, rows, context, err);
    free(block);
    return ok &&
           (sum == stored || error_usage(err,
                                         "%s: %s is damaged: its checksum is %016llx, the file says %016llx. Use "
                                         "another copy",
                                         file->path, c->object, (unsigned long long)sum, (unsigned long long)stored));
}
