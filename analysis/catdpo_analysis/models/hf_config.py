"""Reading of a Hugging Face config.json: values checked, defaults as transformers has them, refusals by name."""

import json

from catdpo_analysis.errors import UserError, shorten

LARGEST = 1 << 30  # of any size or count; the trainer reads no larger one
ANY = object()
IGNORED = {  # keys of config.json that do not change what the engine computes: the values for which that holds
    "_attn_implementation": ANY,
    "_attn_implementation_autoset": ANY,
    "_name_or_path": ANY,
    "_sliding_window_pattern": ANY,
    "architectures": ANY,  # compared with model_type by check_class
    "attention_dropout": (0, None),
    "cache_implementation": ANY,
    "bos_token_id": ANY,  # read by tokens.py, like eos_token_id
    "eos_token_id": ANY,
    "finetuning_task": ANY,
    "gradient_checkpointing": ANY,
    "hidden_dropout": (0, None),
    "id2label": ANY,
    "initializer_range": ANY,
    "is_llama_config": ANY,
    "label2id": ANY,
    "layer_types": ANY,  # read where a family has them, like sliding_window
    "max_window_layers": ANY,
    "output_attentions": ANY,
    "output_hidden_states": ANY,
    "pad_token_id": ANY,
    "pretraining_tp": ANY,  # how a product is cut into pieces
    "return_dict": ANY,
    "rope_interleaved": (False, None),
    "sliding_window": ANY,
    "sliding_window_pattern": ANY,
    "task_specific_params": ANY,
    "tokenizer_class": ANY,
    "torchscript": ANY,
    "transformers.js_config": ANY,
    "transformers_version": ANY,
    "unk_token_id": ANY,
    "unsloth_fixed": ANY,
    "unsloth_version": ANY,
    "use_cache": ANY,
    "use_sliding_window": ANY,
    # of generation, in files of old versions
    "do_sample": ANY,
    "length_penalty": ANY,
    "max_length": ANY,
    "max_new_tokens": ANY,
    "min_length": ANY,
    "no_repeat_ngram_size": ANY,
    "num_beams": ANY,
    "repetition_penalty": ANY,
    "temperature": ANY,
    "top_k": ANY,
    "top_p": ANY,
}


def shown(value):
    """A value of a config for a message."""
    return shorten(json.dumps(value))


def is_number(value, least, most):
    """A number within these bounds; neither NaN nor true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


class Config:
    """A config.json (dict). `path` is named in messages; `defaults`: what transformers takes for keys that are not
    there."""

    def __init__(self, values, path, defaults, supported):
        self.values, self.path, self.defaults, self.supported = values, path, defaults, supported
        self.used = set()  # keys that were asked for

    def get(self, key, default=None):
        self.used.add(key)
        return self.values.get(key, self.defaults.get(key, default))

    def refuse(self, what, remedy=None):
        raise UserError(f"{self.path}: {what} is not supported; {remedy or self.supported}")

    def number(self, key, kind, default=None, least=1):
        """A count (kind = int) or number; null is as good as absent."""
        self.used.add(key)
        value = self.values.get(key)
        value = self.defaults.get(key, default) if value is None else value
        if value is None:
            raise UserError(f"{self.path}: {key} is missing")
        if not is_number(value, least, LARGEST) or (kind is int and value != int(value)):
            what = "count" if kind is int else "number"
            raise UserError(f"{self.path}: {key} = {shown(value)} is not a valid {what}")
        return kind(value)

    def flag(self, key):
        """A value that is true or false; null and absent are false."""
        value = self.get(key, False)
        if value not in (True, False, None):
            raise UserError(f"{self.path}: {key} = {shown(value)} is neither true nor false")
        return bool(value)

    def unused(self):
        """Names of the keys that nobody asked for and that may mean something."""
        return sorted(
            key
            for key, value in self.values.items()
            if key not in self.used and (key not in IGNORED or IGNORED[key] is not ANY and value not in IGNORED[key])
        )
