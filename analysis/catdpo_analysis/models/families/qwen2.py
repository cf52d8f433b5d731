"""Qwen2 and Qwen2.5."""

from catdpo_analysis.models.families.family import FULL, SLIDING, Family


class Qwen2(Family):
    name = gguf_name = "qwen2"
    title = "Qwen2"
    hf_class = "Qwen2ForCausalLM"
    defaults = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
    attention_bias = True
    sliding = True
    reads_layer_types = True

    def window(self, config):
        return config.get("sliding_window") if config.get("use_sliding_window") else None

    def layer_types(self, config, layers):
        first = layers if self.window(config) is None else config.number("max_window_layers", int, least=0)
        return [SLIDING if layer >= first else FULL for layer in range(layers)]

    def config_entries(self, a):
        entries = super().config_entries(a)
        if a.layer_types:
            entries |= {"use_sliding_window": True, "sliding_window": a.sliding_window}
            entries |= {"layer_types": a.list_layer_types(), "max_window_layers": a.layer_types.index("s")}
        return entries


FAMILY = Qwen2()
