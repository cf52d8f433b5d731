/* samples.h5: answers that a model gave to prompts, whole or as far as generation came.
 *
 * P prompts, K categories, S answers in the order of prompt and sample, T their tokens. */
#ifndef CATDPO_FILES_SAMPLES_FILE_H
#define CATDPO_FILES_SAMPLES_FILE_H

#include "catdpo/data/pairs.h"
#include "catdpo/h5/fields.h"

#define SAMPLES_FORMAT "catdpo-samples"

/* What a judge says of all answers, of which each was judged. */
typedef struct SampleScores {
    const char *name, *settings, *digest; /* of the judge; settings as JSON text; digest of its rules, "": none */
    double threshold;                     /* score from which on an answer is bad */
    const float *score;                   /* [S] */
    const int8_t *verdict;                /* [S] 1: bad */
    const uint8_t *kind;                  /* [S] AnswerKind, 255: unknown */
} SampleScores;

typedef struct Samples {
    char *model, *prompts; /* the files and group that were named: "runs/a/final.h5", "pairs.h5: /heldout" */
    char *weights_digest, *data_digest, *tokenizer_digest, *template_digest;
    char *settings;  /* group `generate` of the config, and the stop tokens: an answer is a function of them */
    char *config;    /* all settings as resolved */
    int64_t samples; /* a prompt */
    int64_t total;   /* answers when complete: P x samples */

    int64_t prompt_count; /* P */
    int category_count;   /* K */
    char (*category_name)[CATEGORY_NAME];
    int64_t *prompt_offset; /* [P + 1] */
    int32_t *prompt_token;
    int64_t *prompt_row;    /* [P] */
    uint8_t *benign;        /* [P] */
    uint8_t *category_mask; /* [P, K] */

    int64_t count, tokens;    /* S <= total, T */
    int32_t *prompt, *sample; /* [S] */
    int64_t *offset;          /* [S + 1] */
    int32_t *token;           /* [T] */
    float *logp, *entropy;    /* [T] nats */
    uint8_t *finish;          /* [S] Finish of generator.h */

    /* written, not read: texts, one behind the other, and where each begins; rank 0's */
    bool has_text; /* the same on all ranks */
    const char *prompt_text, *text;
    const int64_t *prompt_text_at, *text_at; /* [P], [S] */
    const SampleScores *scores;              /* rank 0's, but for the name; NULL: not judged */
} Samples;

/* Write the file, atomically, replacing an earlier one; unfinished it lies in `folder` (NULL: beside path). Rank 0's
 * values. Collective over comm. */
bool samples_write(const char *path, const char *folder, const Samples *s, MPI_Comm comm, Error *err);

/* Read and verify an open file; s owns its strings and arrays, for samples_free. Collective over the file's
 * communicator. */
bool samples_read(H5File *file, Samples *s, Error *err);
void samples_free(Samples *s);

extern const Format samples_format;

#endif
