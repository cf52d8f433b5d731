/* A checkpoint: the model (readable as one), AdamW's moments, margins, and where in the data the run is. */
#ifndef CATDPO_FILES_CHECKPOINT_H
#define CATDPO_FILES_CHECKPOINT_H

#include "catdpo/config/config.h"
#include "catdpo/objective/margin.h"
#include "catdpo/data/pairs.h"
#include "catdpo/files/model_file.h"

/* What a checkpoint says about its run. Text is not owned. */
typedef struct CheckpointInfo {
    const char *folder; /* where the unfinished file lies; NULL: beside path */
    int64_t step;       /* steps done */
    int64_t total_steps;
    int64_t num_tokens;
    uint64_t seed;        /* of the sampler; its position is the step */
    int64_t skipped;      /* steps without an update, because of numbers that are not finite */
    double heldout_worst; /* violation rate of the worst held-out category; NaN: not measured */
    const char *sampling, *config, *version, *layout;
    const char *data_digest, *tokenizer_digest, *template_digest;
    const char *start_digest,
        *reference_digest; /* of the weights that training started from, and of the frozen reference */
    const char (*category_name)[CATEGORY_NAME];
} CheckpointInfo;

/* Writes the file under another name and renames it. `model_path` is the file that the run's model came from: its
 * tokenizer and configuration go along, so that the checkpoint can be exported. Collective over t->grid->world. */
bool checkpoint_write(const char *path, const char *model_path, const Transformer *t, const Optimizer *optimizer,
                      const MarginState *margins, const CheckpointInfo *info, Error *err);

/* What a checkpoint says of itself, for deciding whether a run may go on from it. */
typedef struct CheckpointHead {
    int64_t step, total_steps, num_tokens, skipped;
    uint64_t seed;
    double heldout_worst;
    char data_digest[DIGEST_TEXT], tokenizer_digest[DIGEST_TEXT], template_digest[DIGEST_TEXT];
    char start_digest[WEIGHTS_DIGEST], reference_digest[WEIGHTS_DIGEST];
    char layout[64]; /* that wrote it: "2x3x1", replicas, rows, columns */
    char *config;    /* owned: checkpoint_head_free */
} CheckpointHead;

/* Collective over comm; MPI_COMM_NULL: this process alone. On failure nothing is owned. */
bool checkpoint_head(const char *path, CheckpointHead *head, MPI_Comm comm, Error *err);
bool checkpoint_read_head(H5File *file, CheckpointHead *head, Error *err); /* of an open file */
void checkpoint_head_free(CheckpointHead *head);

/* Moments and margins of a checkpoint onto any grid, verified against their checksums; the weights are read as those of
 * any model (model_load). Counts of violations in other units are converted. Collective over t->grid->world. */
bool checkpoint_load(const char *path, const Transformer *t, Optimizer *optimizer, MarginState *margins,
                     const char (*category_name)[CATEGORY_NAME], Error *err);

/* What checkpoint_check found. */
typedef struct CheckpointSummary {
    int64_t step, total_steps, num_tokens, categories;
    char version[64], data_digest[DIGEST_TEXT], reference_digest[DIGEST_TEXT];
    char name[CATEGORIES_MAX][CATEGORY_NAME];
    double margin[CATEGORIES_MAX], violation_rate[CATEGORIES_MAX];
} CheckpointSummary;

/* Verify what an open checkpoint holds beside its model and its moments: margins, sampler, where the run is. By a
 * process alone (a file opened with MPI_COMM_NULL). */
bool checkpoint_check(H5File *file, CheckpointSummary *summary, Error *err);

#endif
