/* Answers to prompts: many sequences decoded side by side on each replica's grid.
 *
 * A lane is a place for one answer under way, on one process column. What all prompts begin with (a system prompt, the
 * template's first marks) is read once a process column; the rest of a prompt, all but its last token, once into a
 * range of the cache that all its samples attend to; a sample begins with the prompt's last token in a range of its
 * own. One pass holds prompts that are being read and a token of every answer under way, those of these prompts
 * included; a lane whose answer ended takes the next sample at once. Replica d has the prompts d, d + D, ...; within it
 * prompts and samples go in order, so that who runs what depends on lengths alone. What is answered depends on none of
 * this (ops/sample.h).
 *
 * The caller drives it, pass by pass, so that it can save and stop in between:
 *
 *     generator_create(...); while (generator_step(...)) {...}
 */
#ifndef CATDPO_GENERATE_GENERATOR_H
#define CATDPO_GENERATE_GENERATOR_H

#include "catdpo/data/prompts.h"
#include "catdpo/model/transformer.h"
#include "catdpo/ops/sample.h"

enum { STOP_TOKENS = 32 };

typedef enum { FINISH_STOP, FINISH_LENGTH, FINISH_CONTEXT, FINISH_NONE } Finish;

typedef struct GenerateLimits {
    int samples;             /* a prompt */
    int max_tokens;          /* of an answer, its stop token included */
    int lanes;               /* answers under way, on each replica's grid */
    int64_t max_tokens_pass; /* tokens of a pass on a process column; a longer prompt goes alone */
    int logit_columns;
    int stop_count;
    int32_t stop[STOP_TOKENS]; /* tokens that end an answer */
} GenerateLimits;

/* An answer, complete: token, logp and entropy lie in the generator's memory, [length]. */
typedef struct Answer {
    int64_t at; /* of its first token in Generator.token; -1: not complete */
    int length; /* the stop token included */
    Finish finish;
} Answer;

typedef struct Generator {
    const Prompts *prompts;
    Transformer *model; /* not owned, weights are read only */
    const Grid *grid;
    SampleSettings sampling;
    GenerateLimits limits;

    KvCache cache;
    Batcher batcher;
    int lanes_here;          /* lanes on each process column */
    int common;              /* tokens that all prompts begin with, columns [0, common) of the cache */
    bool *common_read;       /* [process columns] they are there */
    struct Lane *lane;       /* [lanes] by process column */
    struct Reading *reading; /* [lanes] prompts that lie in the cache or are being read, by process column */
    int64_t next_prompt;     /* of this replica's, not begun */
    int under_way;           /* lanes with an answer */

    /* this replica's answers: the same on all ranks of its grid */
    Answer *answer; /* [prompts x samples]; prompts of other replicas stay empty */
    int32_t *token;
    float *logp, *entropy;
    int64_t used, room; /* of these arrays */
    int64_t finished;   /* answers */

    int64_t prefilled, decoded;             /* tokens run so far */
    int64_t decode_passes;                  /* that read no prompt */
    double prefill_seconds, decode_seconds; /* passes that read prompts, and passes that do not */
    /* of the pass at hand */
    SampleText *text;     /* [lanes] */
    SampledToken *chosen; /* [lanes] */
    int *lane_of;         /* [sequences of a pass] the lane of each */
    void *work;           /* for sample_tokens */
} Generator;

/* Lanes that fit `bytes` of cache a rank, at least one a process column and no more than `wanted` or than there are
 * answers. Not collective. */
int generator_lanes(const Architecture *a, const AttentionShape *shape, int columns, int64_t longest_prompt,
                    const GenerateLimits *limits, int64_t answers, double bytes);

/* What the model must be created with: the most of a pass. `longest`: of a prompt and its answer together. Not
 * collective. */
TransformerLimits generator_model_limits(const GenerateLimits *limits, int columns, int64_t longest_prompt);

/* The model's own limits must be no smaller than generator_model_limits. Not collective. */
bool generator_create(Generator *g, const Prompts *prompts, Transformer *model, const SampleSettings *sampling,
                      const GenerateLimits *limits, Error *err);
void generator_free(Generator *g);

/* Why an answer of these tokens ends behind them; FINISH_NONE: it goes on. Not collective. */
Finish generator_finish(const Generator *g, int64_t prompt, const int32_t *token, int length);

/* This replica's answer is known already: prompt and sample are not run. Before the first step. Not collective. */
bool generator_restore(Generator *g, int64_t prompt, int sample, int length, Finish finish, const int32_t *token,
                       const float *logp, const float *entropy, Error *err);

/* Takes memory for complete answers of so many tokens, so that generator_step allocates nothing. Not collective. */
bool generator_reserve(Generator *g, int64_t tokens, Error *err);
/* Begins anew, with this seed: nothing is known and nothing under way. Not collective. */
void generator_restart(Generator *g, int64_t seed);

/* One pass. False if this replica has nothing left to do (then nothing was run), or *err if the model's logits are no
 * numbers. Collective over the replica's grid. */
bool generator_step(Generator *g, Error *err);

#endif
