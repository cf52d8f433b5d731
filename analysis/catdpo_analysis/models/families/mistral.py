"""Mistral. Its GGUF files call themselves llama."""

from catdpo_analysis.models.families.family import Family


class Mistral(Family):
    name = "mistral"
    title = "Mistral"
    hf_class = "MistralForCausalLM"
    defaults = {"num_key_value_heads": 8, "sliding_window": 4096}
    sliding = True

    def config_entries(self, a):
        return super().config_entries(a) | {"sliding_window": a.sliding_window or None}


FAMILY = Mistral()
