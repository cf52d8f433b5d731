/* OLMo 2: norms of what a block adds instead of its input; query and key norms over all heads together. */
#include "catdpo/model/architecture.h"

static LayerPlan layer(const Architecture *a, int l)
{
    LayerPlan plan = llama_layer(a, l);
    plan.attention_norm = plan.mlp_norm = NULL;
    plan.attention_post_norm = "post_attention_layernorm.weight";
    plan.mlp_post_norm = "post_feedforward_layernorm.weight";
    plan.joint_qk_norm = true;
    return plan;
}

const Family family_olmo2 = { .name = "olmo2", .layer = layer, .model = llama_model, .qk_norm = true };
