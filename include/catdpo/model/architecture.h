/* What kind of transformer a model is: the attributes of /model in model.h5. */
#ifndef CATDPO_MODEL_ARCHITECTURE_H
#define CATDPO_MODEL_ARCHITECTURE_H

#include "catdpo/ops/rotary.h"

typedef struct Architecture {
    char name[32];             /* "llama", "mistral", "qwen2", "qwen3" */
    int hidden, mlp, vocab;    /* H, M, V */
    int layers, heads, groups; /* groups: key/value heads, G */
    int head_dim;
    int max_positions;
    double norm_epsilon;
    bool tied;           /* the head is the embedding */
    bool attention_bias; /* biases on q, k, v */
    bool qk_norm;        /* RMSNorm over each query and key head */
    RopeSettings rope;
} Architecture;

/* Sizes positive and consistent (heads a multiple of groups, even head size, ...). Not collective. */
bool architecture_check(const Architecture *a, const char *where, Error *err);

/* A grid can have at most as many rows as the model has key/value heads. Refused with the valid grids for `ranks`
 * listed. */
bool architecture_fits(const Architecture *a, int rows, int columns, int ranks, Error *err);

#endif
