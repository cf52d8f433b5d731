/* Inputs that are not HDF5 yet: what people have before catdpo-analysis made a model.h5 or pairs.h5 of it. */
#ifndef CATDPO_FILES_FOREIGN_H
#define CATDPO_FILES_FOREIGN_H

#include "catdpo/core/error.h"

typedef enum { FOREIGN_MODEL, FOREIGN_PAIRS } ForeignKind;

/* Refuses a path that is a Hugging Face folder, a GGUF or safetensors file (where a model is wanted), or JSON, CSV or
 * Parquet (where pairs are), with the command that makes an HDF5 file of it. True for any other, also one that is not
 * there. Goes by the name where the file is not HDF5. Not collective. */
bool foreign_refuse(const char *path, ForeignKind kind, Error *err);

#endif
