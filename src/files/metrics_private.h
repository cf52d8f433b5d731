/* What the metrics*.c files share: the columns of metrics.h5, and what is known of an open one. */
#ifndef CATDPO_METRICS_PRIVATE_H
#define CATDPO_METRICS_PRIVATE_H

#include "catdpo/h5/h5.h"
#include "catdpo/files/metrics.h"

#include <stddef.h>

enum { METRICS_VERSION = 1, METRICS_COLUMNS_MAX = 64 };

/* What a row of a dataset has behind its step. */
typedef enum { SCALAR, PER_CATEGORY, PER_PAIR, PER_PHASE, PER_RANK_AND_CATEGORY } Shape;

/* Whose values are stored: all ranks have the same; the largest counts; each rank its own. */
typedef enum { SAME, LARGEST, OWN } Source;

typedef struct Column {
    const char *dataset;
    DataType type;
    Shape shape;
    Source source;
    size_t offset; /* in StepMetrics: of the value (SCALAR), else of the pointer to the values */
    const char *units, *description;
} Column;

/* In order; NULL behind the last one. The first one is /train/step. */
const Column *metrics_column(int index);

struct Metrics {
    char path[FILE_PATH], folder[FILE_PATH]; /* folder: of unfinished files; "": beside */
    MPI_Comm comm;
    int rank, ranks;
    int64_t categories, pairs, phases;
    int64_t stored;                             /* rows in the file; the last one is step `stored` */
    int64_t rows, capacity;                     /* in the buffers */
    int64_t stored_ranks, stored_pairs;         /* extents in the file: the most that any run of it had */
    char *memory, *buffer[METRICS_COLUMNS_MAX]; /* [capacity, width] of the column's type, this rank's */
    uint64_t checksum[METRICS_COLUMNS_MAX];     /* of each column's rows in the file */
};

/* The dataset's shape with this many rows; returns the axes. */
int metrics_shape(const Metrics *m, const Column *c, int64_t rows, int64_t dims[3]);

/* Rows [first, first + count) of the indices from `held` on of axis 1, all of them one value in memory. */
Slab metrics_unwritten(int axes, const int64_t dims[3], int64_t first, int64_t count, int64_t held);

/* Is the file what the columns and `info` make, with steps 1 to `step` at least? Leaves its extents in m. Collective.
 */
bool metrics_check_layout(H5File *file, Metrics *m, const MetricsInfo *info, int64_t step, Error *err);

/* All rows of a column against its checksum, some at a time: NULL, or false with err for values that cannot be. Not
 * collective. */
typedef bool MetricsValues(const Column *c, int64_t first, int64_t count, int64_t width, const void *values,
                           void *context, Error *err);

/* Read a column and refuse it if its checksum or its values are wrong. kept (NULL: not wanted) gets the checksum that
 * the first `keep` rows have in a file with the extents of m. Collective over the file's communicator; rank 0 calls
 * `values`. */
bool metrics_verify_column(H5File *file, const Metrics *m, const Column *c, int64_t keep, uint64_t *kept,
                           MetricsValues *values, void *context, Error *err);

#endif
