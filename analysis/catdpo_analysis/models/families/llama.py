"""Llama, SmolLM2, and whatever else is stored as such; in GGUF Mistral too."""

from catdpo_analysis.models.families.family import Family


def interleaved_to_halves(rows, heads):
    """Undo the row order that GGUF gives Llama's q and k.

    Within a head of size d, GGUF stores the rotary pairs side by side (0, d/2, 1, d/2 + 1, ...); Hugging Face stores
    all first halves, then all second halves. `rows`: [heads * d, ...].
    """
    d = rows.shape[0] // heads
    return rows.reshape(heads, d // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


class Llama(Family):
    name = gguf_name = "llama"
    title = "Llama"
    hf_class = "LlamaForCausalLM"

    def config_entries(self, a):
        return super().config_entries(a) | {"attention_bias": False, "mlp_bias": False}

    def gguf_entries(self, get, tensors, config):
        bias = "model.layers.0.self_attn.q_proj.bias" in tensors
        return super().gguf_entries(get, tensors, config) | {"attention_bias": bias, "mlp_bias": False}

    def gguf_values(self, name, values, a):
        if ".self_attn.q_proj." in name:
            return interleaved_to_halves(values, a.num_attention_heads)
        if ".self_attn.k_proj." in name:
            return interleaved_to_halves(values, a.num_key_value_heads)
        return values


FAMILY = Llama()
