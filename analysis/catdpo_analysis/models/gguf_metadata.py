"""The metadata of a GGUF file: what is asked for is remembered, so that what nobody asked for can be named; and values
that mean something the engine does not compute are refused."""

import collections

import gguf

from catdpo_analysis.errors import UserError, shorten

IGNORED_PREFIXES = ("GGUF.", "general.", "quantize.", "imatrix.", "split.", "tokenizer.chat_template.")
IGNORED = {  # beside those of these prefixes: keys that change neither what is computed nor how a text is encoded
    "tokenizer.ggml.add_space_prefix",  # read for the kind of tokenizer that has it, like merges, pre and scores
    "tokenizer.ggml.add_sep_token",
    "tokenizer.ggml.cls_token_id",
    "tokenizer.ggml.fim_mid_token_id",
    "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.fim_sep_token_id",
    "tokenizer.ggml.fim_suf_token_id",
    "tokenizer.ggml.mask_token_id",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.middle_token_id",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.prefix_token_id",
    "tokenizer.ggml.remove_extra_whitespaces",  # of another kind of tokenizer
    "tokenizer.ggml.scores",
    "tokenizer.ggml.seperator_token_id",  # spelt so
    "tokenizer.ggml.suffix_token_id",
    "tokenizer.ggml.token_type_count",
}
IGNORED_OF_MODEL = {  # below the name of the architecture
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",  # of YaRN, which is refused
    "tensor_data_layout",
}
HARMLESS = {  # keys of options that the engine does not have -> the values that mean "off"
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.scale": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "pooling_type": (0,),
    "residual_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "use_parallel_residual": (False,),
}
OTHER_KINDS = {
    "adapter": "an adapter (LoRA): merge it into its base first, with llama.cpp's llama-export-lora",
    "mmproj": "the projector of an image model, not a language model",
    "imatrix": "an importance matrix, not a model",
}


class Metadata:
    """`get(key)` gives a value, `of_model(key)` one below the name of the architecture."""

    def __init__(self, reader, path):
        self.reader, self.path, self.used = reader, path, set()
        kind = self.get("general.type", "model")
        if kind in OTHER_KINDS or "adapter.type" in reader.fields:
            raise UserError(f"{path} is {OTHER_KINDS.get(kind, OTHER_KINDS['adapter'])}")
        self.kind = self.get("general.architecture")

    def get(self, key, default=None):
        self.used.add(key)
        field = self.reader.get_field(key)
        return default if field is None else field.contents()

    def of_model(self, key, default=None):
        return self.get(f"{self.kind}.{key}", default)

    def need(self, key):
        value = self.of_model(key)
        if value is None:
            raise UserError(f"{self.path}: metadata {self.kind}.{key} is missing")
        return value

    def refuse_options(self, head_dim, known):
        """Options that the engine does not have must be off; `known`: those that the family has."""
        if (self.get("split.count") or 0) > 1:
            raise UserError(
                f"{self.path}: one part of a split GGUF; join the parts first with llama.cpp's llama-gguf-split --merge"
            )
        for key, off in HARMLESS.items():
            value = self.of_model(key)
            if key == "attention.scale" and value is not None and abs(value * head_dim**0.5 - 1) < 1e-3:
                continue  # what it is without the key
            if value is not None and value not in off and key not in known:
                what = f"a mixture of experts ({key})" if key.startswith("expert") else f"{self.kind}.{key}"
                raise UserError(f"{self.path}: {what} = {shorten(value)} is not supported")

    def unused(self):
        """A note about keys that nobody asked for, or None."""
        ignored = IGNORED | {f"{self.kind}.{key}" for key in IGNORED_OF_MODEL}
        keys = sorted(
            key
            for key in self.reader.fields
            if key not in self.used and key not in ignored and not key.startswith(IGNORED_PREFIXES)
        )
        if not keys:
            return None
        return f"{len(keys)} key{'s' if len(keys) > 1 else ''} of the metadata not used: {', '.join(keys[:8])}" + (
            ", ..." if len(keys) > 8 else ""
        )

    def quantisation(self, tensors):
        """A note about what the weights were quantised as, or None."""
        plain = {"F32", "F16", "BF16", "F64"}
        kinds = collections.Counter(
            tensor.tensor_type.name for tensor in tensors if tensor.tensor_type.name not in plain
        )
        number, name = self.get("general.file_type"), None
        if not kinds:
            return None
        if isinstance(number, int) and number in iter(gguf.LlamaFileType):
            name = gguf.LlamaFileType(number).name.removeprefix("MOSTLY_")
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        named = f"{name} (tensors: {listed})" if name and not name.startswith(("ALL", "GUESSED")) else listed
        return (
            f"the weights come from {named}: de-quantised, they are near those of the original model, not equal to them"
        )


def rope_scaling(metadata):
    """As rope_scaling of a config.json, or None. `rope.scale_linear` is the old name of `rope.scaling.factor`, and a
    factor without a type is linear, as in llama.cpp."""
    places = {
        f"{metadata.kind}.{key}": value
        for key in ("rope.scaling.factor", "rope.scale_linear")
        if (value := metadata.of_model(key)) not in (None, 0.0)
    }
    kind = metadata.of_model("rope.scaling.type")
    if len(set(places.values())) > 1:
        told = " and ".join(f"{key} = {value:g}" for key, value in places.items())
        raise UserError(f"{metadata.path}: {told} contradict each other; convert the model again")
    factor = next(iter(places.values()), 1.0)
    if factor == 1.0:
        return None
    if kind == "none":
        raise UserError(
            f"{metadata.path}: {next(iter(places))} = {factor:g}, but {metadata.kind}.rope.scaling.type is none; "
            f"convert the model again"
        )
    return {"rope_type": kind or "linear", "factor": factor}
