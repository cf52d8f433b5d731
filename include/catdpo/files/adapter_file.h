/* Adapters in HDF5: /adapter of a checkpoint or of an imported adapter. Such a file has /model's attributes and its
 * tokenizer, but no weights of its own: it names the file of its base and the digest of the base's weights. Attributes:
 * rank, alpha, target_modules, layers, base, base_digest. Tensors are float32 datasets under PEFT's names with '.' as
 * '/', as those of a model. The file's weights_digest is over the adapter's tensors, alpha and the base's digest. */
#ifndef CATDPO_FILES_ADAPTER_FILE_H
#define CATDPO_FILES_ADAPTER_FILE_H

#include "catdpo/files/model_file.h"

/* The attributes, checked against the architecture. Collective over the file's communicator. */
bool adapter_info_read(H5File *file, const Architecture *a, AdapterInfo *info, Error *err);

/* Where the base lies: where the file says, or under that name beside the file. Left in path; refused if it is at
 * neither place. Not collective. */
bool adapter_find_base(const char *file, const AdapterInfo *info, char path[FILE_PATH], Error *err);

/* Digest of a file's weights from the checksums of the adapter's tensors. Not collective. */
bool adapter_digest(const Parameters *p, const AdapterInfo *info, const uint64_t *checksums,
                    char digest[WEIGHTS_DIGEST], Error *err);

/* Adapters of an open file into t->trained_weights, where t has adapters of the same settings: refused otherwise.
 * Verified like a model's weights. Collective over grid->world (the file's communicator). */
bool adapter_load(H5File *file, Transformer *t, char digest[WEIGHTS_DIGEST], Error *err);

/* What model_load does with a file that has an adapter. Collective over grid->world. */
bool adapter_merge(H5File *file, Transformer *t, char digest[WEIGHTS_DIGEST], Error *err);

/* The group with its attributes and, not yet filled, its tensors: part of a checkpoint's layout. Collective. */
bool adapter_create(H5File *file, const Transformer *t, const AdapterInfo *info, const uint64_t *checksums, Error *err);

#endif
