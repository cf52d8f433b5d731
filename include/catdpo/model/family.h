/* The families of models, a file each in src/model/families: what a layer consists of and how its weights are called.
 * Everything that lays out, computes, plans or reads a layer goes by these. The Python side of the same is
 * analysis/catdpo_analysis/models/families. */
#ifndef CATDPO_MODEL_FAMILY_H
#define CATDPO_MODEL_FAMILY_H

#include "catdpo/ops/mlp.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct Architecture Architecture; /* architecture.h */

/* What is the same in all layers. */
typedef struct ModelPlan {
    Activation activation;
    float norm_offset;     /* of all norms: 1 where a weight w means 1 + w */
    float embedding_scale; /* that looked-up embeddings are multiplied with */
    float attention_scale; /* of the scores */
} ModelPlan;

/* One layer: y = x + norm(attention(norm(x))), then the same with the MLP; each norm may be missing. Names are Hugging
 * Face's below "layers.<l>."; those of products lack their ".weight" and ".bias". What the layer lacks is NULL. All
 * layers of a model have the same parts.
 */
typedef struct LayerPlan {
    const char *query, *key, *value, *attention_out; /* products */
    const char *gate, *up, *mlp_down;
    const char *attention_norm, *mlp_norm;           /* of the input of a block */
    const char *attention_post_norm, *mlp_post_norm; /* of what a block adds */
    const char *query_norm, *key_norm;               /* before the rotation */
    bool joint_qk_norm; /* these are over the features of all heads together, not of each head */
    bool qkv_bias;
    int window;      /* a token sees so many tokens up to itself; 0: all of them */
    bool local_rope; /* rotation with the architecture's local_theta */
} LayerPlan;

typedef struct Family {
    const char *name; /* Hugging Face's model_type, and the attribute `architecture` of /model */
    LayerPlan (*layer)(const Architecture *a, int layer);
    ModelPlan (*model)(const Architecture *a);
    bool attention_bias, qk_norm; /* of a model that is only planned: in a file they are attributes */
} Family;

/* The family of this name, or NULL. */
const Family *family_find(const char *name);
/* All names: "llama, mistral, ...". Returns text. */
char *family_names(char *text, size_t size);

/* Llama's plans, which several families share or begin with. */
LayerPlan llama_layer(const Architecture *a, int layer);
ModelPlan llama_model(const Architecture *a);

extern const Family family_llama, family_mistral, family_qwen2, family_qwen3, family_gemma3, family_olmo2;

#endif
