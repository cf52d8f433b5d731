"""What the trainer's engine supports, as one record: read from a Hugging Face config, checked, stored as HDF5
attributes.

Everything that the engine would compute otherwise than the model's authors meant is refused by name, never
approximated.
"""

import dataclasses

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.h5io import set_text, text
from catdpo_analysis.models.families import FAMILIES, list_names
from catdpo_analysis.models.families.family import FULL, SLIDING
from catdpo_analysis.models.hf_config import LARGEST, Config, is_number, shown
from catdpo_analysis.models.rope import read_rope

SUPPORTED = f"catdpo supports dense models of {list_names(f.title for f in FAMILIES.values())}"

KINDS = {int: "<i8", float: "<f8"}
LAYER_TYPES = {FULL: "f", SLIDING: "s"}  # in config.json and in /model


def added(default):
    """An attribute that files of older versions lack, which mean the default."""
    return dataclasses.field(default=default, metadata={"added": True})


@dataclasses.dataclass
class Architecture:
    """Field names are those of the attributes of /model; the flags are 0 or 1."""

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: int
    attention_bias: int
    qk_norm: int
    rope_type: str = "default"
    rope_factor: float = 1.0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_max_position: int = 0
    rope_local_base_freq: float = added(0.0)  # of layers with a sliding window; 0: as in the others
    query_pre_attn_scalar: float = added(0.0)  # 0: head_dim
    sliding_window: int = added(0)
    layer_types: str = added("")  # a letter a layer, f or s; empty: all f

    @property
    def family(self):
        return FAMILIES[self.architecture]

    def tensors(self):
        """Every weight of the model: Hugging Face name -> shape, in the order of the data flow."""
        table = (self.vocab_size, self.hidden_size)
        shapes = {"model.embed_tokens.weight": table}
        layer = self.family.layer_tensors(self)
        for i in range(self.num_hidden_layers):
            shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
        shapes["model.norm.weight"] = (self.hidden_size,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = table
        return shapes

    def list_layer_types(self):
        """As config.json has them."""
        names = {letter: name for name, letter in LAYER_TYPES.items()}
        return [names[letter] for letter in self.layer_types or "f" * self.num_hidden_layers]

    def parameters(self):
        total = 0
        for shape in self.tensors().values():
            total += shape[0] * (shape[1] if len(shape) == 2 else 1)
        return total

    def store(self, group):
        """As attributes of /model."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is str:
                set_text(group, field.name, value)
            else:
                group.attrs.create(field.name, value, dtype=KINDS[field.type])

    @classmethod
    def load(cls, group, path):
        """From the attributes of /model."""
        values = {}
        for field in dataclasses.fields(cls):
            if field.name not in group.attrs:
                if field.metadata.get("added"):
                    continue
                raise UserError(
                    f"{path}: /model lacks the attribute {field.name}; write the file again with import or train"
                )
            values[field.name] = text(group, field.name) if field.type is str else field.type(group.attrs[field.name])
        if values["architecture"] not in FAMILIES:
            raise UserError(
                f"{path}: architecture {shown(values['architecture'])} is not supported ({list_names(FAMILIES)})"
            )
        return cls(**values)


def dataset_name(hf_name):
    """Where a weight lies in the file: "model.norm.weight" -> "/model/norm/weight", "lm_head.weight" ->
    "/model/lm_head/weight"."""
    return "/model/" + hf_name.removeprefix("model.").replace(".", "/")


def _check_quantised(config):
    for key in ("quantization_config", "compression_config", "quantization"):
        quantised = config.get(key)
        if quantised:
            method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else quantised
            config.refuse(
                f"quantised weights ({key}, {shorten(method)})",
                "import the original model in bf16, f16 or f32 (if these weights are, remove the key)",
            )


def _check_class(values, family, notes):
    """model_type decides, as in transformers; `architectures` should say the same."""
    classes = values.get("architectures")
    if isinstance(classes, list) and classes and family.hf_class not in classes:
        notes.append(
            f"config.json: architectures = {shown(classes)}, but model_type = {shown(family.name)}: read as "
            f"{family.hf_class}, as transformers does"
        )
    if values.get("auto_map"):
        notes.append("config.json: auto_map names code of the model's own, which is not run")


def read_config(values, path, notes=None):
    """A Hugging Face config.json (dict) as an Architecture. `path` is named in messages. `notes` (a list) gets a line
    for whatever is not used, or said twice in different ways."""
    notes = [] if notes is None else notes
    kind = values.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    config = Config(values, path, family.defaults if family else {}, SUPPORTED)
    if not family:
        config.refuse(f"model_type {shown(kind)}")
    config.used |= {"model_type", "auto_map"}
    family.check(config)
    _check_quantised(config)
    _check_class(values, family, notes)
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if config.get(key):
            config.refuse(f"a mixture of experts ({key} = {shown(config.get(key))})")
    for key in ("is_encoder_decoder", "add_cross_attention"):
        if config.get(key):
            config.refuse(f"cross attention ({key} = {shown(config.get(key))})")

    heads = config.number("num_attention_heads", int)
    kv_heads = config.number("num_key_value_heads", int, heads)
    hidden = config.number("hidden_size", int)
    if values.get("head_dim") is None and "head_dim" not in config.defaults and hidden % heads:
        raise UserError(
            f"{path}: hidden_size {hidden} is no multiple of num_attention_heads {heads} and head_dim is not given"
        )
    head_dim = config.number("head_dim", int, hidden // heads)
    if heads % kv_heads:
        raise UserError(f"{path}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    if head_dim % 2:
        config.refuse(f"the odd head_dim {head_dim}", "rotary embedding needs an even one")
    layers, positions = config.number("num_hidden_layers", int), config.number("max_position_embeddings", int)
    architecture = Architecture(
        architecture=kind,
        hidden_size=hidden,
        intermediate_size=config.number("intermediate_size", int),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=config.number("vocab_size", int),
        max_position_embeddings=positions,
        rms_norm_eps=config.number("rms_norm_eps", float, 1e-6, least=0),
        tie_word_embeddings=int(config.flag("tie_word_embeddings")),
        attention_bias=int(family.attention_bias),
        qk_norm=int(family.qk_norm),
        **read_rope(config, family, positions, notes),
        **_read_window(config, family, layers, positions),
        **family.options(config),
    )
    _check_types(config, notes)
    unused = config.unused()
    if unused:
        listed = ", ".join(f"{key} = {shorten(shown(values[key]), 30)}" for key in unused[:8])
        notes.append(
            f"config.json: {len(unused)} key{'s' if len(unused) > 1 else ''} not used: {listed}"
            + (", ..." if len(unused) > 8 else "")
        )
    return architecture


def _read_window(config, family, layers, positions):
    """Which layers have a sliding window. One that can never cut anything off is none, unless it comes with a rotation
    of its own."""
    window, given = family.window(config), config.get("layer_types")
    if window is not None and not is_number(window, -LARGEST, LARGEST):
        config.refuse(f"sliding_window = {shown(window)}", "it must be a count or null")
    types = given if family.reads_layer_types and given is not None else family.layer_types(config, layers)
    if not isinstance(types, list) or len(types) != layers or not all(name in LAYER_TYPES for name in types):
        config.refuse(f"layer_types = {shown(types)}", f"it must name {FULL} or {SLIDING} for each of {layers} layers")
    ignored = isinstance(given, list) and SLIDING in given and given != types
    too_small = not family.sliding and window is not None and window < positions
    if ignored or too_small or (SLIDING in types and window is None):
        config.refuse(
            f"sliding-window attention (sliding_window = {window}, max_position_embeddings = {positions})",
            f"{family.title} has {'it only as sliding_window says' if family.sliding else 'none'}; set sliding_window "
            "to null in config.json and drop layer_types if your sequences stay below the window",
        )
    if SLIDING not in types or (window >= positions and not family.local_rope):
        return {}
    return {
        "sliding_window": config.number("sliding_window", int),
        "layer_types": "".join(LAYER_TYPES[name] for name in types),
    }


def _check_types(config, notes):
    old, new = config.get("torch_dtype"), config.get("dtype")
    if old and new and old != new:
        notes.append(f"config.json: torch_dtype = {shown(old)}, dtype = {shown(new)}: weights are taken as stored")
