/* Members of /tokenizer in model files and checkpoints that a program without a tokenizer library needs: the bytes of
 * each token and the tokens that end an answer. */
#ifndef CATDPO_FILES_VOCABULARY_FILE_H
#define CATDPO_FILES_VOCABULARY_FILE_H

#include "catdpo/data/vocabulary.h"
#include "catdpo/h5/fields.h"

/* Read and verify what an open model file has; files of older versions have less: then count, or stop_count, is 0.
 * Collective over the file's communicator. */
bool vocabulary_read(H5File *file, Vocabulary *v, Error *err);

#endif
