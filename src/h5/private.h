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
/* A seal for a file of `size` bytes that covers all of them; words: what seal_words makes of them. */
bool seal_begin_whole(H5File *file, int64_t size, uint64_t words, Error *err);
/* Does a file hold what its seal says? An EXIT_USAGE error if not; without a seal *sealed is false. *size: in, the
 * bytes of the file; out, those in front of the seal. */
bool seal_verify(const char *path, int descriptor, int64_t *size, bool *sealed, Error *err);
/* The checksum of the first `size` bytes. False with errno. */
bool seal_words(int descriptor, int64_t size, uint64_t *words);

/* ---- what HDF5 writes, before it is on the disk: overlay.c; rank 0, not collective ---- */

typedef struct Overlay Overlay;
enum { PAGE = 4096 };

/* In front of the first `size` bytes of an open file, which is not owned. direct: nobody else reads that one, and
 * values of datasets may go there at once. NULL without memory. */
Overlay *overlay_new(int below, int64_t size, bool direct);
void overlay_free(Overlay *o);
/* Make it the driver of a file access list; it has to outlive the files that are opened with that. */
bool overlay_use(Overlay *o, hid_t list);
/* May HDF5 read text of variable length beyond 4 kB, of which 1.10 believes any length that the file says? (false) */
void overlay_read_heaps(Overlay *o, bool large);
/* Bytes of the file as HDF5 has it open, or had when it closed it. */
int64_t overlay_end(const Overlay *o);
/* Have all pages from that of byte `from` to the end in memory. False without memory. */
bool overlay_cover(Overlay *o, int64_t from);
/* What was written, to its place in a file, which gets its length. False with errno, also of an earlier failure. */
bool overlay_finish(Overlay *o, int descriptor);
/* The pages in memory, ascending: their number, and the i-th one's and its bytes. */
int64_t overlay_count(const Overlay *o);
int64_t overlay_page(const Overlay *o, int64_t i, const char **bytes);
/* Bytes of the file below, zeros behind its end. False with errno. */
bool overlay_below(const Overlay *o, void *bytes, int64_t size, int64_t at);

/* ---- copies that take turns: spares.c; not collective ---- */

const char *spares_path(const Spares *s);
/* Open the visible file for reading: its descriptor (the caller closes it) and its bytes without a seal. */
bool spares_open(Spares *s, int *descriptor, int64_t *size, Error *err);
/* Put the visible file with what the overlay changed (its end is above the old one's) into a file that nobody sees: its
 * name, and the words of its seal. */
bool spares_fill(Spares *s, Overlay *o, int visible, char unfinished[FILE_PATH], uint64_t *words, Error *err);
/* spares_fill's file is on the disk, and takes the visible one's place. */
bool spares_replace(Spares *s, Error *err);
/* It does not. */
void spares_abandon(Spares *s);

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
