/* Small valid files for tests, fuzz targets and the bench, written by the tables that the program reads them by. */
#ifndef CATDPO_SAMPLE_FILES_H
#define CATDPO_SAMPLE_FILES_H

#include "catdpo/files/metrics.h"
#include "catdpo/files/pairs_file.h"
#include "catdpo/files/prompts_file.h"

/* The rows of a group of a new pairs.h5, and with `first` those that all groups share. The values need not be right:
 * the arrays are as long as `shape` says. Collective over the file's communicator. */
bool sample_pairs(H5File *file, const char *group, bool first, const Pairs *pairs, const PairsShape *shape, Error *err);

/* The same for the prompts of a group: `rows` of them, of so many tokens and bytes of text, in K categories. */
typedef struct SampleShape {
    int64_t categories, rows, tokens, bytes;
} SampleShape;
bool sample_prompts(H5File *file, const char *group, bool first, const Prompts *prompts, const SampleShape *shape,
                    Error *err);

/* metrics.h5 of a run in K categories, all its text one letter or two. */
MetricsInfo sample_metrics(int categories, const char (*name)[CATEGORY_NAME], const uint8_t *harm, int64_t pairs_a_step,
                           int phases, const char *const *phase);
/* A step all of whose numbers are in two arrays, which are as long as the longest column needs. */
StepMetrics sample_step(int64_t step, const double *reals, const int64_t *counts);

#endif
