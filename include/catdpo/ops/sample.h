/* The next token from logits that lie over process rows.
 *
 *     s      = logit, made smaller or larger for tokens that were used (repetition_penalty), divided by temperature
 *     kept   = tokens that pass top_k, then top_p, then min_p, in transformers' order
 *     token  = argmax over the kept of s + G          G: Gumbel noise, a function of (seed, text, position, token)
 *
 * which is a draw from softmax(s) over the kept tokens (Gumbel-max). Noise and threshold of a token do not depend on
 * who computes them, so the token is the same on every grid but for differences within rounding. temperature 0: the
 * largest s, the token of the lowest number among equal ones. Tokens that are equal at a threshold are all kept.
 */
#ifndef CATDPO_OPS_SAMPLE_H
#define CATDPO_OPS_SAMPLE_H

#include "catdpo/ops/head.h"

typedef struct SampleSettings {
    double temperature;        /* 0: greedy */
    double min_p;              /* probability of a token beside the likeliest one, at least; 0: off */
    double top_p;              /* the likeliest tokens that together have this probability; 1: off */
    int64_t top_k;             /* so many of the likeliest tokens; 0: off */
    double repetition_penalty; /* divides positive and multiplies negative logits of tokens in the text; 1: off */
    int64_t seed;
} SampleSettings;

/* What a target's token belongs to. */
typedef struct SampleText {
    uint64_t stream;      /* of the noise: sample_stream */
    uint64_t position;    /* of the token in its text */
    const int32_t *token; /* [known] for the repetition penalty: prompt and text so far; not owned */
    int known;
} SampleText;

/* The noise of a text: one stream a prompt and sample. */
uint64_t sample_stream(int64_t seed, uint64_t prompt, uint64_t sample);

typedef struct SampledToken {
    int32_t token;
    float logp;    /* under the model itself: temperature 1, nothing left out; nats */
    float entropy; /* of that distribution, nats */
} SampledToken;

/* The tokens of the targets of a chunk: text[count], chosen[count]; token -1 if no logit is a number. The logits may be
 * changed. `memory`: sample_work bytes. Collective over column_comm, with the same targets on all its ranks, which get
 * the same tokens. */
void sample_tokens(const SampleSettings *settings, const ChunkLogits *logits, MPI_Comm column_comm,
                   const SampleText *text, SampledToken *chosen, void *memory);
int64_t sample_work(int count, int vocab);

#endif
