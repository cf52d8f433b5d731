"""OLMo 2: norms of what a block adds instead of its input; query and key norms over all heads together."""

from catdpo_analysis.models.families.family import Family

ADDED = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")
QUERY, KEY = "self_attn.q_norm.weight", "self_attn.k_norm.weight"


class Olmo2(Family):
    name = gguf_name = "olmo2"
    title = "OLMo 2"
    hf_class = "Olmo2ForCausalLM"
    defaults = {"rms_norm_eps": 1e-5}
    qk_norm = True
    gguf_names = {
        name: hf for name, hf in Family.gguf_names.items() if name not in ("attn_norm.weight", "ffn_norm.weight")
    } | {"post_attention_norm.weight": ADDED[0], "post_ffw_norm.weight": ADDED[1]}

    def layer_tensors(self, a):
        shapes = super().layer_tensors(a) | dict.fromkeys(ADDED, (a.hidden_size,))
        del shapes["input_layernorm.weight"]
        shapes[QUERY] = (a.num_attention_heads * a.head_dim,)
        shapes[KEY] = (a.num_key_value_heads * a.head_dim,)
        return shapes

    def config_entries(self, a):
        return super().config_entries(a) | {"attention_bias": False}


FAMILY = Olmo2()
