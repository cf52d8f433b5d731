/* Tensors of a table (model/parameters.h) in HDF5: a model's weights, adapters, gradients or moments under any group.
 * Each part of a tensor is a global logical [out, in] or [features] float32 dataset under its Hugging Face name with
 * '.' as '/', with a checksum, so any grid reads what any other wrote. */
#ifndef CATDPO_FILES_TENSORS_FILE_H
#define CATDPO_FILES_TENSORS_FILE_H

#include "catdpo/h5/checksum.h"
#include "catdpo/h5/h5.h"
#include "catdpo/model/transformer.h"

/* Where this rank's part of an array of the weights' shape goes: elements [first, end) of the flat array. Of these,
 * [counted_first, counted_end) enter the checksum, so that each element of the array is counted on one replica. Ends
 * lie between columns of a tensor. */
typedef struct LoadedArray {
    float *flat; /* [end - first] */
    int64_t first, end, counted_first, counted_end;
    bool positive; /* a negative number is damage */
} LoadedArray;

/* Arrays of the shape of p (t->parameters or t->trained, ...) under any group, finite and, if asked for, not negative.
 * checksums (NULL: not verified) gets one a part, verified against the file's. Collective over grid->world. */
bool tensors_read(H5File *file, const Transformer *t, const Parameters *p, const char *group, const LoadedArray *array,
                  uint64_t *checksums, Error *err);

/* The same checks by a process alone that keeps nothing: shapes, checksums (into checksums[parts_count]) and finite
 * numbers, with `positive` none below zero, in 16 MB of memory. p: of a grid of one rank. progress (NULL: none) is told
 * how many numbers were read. */
typedef void TensorsProgress(void *context, int64_t numbers);
bool tensors_verify(H5File *file, const Parameters *p, const char *group, bool positive, uint64_t *checksums,
                    TensorsProgress *progress, void *context, Error *err);

/* How arrays of the weights' shape are kept under another group: /optimizer/m and /optimizer/v. */
typedef struct ShardedArray {
    const float *flat; /* this rank's values for [first, end) of the flat array, at index 0 */
    int64_t first, end;
} ShardedArray;

/* Checksums of an array's tensors, one a part in the order of the tensors' parts, the same on all ranks. Collective
 * over world. */
void tensors_checksums(const Transformer *t, const Parameters *p, const ShardedArray *array, uint64_t *checksums);
/* Create datasets for all tensors under `group` ("/model", ...), with those checksums. Part of a file's layout.
 * Collective. */
bool tensors_create(H5File *file, const Parameters *p, const char *group, const uint64_t *checksums, Error *err);
/* Fill them; each element is written by the one rank that owns it. Collective. */
bool tensors_write(H5File *file, const Transformer *t, const Parameters *p, const char *group,
                   const ShardedArray *array, Error *err);

/* Parts of all tensors, in order. */
int parts_count(const Parameters *p);
/* Digest of the model's weights from them. */
bool parts_digest(const Parameters *p, const uint64_t *checksums, char digest[WEIGHTS_DIGEST], Error *err);

#endif
