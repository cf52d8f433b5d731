/* What the readers of tensors share: src/files/tensors_file.c, src/files/merge_file.c. */
#ifndef CATDPO_FILES_TENSORS_PRIVATE_H
#define CATDPO_FILES_TENSORS_PRIVATE_H

#include "catdpo/h5/h5.h"
#include "catdpo/model/parameters.h"

enum { PART_DATASET = 192 }; /* bytes of the name of a part's dataset, with its NUL */

/* Is a tensor's part there, with its shape? Leaves its dataset's name, its shape (1 or 2 axes) and, if `sum` is not
 * NULL, its checksum. Collective over the file's communicator. */
bool part_expect(H5File *file, const char *group, const Tensor *tensor, int index, char dataset[PART_DATASET],
                 int64_t dims[2], uint64_t *sum, Error *err);

/* Has it the checksum that the file gives? Not collective. */
bool part_is_whole(const H5File *file, const char *dataset, uint64_t found, uint64_t stored, Error *err);

/* Neither NaN nor infinite. Not collective. */
bool all_finite(const float *x, int64_t n);

#endif
