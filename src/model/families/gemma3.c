/* Gemma 3 (text): norms before and after each block and of query and key heads, all with weights 1 + w; GeGLU;
 * looked-up embeddings are multiplied by the root of their length; most layers have a sliding window and a rotation of
 * their own. */
#include "catdpo/model/architecture.h"

#include <math.h>

static LayerPlan layer(const Architecture *a, int l)
{
    LayerPlan plan = llama_layer(a, l);
    plan.attention_post_norm = "post_attention_layernorm.weight";
    plan.mlp_norm = "pre_feedforward_layernorm.weight";
    plan.mlp_post_norm = "post_feedforward_layernorm.weight";
    return plan;
}

static ModelPlan model(const Architecture *a)
{
    ModelPlan plan = llama_model(a);
    plan.activation = ACTIVATION_GELU_TANH;
    plan.norm_offset = 1;
    plan.embedding_scale = (float)sqrt(a->hidden);
    return plan;
}

const Family family_gemma3 = { .name = "gemma3_text", .layer = layer, .model = model, .qk_norm = true };
