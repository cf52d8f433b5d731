"""Qwen3 (dense)."""

from catdpo_analysis.models.families.qwen2 import Qwen2


class Qwen3(Qwen2):
    name = gguf_name = "qwen3"
    title = "Qwen3"
    hf_class = "Qwen3ForCausalLM"
    defaults = Qwen2.defaults | {"head_dim": 128}
    attention_bias = False
    qk_norm = True


FAMILY = Qwen3()
