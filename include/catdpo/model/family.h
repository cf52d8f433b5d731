/* The families of models, a file each in src/model/families: what a layer consists of and how its weights are called.
 * Everything that lays out, computes, plans or reads a layer goes by these. The Python side of the same is
 * analysis/catdpo_analysis/models/families. */
#ifndef CATDPO_MODEL_FAMILY_H
#define CATDPO_MODEL_FAMILY_H

#include <stdbool.h>
#include <stddef.h>

typedef struct Architecture Architecture; /* architecture.h */

/* One layer: x + attention(norm(x)), then the same with the MLP. Names are Hugging Face's below "layers.<l>."; those of
 * products lack their ".weight" and ".bias". What the layer lacks is NULL. All layers of a model have the same parts.
 */
typedef struct LayerPlan {
    const char *query, *key, *value, *attention_out; /* products */
    const char *gate, *up, *mlp_down;
    const char *attention_norm, *mlp_norm; /* of the input of a block */
    const char *query_norm, *key_norm;     /* of each head, before the rotation */
    bool qkv_bias;
} LayerPlan;

typedef struct Family {
    const char *name; /* Hugging Face's model_type, and the attribute `architecture` of /model */
    LayerPlan (*layer)(const Architecture *a, int layer);
} Family;

/* The family of this name, or NULL. */
const Family *family_find(const char *name);
/* All names: "llama, mistral, ...". Returns text. */
char *family_names(char *text, size_t size);

/* Llama's layer, which several families share or begin with. */
LayerPlan llama_layer(const Architecture *a, int layer);

extern const Family family_llama, family_mistral, family_qwen2, family_qwen3;

#endif
