/* LoRA: adapters of a frozen model. Which of its products have one, how their A and B lie on the grid, and their start.
 *
 * A and B of all layers are tensors of a table of their own (Parameters), so that the optimiser, the exchange between
 * replicas and the files treat them as they treat a model's weights. Their names are PEFT's below "layers.<l>.":
 * self_attn.q_proj.lora_A.weight [r x in] and self_attn.q_proj.lora_B.weight [out x r]. */
#ifndef CATDPO_MODEL_ADAPTERS_H
#define CATDPO_MODEL_ADAPTERS_H

#include "catdpo/model/parameters.h"
#include "catdpo/ops/low_rank.h"

/* Products of a layer, and the modules of a layer: Hugging Face's linear layers. */
enum { PRODUCT_QKV, PRODUCT_ATTENTION_OUT, PRODUCT_GATE_UP, PRODUCT_MLP_DOWN, PRODUCTS };
enum { MODULES = 7, ADAPTER_TEXT = 1024 };

/* What is adapted. All zero: nothing, the model itself is trained. */
typedef struct AdapterSettings {
    int rank;                                /* r; 0: there are no adapters */
    double alpha;                            /* the scale s is alpha / r */
    unsigned modules;                        /* bit m: module m, query, key, value, attention out, gate, up, mlp down */
    unsigned char layer[LAYERS_MAX / 8 + 1]; /* bit l: layer l */
} AdapterSettings;

/* Has this module of this layer an adapter? */
bool adapter_wanted(const AdapterSettings *s, int layer, int module);

/* From words: `modules` is "all-linear" or names such as "q_proj,v_proj" (the end of a module's name, as in PEFT);
 * `layers` is "all" or numbers and ranges such as "0-5,8". `where` stands before messages. Not collective. */
bool adapters_parse(AdapterSettings *s, const Architecture *a, int64_t rank, double alpha, const char *modules,
                    const char *layers, const char *where, Error *err);
/* The words that give these settings again, in text[ADAPTER_TEXT]: names without their path; "all" or the numbers as
 * ranges. A list of layers that is too long for the text ends in "...". Not collective. */
const char *adapters_modules_text(const AdapterSettings *s, const Architecture *a, char text[ADAPTER_TEXT]);
const char *adapters_layers_text(const AdapterSettings *s, const Architecture *a, char text[ADAPTER_TEXT]);

/* The adapter of one product: indices of its tensors; -1: none. */
typedef struct ProductAdapter {
    int a, b;
    int parts;
    int module[LOW_RANK_PARTS];
    LowRankPart part[LOW_RANK_PARTS];
} ProductAdapter;

typedef struct Adapters {
    AdapterSettings settings;
    Parameters parameters;               /* A and B of all layers; matrices only */
    ProductAdapter (*product)[PRODUCTS]; /* [layers] */
    int lowest;                          /* the first layer that has one; layers: none */
    int parts;                           /* most of a product */
    int64_t wide_floats, inner;          /* largest `wide`, most local rows of A x */
} Adapters;

/* The layout of all tensors on this rank, for a model laid out as `base`; allocates no weights. Without a rank there
 * are no tensors. Not collective. */
bool adapters_layout(Adapters *x, const AdapterSettings *settings, const Architecture *a, const Parameters *base,
                     const Grid *grid, Error *err);
void adapters_free(Adapters *x);

/* The adapter of a product with these axes over flat arrays of the adapters' shape; gradients NULL: none. Without parts
 * if the product has none; its buffers are for the caller to set. Not collective. */
LowRank adapters_product(const Adapters *x, Grid *grid, int layer, int product, const Axis *in, const Axis *out,
                         float *weights, float *gradients);

/* The start, as PEFT's: A uniform in (-1, 1) / sqrt(in) (Kaiming with a = sqrt 5), B zero. A number depends on seed,
 * layer, module and its place alone, so every grid gets the same. Not collective. */
void adapters_start(const Adapters *x, uint64_t seed, float *weights);

#endif
