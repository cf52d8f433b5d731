"""Qwen2 and Qwen2.5."""

from catdpo_analysis.models.families.family import Family


class Qwen2(Family):
    name = gguf_name = "qwen2"
    title = "Qwen2"
    hf_class = "Qwen2ForCausalLM"
    defaults = {"num_key_value_heads": 32}
    attention_bias = True

    def window(self, config):
        return config.get("sliding_window") if config.get("use_sliding_window") else None


FAMILY = Qwen2()
