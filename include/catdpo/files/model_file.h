/* Models in HDF5: /model of model.h5 and of every checkpoint; instead of tensors, a file may have an adapter and name
 * the model that it belongs to (adapter_file.h). Tensors are global logical [out, in] float32 datasets under Hugging
 * Face's names with '.' as '/', so any grid reads what any other wrote. */
#ifndef CATDPO_FILES_MODEL_FILE_H
#define CATDPO_FILES_MODEL_FILE_H

#include "catdpo/files/adapter_file.h"
#include "catdpo/h5/fields.h"
#include "catdpo/optim/adamw.h"

#define MODEL_FORMAT      "catdpo-model"
#define CHECKPOINT_FORMAT "catdpo-checkpoint"
enum { CHECKPOINT_VERSION = 2 }; /* 1: without standard errors of the violation rates */

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

#endif
