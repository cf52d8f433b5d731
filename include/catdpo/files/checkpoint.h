/* A checkpoint: the model (readable as one) or, where adapters are trained, these and the name of their base; AdamW's
 * moments, margins, and where in the data the run is. */
#ifndef CATDPO_FILES_CHECKPOINT_H
#define CATDPO_FILES_CHECKPOINT_H

#include "catdpo/data/pairs.h"
#include "catdpo/files/model_file.h"
#include "catdpo/h5/fields.h"
#include "catdpo/objective/margin.h"

/* What a checkpoint holds beside its tensors and its tokenizer. Its strings and arrays are not owned by who writes, and
 * owned by who has read (checkpoint_free). K categories. */
typedef struct Checkpoint {
    int64_t step, total_steps; /* done; of the run */
    int64_t num_tokens;
    int64_t safe_probes;  /* in a row, before this one: see schedule.until_safe */
    int64_t skipped;      /* steps without an update, because of numbers that are not finite */
    double heldout_worst; /* violation rate of the worst held-out category; -1: not measured */
    const char *version, *layout /* "2x3x1": replicas, rows, columns */, *config;
    const char *data_digest, *tokenizer_digest, *template_digest;
    const char *start_digest,
        *reference_digest; /* of the weights that training started from, and of the frozen reference */

    int64_t sampler_step; /* its position */
    uint64_t seed;
    const char *sampling;
    int64_t optimizer_updates;

    int category_count;                         /* K */
    const char (*category_name)[CATEGORY_NAME]; /* [K] */
    double *margin, *violation_rate;            /* [K] as in MarginState, and so on */
    double *standard_error;                     /* [K]; NULL: an older version wrote the file */
    int64_t *n, *violations, *pending;          /* [K], [K], [2K] */
    double unit;                                /* of violations */
    double pooled_rate, pooled_error;
    int64_t margin_updates, last_update;

    const char *base_digest; /* to write with adapters: of the frozen weights below them, which model_path holds */
    const Blobs *templates;  /* to write: those of the data; NULL or none: those of the model's file */
} Checkpoint;

extern const Format checkpoint_format;

/* Writes the file under another name, in `folder` (NULL: beside path), and renames it. `model_path` is the file that
 * the run's model came from: its tokenizer and configuration go along, so that the checkpoint can be exported. What the
 * optimizer and the margins have need not be in `about`. Collective over t->grid->world. */
bool checkpoint_write(const char *path, const char *folder, const char *model_path, const Transformer *t,
                      const Optimizer *optimizer, const MarginState *margins, const Checkpoint *about, Error *err);

/* Read and verify everything but tensors and tokenizer. This alone says what a good checkpoint is, to `catdpo check`
 * and to a run that goes on. On failure nothing is owned. Collective over the file's communicator. */
bool checkpoint_read(H5File *file, Checkpoint *c, Error *err);
/* The same of a file that is not open. Collective over comm; MPI_COMM_NULL: this process alone. */
bool checkpoint_open(const char *path, Checkpoint *c, MPI_Comm comm, Error *err);
void checkpoint_free(Checkpoint *c); /* harmless on zeros */

/* Moments and margins of a checkpoint onto any grid, verified against their checksums; the weights are read as those of
 * any model (model_load), adapters by adapter_load. Counts of violations in other units are converted. Collective over
 * t->grid->world. */
bool checkpoint_load(const char *path, const Transformer *t, Optimizer *optimizer, MarginState *margins,
                     const char (*category_name)[CATEGORY_NAME], Error *err);

#endif
