/* A checkpoint: the model (readable as one), AdamW's moments, margins, and where in the data the run is. */
#ifndef CATDPO_CHECKPOINT_H
#define CATDPO_CHECKPOINT_H

#include "catdpo/margin.h"
#include "catdpo/model_file.h"

/* What a checkpoint says about its run. Text is not owned. */
typedef struct CheckpointInfo {
    int64_t step;                 /* updates done */
    int64_t total_steps;
    int64_t num_tokens;
    uint64_t seed;                /* of the sampler; its position is the step */
    const char *sampling, *config, *version;
    const char *data_digest, *tokenizer_digest, *template_digest, *reference_digest;
    const char (*category_name)[CATEGORY_NAME];
} CheckpointInfo;

/* Writes the file beside its final name and renames it. `model_path` is the file that the run's model came from: its tokenizer and
 * configuration go along, so that the checkpoint can be exported. Collective over t->grid->world. */
bool checkpoint_write(const char *path, const char *model_path, const Transformer *t, const Optimizer *optimizer, const MarginState *margins,
                      const CheckpointInfo *info, Error *err);

/* What checkpoint_check found. */
typedef struct CheckpointSummary {
    int64_t step, total_steps, num_tokens, categories;
    char    version[64], data_digest[DIGEST_TEXT], reference_digest[DIGEST_TEXT];
    char    name[CATEGORIES_MAX][CATEGORY_NAME];
    double  margin[CATEGORIES_MAX], violation_rate[CATEGORIES_MAX];
} CheckpointSummary;

/* Verify what an open checkpoint holds beside its model and its moments: margins, sampler, where the run is. By a process alone (a file
 * opened with MPI_COMM_NULL). */
bool checkpoint_check(H5File *file, CheckpointSummary *summary, Error *err);

#endif
