/* Adapters in HDF5: /adapter of a checkpoint or of an imported adapter. Such a file has /model's attributes and its
 * tokenizer, but no weights of its own: it names the file of its base and the digest of the base's weights. Attributes:
 * rank, alpha, target_modules, layers, base, base_digest. Tensors are float32 datasets under PEFT's names with '.' as
 * '/', as those of a model. The file's weights_digest is over the adapter's tensors, alpha and the base's digest. */
#ifndef CATDPO_FILES_ADAPTER_FILE_H
#define CATDPO_FILES_ADAPTER_FILE_H

#include "catdpo/core/file.h"
#include "catdpo/files/tensors_file.h"

/* What a file with an adapter instead of the model's own weights says of it. */
typedef struct AdapterInfo {
    AdapterSettings settings;         /* rank 0: the file has weights of its own */
    char base[FILE_PATH];             /* model file that the adapter belongs to */
    char base_digest[WEIGHTS_DIGEST]; /* of its weights */
} AdapterInfo;

/* The attributes, checked against the architecture. Collective over the file's communicator. */
bool adapter_info_read(H5File *file, const Architecture *a, AdapterInfo *info, Error *err);

/* Where the base lies: where the file says, or under that name beside the file. Left in path; refused if it is at
 * neither place. Not collective. */
bool adapter_find_base(const char *file, const AdapterInfo *info, char path[FILE_PATH], Error *err);

/* Digest of a file's weights from the checksums of the adapter's tensors. Not collective. */
bool adapter_digest(const Parameters *p, const AdapterInfo *info, const uint64_t *checksums,
                    char digest[WEIGHTS_DIGEST], Error *err);

/* All tensors of p into weights[p->local_floats], and the digest that they give. Verified like a model's weights.
 * Collective over grid->world (the file's communicator). */
bool adapter_read(H5File *file, const Transformer *t, const Parameters *p, const AdapterInfo *info, float *weights,
                  char digest[WEIGHTS_DIGEST], Error *err);

/* Adapters of an open file into t->trained_weights, where t has adapters of the same settings: refused otherwise.
 * Collective over grid->world (the file's communicator). */
bool adapter_load(H5File *file, Transformer *t, char digest[WEIGHTS_DIGEST], Error *err);

/* The group with its attributes and, not yet filled, its tensors: part of a checkpoint's layout. Collective. */
bool adapter_create(H5File *file, const Transformer *t, const AdapterInfo *info, const uint64_t *checksums, Error *err);

#endif
