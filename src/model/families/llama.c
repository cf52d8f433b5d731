/* Llama, SmolLM2, and whatever else is stored as such. */
#include "catdpo/model/architecture.h"

LayerPlan llama_layer(const Architecture *a, int layer)
{
    (void)layer;
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
    };
}

const Family family_llama = { "llama", llama_layer };
