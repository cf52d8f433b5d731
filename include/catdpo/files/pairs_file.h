/* Reading pairs.h5, which catdpo-analysis prepare writes. */
#ifndef CATDPO_FILES_PAIRS_FILE_H
#define CATDPO_FILES_PAIRS_FILE_H

#include "catdpo/data/pairs.h"

/* Read group ("train", "heldout" or "probe") of a pairs file; one rank of each node reads, all ranks of comm get the
 * pairs. Everything in the file is checked; errors name file, dataset, index and remedy. Collective over comm; free
 * with pairs_free. MPI_COMM_NULL: this process alone, which needs no MPI. */
bool pairs_load(Pairs *pairs, const char *path, const char *group, MPI_Comm comm, Error *err);

#endif
