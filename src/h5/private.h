/* What the files of this folder share. The public side is catdpo/h5/h5.h. */
#ifndef CATDPO_H5_PRIVATE_H
#define CATDPO_H5_PRIVATE_H

#include "catdpo/h5/h5.h"

/* The type in files (little-endian) and in memory. */
hid_t h5_file_type(DataType type);
hid_t h5_memory_type(DataType type);
/* Is a type that was found exactly this one, in either byte order? */
bool h5_is_type(hid_t found, DataType type);
/* Fixed-length UTF-8, padded with NULs; close with H5Tclose. */
hid_t h5_text_type(size_t width);

/* Open all ranks' side of the file, if that has not happened yet. Collective. */
bool h5_open_data(H5File *file, Error *err);
/* Not collective: this rank wrote so many bytes. */
void h5_start_flushing(H5File *file, int64_t bytes);

/* Not collective, on rank 0: open an object that only hard links lead to; negative on failure. Close with H5Oclose. */
hid_t h5_open_object(const H5File *file, const char *object, Error *err);
hid_t h5_open_dataset(const H5File *file, const char *name, Error *err);

/* Not collective: h5_expect on an open dataset. `type` < 0: any fixed-length text, whose bytes an element go to *width.
 */
bool h5_check_dataset(const H5File *file, hid_t set, const char *name, int type, int axes, int64_t dims[],
                      size_t *width, Error *err);

/* ---- the seal: seal.c; rank 0, not collective ---- */

typedef struct Seal Seal;
/* Note which parts of the file that is laid out have checksums of their own, while HDF5 still has it open; */
bool seal_begin(H5File *file, Error *err);
/* the checksum of the rest, once the layout is complete in `descriptor`; */
bool seal_measure(H5File *file, int descriptor, Error *err);
/* and put both behind the end of the finished file `name`. */
bool seal_append(const H5File *file, const char *name, Error *err);
void seal_free(H5File *file);
/* Does a file of `whole` bytes hold what its seal says? An EXIT_USAGE error if not; without a seal *sealed is false. */
bool seal_verify(const char *path, int descriptor, int64_t whole, bool *sealed, Error *err);

/* How many of the held indices of an axis lie below `index` of the dataset. */
int64_t slab_axis_below(const SlabAxis *axis, int64_t index);
/* Copy the held indices [from, to) of axis 0 (and all of the others) between a dense row-major buffer and the slab's
 * memory; elements have `size` 1, 4 or 8 bytes. */
void slab_copy(const Slab *slab, int64_t from, int64_t to, size_t size, void *dense, void *values, bool pack);
/* The same indices where they lie in the dense whole dataset, the first of them at *offset elements. */
Slab slab_within(const Slab *slab, int64_t *offset);

/* Not collective: valid UTF-8 without control characters other than line ends and tabs? */
bool text_is_valid(const char *text);

#endif
