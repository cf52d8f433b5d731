/* HDF5 files: opened, checked, written and committed so that a file under its final name is complete.
 *
 * Two halves. Metadata (groups, attributes, datasets' types and shapes, small arrays that every rank knows) belongs to
 * rank 0, which reads and writes it with the plain driver; values and verdicts are broadcast. So a full disk or a
 * damaged header is one error on one rank, agreed by all, and never a collective that some rank does not reach. Data
 * (the parts of large datasets that lie on different ranks) belongs to all ranks, which move it collectively with MPI-
 * IO.
 *
 * A file being written is laid out first (h5_create_*, h5_write_*) and then filled (h5_write_slab); the first
 * h5_write_slab ends the layout. Until h5_commit it has a name of its own that ends in ".tmp".
 *
 * Unless a comment says otherwise, every function is collective over the file's communicator, takes equal arguments on
 * all ranks and returns the same verdict, value and message on all ranks. A file opened with MPI_COMM_NULL belongs to
 * the calling process alone: plain driver, nothing is collective.
 *
 * A finished file is sealed (src/h5/seal.c): checksums behind its end cover every byte that no dataset's own
 * checksum covers. h5_open refuses a file whose seal does not hold, and accepts one without: another program changed
 * it.
 *
 * Files are hostile input: only hard links are followed; compression, virtual and external storage and variable-length
 * data are refused; types, ranks and extents are compared with what the reader expects and sizes with the size of the
 * file before anything is allocated.
 */
#ifndef CATDPO_H5_H5_H
#define CATDPO_H5_H5_H

#include "catdpo/core/error.h"
#include "catdpo/core/field.h"
#include "catdpo/parallel/matrix.h"

#include <hdf5.h>
#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SLAB_AXES = 4,        /* most axes of a dataset */
    FILE_PATH = 1024,     /* bytes of a path, with its NUL */
    BLOBS_MAX = 32,       /* most members of a group of Blobs */
    BLOB_NAME = 128,      /* bytes of a member's name, with its NUL */
    DIGEST_TEXT = 72,     /* bytes of a digest in hexadecimal digits, with its NUL */
    CALL_BYTES = 4 << 20, /* usual share of a rank in one call: it stays in the cache between memory and file */
};

size_t data_size(DataType type);      /* bytes of an element */
const char *data_name(DataType type); /* "int32", ... */

typedef struct H5File {
    MPI_Comm comm;           /* not owned; MPI_COMM_NULL: this process alone */
    int rank;                /* in comm; 0 if alone */
    hid_t meta;              /* rank 0, plain driver; -1 elsewhere, and of a file that is being filled */
    hid_t data;              /* every rank, MPI-IO; -1 until the first slab is moved */
    int disk;                /* descriptor on rank 0 while it has `meta`: of the file below the overlay */
    struct Overlay *overlay; /* rank 0, while it has `meta`: src/h5/overlay.c; owned */
    struct Spares *spares;   /* of a file that is being extended, else NULL; not owned */
    int flushing;            /* descriptor of `temporary` while slabs are written: the disk works meanwhile; -1 */
    int64_t unflushed;       /* bytes that this rank wrote since it last told the disk */
    bool writing;            /* still `temporary` */
    int64_t size;       /* bytes of the file, without its seal, when it was opened: no dataset in it can be larger */
    int64_t call_bytes; /* most bytes a rank moves in one call (CALL_BYTES; never more than 2^31 - 1) */
    bool collective;    /* MPI-IO's collective transfers; false unless set: see src/h5/transfer.c */
    char *scratch;      /* memory for moving slabs, kept from one to the next; owned */
    size_t scratch_bytes;
    struct Seal *seal; /* rank 0, while writing: src/h5/seal.c; owned */
    bool sealed;       /* rank 0: it was read with a seal, and that holds */
    int64_t version;   /* of the format, once h5_check_format or h5_write_format has said so */
    char path[FILE_PATH], temporary[FILE_PATH];
} H5File;

/* ---- HDF5's own convention: a negative value is a failure ------------------------------------------------------- */

/* True if value, returned by an HDF5 function, is not negative. Otherwise false: err (EXIT_FAULT) holds the printf-
 * style message and behind it HDF5's innermost reason; HDF5's error stack is emptied. Not collective. */
bool h5_ok(int64_t value, Error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same verdict on every rank (error_agree), or `ok` itself for a file of one process. */
bool h5_agree(const H5File *file, bool ok, Error *err);
/* h5_agree, then rank 0's bytes to every rank. */
bool h5_share(const H5File *file, bool ok, void *bytes, int64_t size, Error *err);

/* ---- files ------------------------------------------------------------------------------------------------------ */

/* Open for reading. A missing, truncated or foreign file is an EXIT_USAGE error that says which. */
bool h5_open(H5File *file, const char *path, MPI_Comm comm, Error *err);
/* Create a file that h5_commit will call `path`. Until then it lies in `folder`, on the same file system, as
 * "NAME.<random>.tmp"; folder NULL: beside path. */
bool h5_create(H5File *file, const char *path, const char *folder, MPI_Comm comm, Error *err);
/* Write a changed copy of the file `path`, which stays complete until h5_commit replaces it. */
bool h5_modify(H5File *file, const char *path, const char *folder, MPI_Comm comm, Error *err);

/* A file that grows by little in many commits, each of which costs what it changes, however long the file is.
 *
 * Two copies of an earlier state lie out of sight and take turns: h5_extend lets HDF5 change the visible file in
 * memory; h5_commit brings the older copy up to date, page by page, and lets it take the visible one's place, which
 * becomes a copy out of sight. So the name stands for a whole file at any instant, and a file that was opened under it
 * stays as it was for two more commits at least, for as long as it is held open by readers that lock it (as HDF5's do
 * unless told otherwise), and for ever under another hard link. Where copies cannot be kept (a file system without hard
 * links), or the visible file was changed by another program, a commit copies the file. */
typedef struct Spares Spares;
/* For the file `path` with its copies in `folder` (NULL: beside), which are made by the first h5_extend. Not
 * collective. NULL without memory, with err set. */
Spares *spares_new(const char *path, const char *folder, Error *err);
/* The copies go. NULL is harmless. */
void spares_free(Spares *spares);
/* Change the file, by a process alone. Nothing may be cut off or removed. */
bool h5_extend(H5File *file, Spares *spares, Error *err);
/* Have the copies ready, so that no h5_extend has to make them. */
bool spares_prepare(Spares *spares, Error *err);

/* Make the written file the one called `path`: flush, close, fsync, rename, fsync of the directory. On failure the
 * .tmp is removed and the earlier file, if any, is as it was. The file is closed either way. */
bool h5_commit(H5File *file, Error *err);
/* The same if `ok`, which is the same on all ranks; otherwise the file is closed uncommitted. Returns whether it was.
 */
bool h5_commit_if(bool ok, H5File *file, Error *err);
/* Close. A file being written that was not committed is removed. Also after a failed open; twice is harmless. */
void h5_close(H5File *file);

/* Root attributes of every file: format, format_version, creator, created. */
bool h5_write_format(H5File *file, const char *format, int64_t version, Error *err);
/* Refuse a file of another format or of a newer version, saying what it is instead; file->version is its own. */
bool h5_check_format(H5File *file, const char *format, int64_t version, Error *err);

/* ---- objects and attributes; `object` is an absolute path ("/" is the root) ------------------------------------- */

/* *exists = a hard-linked group or dataset lies there. */
bool h5_exists(H5File *file, const char *object, bool *exists, Error *err);
bool h5_has_attribute(H5File *file, const char *object, const char *name, bool *exists, Error *err);

/* Scalar attributes. Reading refuses another type or shape, values outside [min, max] (NaN is outside), and text that
 * does not fit `size` bytes with its NUL or is not UTF-8. */
bool h5_read_int64(H5File *file, const char *object, const char *name, int64_t min, int64_t max, int64_t *value,
                   Error *err);
bool h5_read_uint64(H5File *file, const char *object, const char *name, uint64_t *value, Error *err);
bool h5_read_double(H5File *file, const char *object, const char *name, double min, double max, double *value,
                    Error *err);
bool h5_read_float64(H5File *file, const char *object, const char *name, double *value, Error *err); /* any number */
bool h5_read_string(H5File *file, const char *object, const char *name, char *value, size_t size, Error *err);
/* Long text: *value is allocated (at most `most` bytes with its NUL) on every rank; the caller frees it. */
bool h5_read_text(H5File *file, const char *object, const char *name, size_t most, char **value, Error *err);

/* Create or replace. Only rank 0's value counts. Text is stored as fixed-length UTF-8. */
bool h5_write_int64(H5File *file, const char *object, const char *name, int64_t value, Error *err);
bool h5_write_uint64(H5File *file, const char *object, const char *name, uint64_t value, Error *err);
bool h5_write_double(H5File *file, const char *object, const char *name, double value, Error *err);
bool h5_write_string(H5File *file, const char *object, const char *name, const char *value, Error *err);

/* Copy all attributes of an object to the object of that name in another file, where they must not exist yet. */
bool h5_copy_attributes(H5File *from, H5File *to, const char *object, Error *err);

/* ---- datasets --------------------------------------------------------------------------------------------------- */

/* Intermediate groups are created as needed. */
bool h5_create_group(H5File *file, const char *name, Error *err);
/* Contiguous, not filled: every element has to be written. */
bool h5_create_dataset(H5File *file, const char *name, DataType type, int axes, const int64_t dims[], Error *err);
/* Chunked; the first `growing` axes are unlimited; elements not written read as NaN (floating) or `fill` (integers). */
bool h5_create_extendible(H5File *file, const char *name, DataType type, int axes, int growing, const int64_t dims[],
                          const int64_t chunk[], int64_t fill, Error *err);
/* Remove a group or dataset. Its space in the file stays lost. */
bool h5_delete(H5File *file, const char *object, Error *err);
/* Set the extents of an extendible dataset; what shrinking cuts off is lost, also when it grows again. */
bool h5_resize(H5File *file, const char *name, int axes, const int64_t dims[], Error *err);

/* Refuse a dataset that is not of this type and number of axes. dims[i] < 0: any extent, replaced by the one found;
 * otherwise the extent must be dims[i]. After success a buffer of this many elements is no larger than the file. */
bool h5_expect(H5File *file, const char *name, DataType type, int axes, int64_t dims[], Error *err);

/* Whole arrays that every rank knows, rank 0's values; write creates the dataset. read checks as h5_expect does, with
 * dims >= 0, and fills `values` on every rank. */
bool h5_write_array(H5File *file, const char *name, DataType type, int axes, const int64_t dims[], const void *values,
                    Error *err);
bool h5_read_array(H5File *file, const char *name, DataType type, int axes, const int64_t dims[], void *values,
                   Error *err);

/* 1-D datasets of fixed-length UTF-8 text: `count` strings, `width` bytes apart, each with a NUL within its width.
 * Reading refuses longer ones. */
bool h5_write_strings(H5File *file, const char *name, int64_t count, size_t width, const char *values, Error *err);
bool h5_read_strings(H5File *file, const char *name, int64_t count, size_t width, char *values, Error *err);
/* Their number, for allocation: [min, max]. */
bool h5_count_strings(H5File *file, const char *name, int64_t min, int64_t max, int64_t *count, Error *err);
/* A scalar dataset of fixed-length UTF-8 text. */
bool h5_write_text(H5File *file, const char *name, const char *value, Error *err);
/* *value is allocated (at most `most` bytes with its NUL) on every rank; the caller frees it. */
bool h5_load_text(H5File *file, const char *name, size_t most, char **value, Error *err);

/* Attributes that plots and tables need: units ("1", "nat", "s"), description (long_name). NULL: leave out. */
bool h5_describe(H5File *file, const char *dataset, const char *units, const char *description, Error *err);
/* Make a 1-D dataset a dimension scale for axes called `label`; name axis `axis` of a dataset, and attach a scale to it
 * unless NULL. */
bool h5_make_scale(H5File *file, const char *dataset, const char *label, Error *err);
bool h5_label_axis(H5File *file, const char *dataset, int axis, const char *label, const char *scale, Error *err);

/* ---- slabs: data that lies distributed over the ranks ----------------------------------------------------------- */

/* The indices of one axis that a rank holds: blocks of `block` indices, `stride` apart, from `first` on, all below
 * `extent`. A range is one block; an axis dealt out in blocks of n over P processes has first = p * n, block = n,
 * stride = P * n. */
typedef struct SlabAxis {
    int64_t extent; /* of the whole dataset */
    int64_t first, block, stride;
    int64_t step, block_step; /* elements in memory from one index to the next, and from one block to the next */
} SlabAxis;

typedef struct Slab {
    int axes; /* 0: this rank holds nothing */
    SlabAxis axis[SLAB_AXES];
} Slab;

Slab slab_none(void);
/* Rows [first, first + count) of axis 0, the other axes whole; in memory row-major and dense. count = 0: none. */
Slab slab_rows(int axes, const int64_t dims[], int64_t first, int64_t count);
/* The local part of a block-cyclic matrix: dataset [rows, columns], memory column-major, `stride` elements a column. */
Slab slab_matrix(const Axis *rows, const Axis *columns, int64_t stride);
int64_t slab_axis_count(const SlabAxis *axis); /* indices held */
int64_t slab_count(const Slab *slab);          /* elements held */

static inline int64_t slab_index(const SlabAxis *axis, int64_t held) /* index in the dataset of the held-th index */
{
    return axis->first + held / axis->block * axis->stride + held % axis->block;
}
static inline int64_t slab_offset(const SlabAxis *axis, int64_t held) /* and its place in memory, in elements */
{
    return held / axis->block * axis->block_step + held % axis->block * axis->step;
}

/* Move this rank's slab (slabs and memory differ between ranks; a write's slabs do not overlap, a read's may). The
 * dataset must be of this type and of the slabs' extents; what no slab of a write covers keeps its value. A rank moves
 * about call_bytes at a time and holds up to three times that in buffers. */
bool h5_read_slab(H5File *file, const char *dataset, DataType type, const Slab *slab, void *values, Error *err);
bool h5_write_slab(H5File *file, const char *dataset, DataType type, const Slab *slab, const void *values, Error *err);

/* ---- groups of small datasets (/tokenizer, /templates) ---------------------------------------------------------- */

typedef struct BlobMember {
    char name[BLOB_NAME];
    int64_t size;   /* elements */
    uint8_t *bytes; /* [size] elements of `type` on rank 0; NULL elsewhere */
    DataType type;  /* DATA_UINT8 (files, flags) or DATA_INT64 (ids, offsets) */
} BlobMember;

typedef struct Blobs {
    int count;
    BlobMember member[BLOBS_MAX];
} Blobs;

/* The names of a group's members, sorted; more than `most` are refused. */
bool h5_list(H5File *file, const char *group, int most, char names[][BLOB_NAME], int *count, Error *err);

/* All members of a group, each a 1-D dataset of uint8 or int64; owned by blobs. Refuses more than BLOBS_MAX, other
 * members, and one that does not have its checksum. */
bool h5_read_blobs(H5File *file, const char *group, Blobs *blobs, Error *err);
bool h5_write_blobs(H5File *file, const char *group, const Blobs *blobs, Error *err);
void blobs_free(Blobs *blobs);
/* Both in one, with the members' attributes; both files on the same communicator. */
bool h5_copy_group(H5File *from, H5File *to, const char *group, Error *err);

#endif
