/* What kind of transformer a model is: the attributes of /model in model.h5. They are listed once, in architecture.c:
 * reading, comparing and the fuzzer's files walk that list. */
#ifndef CATDPO_MODEL_ARCHITECTURE_H
#define CATDPO_MODEL_ARCHITECTURE_H

#include "catdpo/core/field.h"
#include "catdpo/model/family.h"
#include "catdpo/ops/rotary.h"

#include <stddef.h>

enum { LAYERS_MAX = 4096 };

/* Fields lie without gaps, so that a test finds one that is not listed. */
typedef struct Architecture {
    char name[32]; /* of its family (family.h): "llama", ... */
    double norm_epsilon;
    double query_scalar; /* scores are divided by its root; 0: by that of head_dim */
    double local_theta;  /* rope's theta in layers with a sliding window, unscaled; 0: as in the others */
    RopeSettings rope;
    int hidden, mlp, vocab;    /* H, M, V */
    int layers, heads, groups; /* groups: key/value heads, G */
    int head_dim;
    int max_positions;
    int window; /* tokens that a layer with a sliding window sees, up to the query's own; 0: there are no such layers */
    bool tied;  /* the head is the embedding */
    bool attention_bias;              /* biases on q, k, v */
    bool qk_norm;                     /* RMSNorm over each query and key head */
    char layer_types[LAYERS_MAX + 1]; /* a letter a layer: s has a sliding window, f (full attention) not; "": all f */
} Architecture;

/* All attributes of /model that say what it computes, in the order of the file's description. Those that files of older
 * versions are without mean 0 or "" there. */
extern const Field architecture_fields[];

/* Family known, sizes positive and consistent (heads a multiple of groups, even head size, ...). Not collective. */
bool architecture_check(const Architecture *a, const char *where, Error *err);

/* Does this layer have a sliding window? */
static inline bool architecture_slides(const Architecture *a, int layer)
{
    return *a->layer_types && a->layer_types[layer] == 's';
}

/* The family of an architecture that was checked. */
const Family *architecture_family(const Architecture *a);

/* Do two models compute the same from the same weights? If not, `difference` names the first attribute that differs,
 * with both values. Not collective. */
bool architecture_same(const Architecture *a, const Architecture *b, char *difference, size_t size);

/* A grid can have at most as many rows as the model has key/value heads. Refused with the valid grids for `ranks`
 * listed. */
bool architecture_fits(const Architecture *a, int rows, int columns, int ranks, Error *err);

#endif
