/* What the metrics*.c files share: what metrics.h5 holds, and how its columns are read. */
#ifndef CATDPO_METRICS_PRIVATE_H
#define CATDPO_METRICS_PRIVATE_H

#include "catdpo/files/metrics.h"

/* Axes of the arrays. */
enum { STEP, CATEGORY, PAIR, PHASE, RANK, METRICS_AXES };

/* Whose values are stored (Field.tag of a column): all ranks have the same; the largest counts; one rank has a value,
 * and the others have infinity. */
typedef enum { SAME, LARGEST, COUNTED } Source;

/* What is written once, and what a flush replaces: the latest interval's counts. */
typedef struct MetricsHead {
    MetricsInfo info; /* its strings and arrays are owned if they were read, but for phase_name */
    char *hdf5;
    int64_t restarts;
    char (*phase)[CATEGORY_NAME];            /* [P] */
    int64_t partial_first, partial_last;     /* steps */
    int64_t *partial_n, *partial_violations; /* [ranks, K] */
} MetricsHead;

/* Values in a MetricsHead. */
extern const Format metrics_head;
/* The columns, which have a row a step, with values in a StepMetrics: a number, or a pointer to those behind the step.
 * The first one is /train/step. */
extern const Format metrics_columns;

/* Is this a column of numbers, one a step? */
static inline bool is_scalar(const Field *column) { return column->axes == 1; }

/* Format, lengths of all axes, and the head of an open file. By a process alone; metrics_head_free frees it. */
bool metrics_read_head(H5File *file, MetricsHead *head, int64_t lengths[METRICS_AXES], Error *err);
void metrics_head_free(MetricsHead *head);

/* All rows of a column that is in the file, some at a time: false with err for values that cannot be. */
typedef bool MetricsRows(void *context, const Field *column, int64_t first, int64_t count, int64_t width,
                         const void *values, Error *err);
/* Read a column and refuse it if its checksum is wrong. By a process alone. */
bool metrics_read_column(H5File *file, const Field *column, const int64_t lengths[METRICS_AXES], MetricsRows *rows,
                         void *context, Error *err);

#endif
