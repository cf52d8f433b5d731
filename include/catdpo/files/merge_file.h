/* Models averaged into one: theta = sum_i w_i theta_i, tensor by tensor. Each rank reads and writes its share of the
 * rows, so that any number of ranks merges models of any size in little memory. */
#ifndef CATDPO_FILES_MERGE_FILE_H
#define CATDPO_FILES_MERGE_FILE_H

#include "catdpo/core/log.h"
#include "catdpo/files/model_file.h"

enum { MERGE_MODELS = 16 };

/* Where a merged model came from: /merge of its file. */
typedef struct MergeSources {
    int count; /* 0: it was not merged */
    char model[MERGE_MODELS][FILE_PATH];
    char digest[MERGE_MODELS][WEIGHTS_DIGEST];
    double weight[MERGE_MODELS]; /* their sum is 1 */
} MergeSources;

/* Write the average of `from`'s models (whose digests are filled in) to `path`: a model file with the architecture and
 * the tokenizer of the first, and the chat templates of the first that has some. Sums are double and rounded once, so
 * that a model merged with itself is the same bits. Everything that is read is verified. Refused are models that would
 * not compute the same, and of another tokenizer, and unless `unrelated` those whose files do not say that they come
 * from one start. digest: of the weights that were written. Stops on a signal. Collective over comm. */
bool models_merge(const char *path, MergeSources *from, bool unrelated, Log *log, char digest[WEIGHTS_DIGEST],
                  MPI_Comm comm, Error *err);

/* What a model's file says of its sources. Collective over the file's communicator. */
bool merge_sources_read(H5File *file, MergeSources *from, Error *err);

#endif
