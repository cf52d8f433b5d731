"""Gemma 3 (text): four norms a layer with weights 1 + w, GeGLU, most layers with a sliding window and a rotation of
their own."""

from catdpo_analysis.models.families.family import FULL, SLIDING, Family
from catdpo_analysis.models.hf_config import shown

GELU = "gelu_pytorch_tanh"
NORMS = ("post_attention_layernorm.weight", "pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight")
LAYERS_OF_27B = 62  # the one size whose scores llama.cpp scales otherwise than by the head size


def every(pattern, layers):
    """Each `pattern`th layer sees everything."""
    return [SLIDING if (layer + 1) % pattern else FULL for layer in range(layers)]


class Gemma3(Family):
    name = "gemma3_text"
    title = "Gemma 3 (text)"
    hf_class = "Gemma3ForCausalLM"
    gguf_name = "gemma3"
    defaults = {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    }
    qk_norm = True
    sliding = True
    reads_layer_types = True
    local_rope = True
    gguf_options = ("attention.scale", "attn_logit_softcapping", "final_logit_softcapping")
    gguf_names = Family.gguf_names | {
        "post_attention_norm.weight": NORMS[0],
        "ffn_norm.weight": NORMS[1],
        "post_ffw_norm.weight": NORMS[2],
    }

    def layer_tensors(self, a):
        return super().layer_tensors(a) | dict.fromkeys(NORMS, (a.hidden_size,))

    def check(self, config):
        for key in ("hidden_activation", "hidden_act"):
            if config.get(key, GELU) not in (GELU, None):
                config.refuse(f"activation {key} = {shown(config.get(key))}", f"Gemma 3 has GeGLU ({GELU})")
        for key in ("attention_bias", "use_bidirectional_attention"):
            if config.get(key):
                config.refuse(f"{key} = {shown(config.get(key))}", "published Gemma 3 models for text have none")
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            if config.get(key):
                config.refuse(f"soft-capping ({key} = {shown(config.get(key))})", "published Gemma 3 models have none")

    def layer_types(self, config, layers):
        return every(config.number("sliding_window_pattern", int), layers)

    def options(self, config):
        return {"query_pre_attn_scalar": config.number("query_pre_attn_scalar", float)}

    def config_entries(self, a):
        scalar = a.query_pre_attn_scalar
        return {
            "hidden_activation": GELU,
            "attention_bias": False,
            "query_pre_attn_scalar": int(scalar) if scalar.is_integer() else scalar,
            "rope_local_base_freq": a.rope_local_base_freq or self.defaults["rope_local_base_freq"],
            "sliding_window": a.sliding_window or self.defaults["sliding_window"],
            "layer_types": a.list_layer_types(),
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        }

    def gguf_entries(self, get, tensors, config):
        """llama.cpp takes the window's pattern, the local rotation and the scale of the scores as known unless the file
        has them."""
        layers, window = config["num_hidden_layers"], get("attention.sliding_window")
        pattern = get("attention.sliding_window_pattern", 6 if window else 1)
        if isinstance(pattern, list):  # whether each layer has a window
            types = [SLIDING if slides else FULL for slides in pattern]
        else:
            types = every(pattern, layers)
        per_head = config["hidden_size"] // config["num_attention_heads"]
        scale = get("attention.scale")
        scalar = per_head if layers == LAYERS_OF_27B else config["head_dim"]
        if scale:
            scalar = float(f"{scale**-2:.6g}")  # of a float32
        return {
            "hidden_activation": GELU,
            "query_pre_attn_scalar": scalar,
            "rope_local_base_freq": get("rope.freq_base_swa", self.defaults["rope_local_base_freq"]),
            "sliding_window": window or self.defaults["sliding_window"],
            "layer_types": types,
            "attn_logit_softcapping": get("attn_logit_softcapping"),
            "final_logit_softcapping": get("final_logit_softcapping"),
        }

    def gguf_values(self, name, values, a):
        """GGUF keeps 1 + w."""
        return values - values.dtype.type(1) if name.endswith("norm.weight") else values


FAMILY = Gemma3()
