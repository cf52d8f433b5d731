/* Models in HDF5: /model of model.h5 and of every checkpoint; instead of tensors, a file may have an adapter and name
 * the model that it belongs to (adapter_file.h). Tensors are global logical [out, in] float32 datasets under Hugging
 * Face's names with '.' as '/', so any grid reads what any other wrote. */
#ifndef CATDPO_FILES_MODEL_FILE_H
#define CATDPO_FILES_MODEL_FILE_H

#include "catdpo/core/file.h"
#include "catdpo/h5/checksum.h"
#include "catdpo/h5/fields.h"
#include "catdpo/optim/adamw.h"
#include "catdpo/model/transformer.h"

#define MODEL_FORMAT      "catdpo-model"
#define CHECKPOINT_FORMAT "catdpo-checkpoint"
enum { CHECKPOINT_VERSION = 2 }; /* 1: without standard errors of the violation rates */

/* What a file with an adapter instead of the model's own weights says of it (adapter_file.h). */
typedef struct AdapterInfo {
    AdapterSettings settings;         /* rank 0: the file has weights of its own */
    char base[FILE_PATH];             /* model file that the adapter belongs to */
    char base_digest[WEIGHTS_DIGEST]; /* of its weights */
} AdapterInfo;

/* What is known of a model file before its weights are read. */
typedef struct ModelInfo {
    Architecture architecture;
    char tokenizer_digest[DIGEST_TEXT];
    char weights_digest[WEIGHTS_DIGEST]; /* as the file says; model_load proves it */
    int64_t step;                        /* of a checkpoint; -1: an imported model */
    AdapterInfo adapter;
} ModelInfo;

/* The attributes of /model: those of an Architecture, and those of a ModelInfo beside it. */
extern const Format model_format, model_digests;

/* A model file or a checkpoint, refused by name if it is neither. Collective over comm. */
bool model_file_open(H5File *file, const char *path, ModelInfo *info, MPI_Comm comm, Error *err);

/* The tokenizer of an open model or checkpoint. */
typedef struct TokenizerInfo {
    int members;
    int64_t bytes;
    char digest[DIGEST_TEXT]; /* "": there is none */
} TokenizerInfo;

/* Is it there, if the model has a digest of one, are its bytes what their checksums say, and do its tokens go with
 * `vocab` rows of the embedding? Collective over the file's communicator. */
bool tokenizer_verify(H5File *file, int vocab, TokenizerInfo *info, Error *err);

/* Weights of an open file into t->weights on every rank; of a file with an adapter: those of its base, and the adapter
 * merged into them. Every tensor must have the shape that the architecture says
 * and its checksum, and be finite; digest is that of the weights read. Collective over grid->world (the file's
 * communicator). */
bool model_load(H5File *file, Transformer *t, char digest[WEIGHTS_DIGEST], Error *err);

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
