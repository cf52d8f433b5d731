/* Llama, SmolLM2, and whatever else is stored as such. */
#include "catdpo/model/architecture.h"

#include <math.h>

LayerPlan llama_layer(const Architecture *a, int layer)
{
    bool slides = architecture_slides(a, layer);
    return (LayerPlan){
        .query = "self_attn.q_proj",
        .key = "self_attn.k_proj",
        .value = "self_attn.v_proj",
        .attention_out = "self_attn.o_proj",
        .gate = "mlp.gate_proj",
        .up = "mlp.up_proj",
        .mlp_down = "mlp.down_proj",
        .attention_norm = "input_layernorm.weight",
        .mlp_norm = "post_attention_layernorm.weight",
        .query_norm = a->qk_norm ? "self_attn.q_norm.weight" : NULL,
        .key_norm = a->qk_norm ? "self_attn.k_norm.weight" : NULL,
        .qkv_bias = a->attention_bias,
        .window = slides ? a->window : 0,
        .local_rope = slides && a->local_theta > 0,
    };
}

ModelPlan llama_model(const Architecture *a)
{
    return (ModelPlan){
        .activation = ACTIVATION_SILU,
        .embedding_scale = 1,
        .attention_scale = (float)(1 / sqrt(a->query_scalar > 0 ? a->query_scalar : a->head_dim)),
    };
}

const Family family_llama = { .name = "llama", .layer = llama_layer, .model = llama_model };
