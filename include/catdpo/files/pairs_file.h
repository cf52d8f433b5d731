/* Reading pairs.h5, which catdpo-analysis prepare writes. */
#ifndef CATDPO_FILES_PAIRS_FILE_H
#define CATDPO_FILES_PAIRS_FILE_H

#include "catdpo/data/pairs.h"
#include "catdpo/h5/fields.h"

#define PAIRS_FORMAT "catdpo-pairs"

/* What the program reads of it; "@" is a group ("train", ...). catdpo-analysis prepare writes these rows, and others
 * for people. */
extern const Format pairs_format;
enum {
    PAIRS_CATEGORY,
    PAIRS_PAIR,
    PAIRS_SIDE,
    PAIRS_SEGMENT,
    PAIRS_SCORE,
    PAIRS_BOUND, /* between sequences */
    PAIRS_CHOSEN,
    PAIRS_REJECTED, /* tokens */
    PAIRS_AXES
};
/* Tags of its rows: attributes, arrays, and the arrays of data with segments and with scores. */
enum { PAIRS_HEAD, PAIRS_ARRAYS, PAIRS_SEGMENTED, PAIRS_SCORED };
/* Lengths of its axes. */
void pairs_lengths(const PairsShape *shape, int64_t lengths[PAIRS_AXES]);

/* Read group ("train", "heldout" or "probe") of a pairs file; one rank of each node reads, all ranks of comm get the
 * pairs. Everything in the file is checked; errors name file, dataset, index and remedy. Collective over comm; free
 * with pairs_free. MPI_COMM_NULL: this process alone, which needs no MPI. */
bool pairs_load(Pairs *pairs, const char *path, const char *group, MPI_Comm comm, Error *err);

/* The chat templates that the pairs of a file, or those of a checkpoint's run, were made with: files as in /tokenizer,
 * none if it does not say. Collective over the file's communicator; free with blobs_free. */
bool templates_read(H5File *file, Blobs *templates, Error *err);

#endif
