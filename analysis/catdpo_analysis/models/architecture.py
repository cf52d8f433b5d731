"""What the trainer's engine supports, as one record: read from a Hugging Face config, checked, stored as HDF5
attributes.

Everything that the engine would compute otherwise than the model's authors meant is refused by name, never
approximated.
"""

import dataclasses
import json

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.h5io import set_text, text

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
INTEGERS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "tie_word_embeddings",
    "attention_bias",
    "qk_norm",
    "rope_original_max_position",
)
LARGEST = 1 << 30  # of any size or count; the trainer reads no larger one
FLOATS = ("rms_norm_eps", "rope_theta", "rope_factor", "rope_low_freq_factor", "rope_high_freq_factor")


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

    def tensors(self):
        """Every weight of the model: Hugging Face name -> shape, in the order of the data flow."""
        hidden, mlp = self.hidden_size, self.intermediate_size
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        shapes = {"model.embed_tokens.weight": (self.vocab_size, hidden)}
        for i in range(self.num_hidden_layers):
            layer = f"model.layers.{i}."
            shapes[layer + "input_layernorm.weight"] = (hidden,)
            for name, rows in (("q", q), ("k", kv), ("v", kv)):
                shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows, hidden)
                if self.attention_bias:
                    shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
            shapes[layer + "self_attn.o_proj.weight"] = (hidden, q)
            if self.qk_norm:
                shapes[layer + "self_attn.q_norm.weight"] = (self.head_dim,)
                shapes[layer + "self_attn.k_norm.weight"] = (self.head_dim,)
            shapes[layer + "post_attention_layernorm.weight"] = (hidden,)
            shapes[layer + "mlp.gate_proj.weight"] = (mlp, hidden)
            shapes[layer + "mlp.up_proj.weight"] = (mlp, hidden)
            shapes[layer + "mlp.down_proj.weight"] = (hidden, mlp)
        shapes["model.norm.weight"] = (hidden,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        return shapes

    def parameters(self):
        total = 0
        for shape in self.tensors().values():
            total += shape[0] * (shape[1] if len(shape) == 2 else 1)
        return total

    def store(self, group):
        """As attributes of /model."""
        set_text(group, "architecture", self.architecture)
        set_text(group, "rope_type", self.rope_type)
        for name in INTEGERS:
            group.attrs.create(name, getattr(self, name), dtype="<i8")
        for name in FLOATS:
            group.attrs.create(name, getattr(self, name), dtype="<f8")

    @classmethod
    def load(cls, group, path):
        """From the attributes of /model."""
        missing = [name for name in ("architecture", "rope_type", *INTEGERS, *FLOATS) if name not in group.attrs]
        if missing:
            raise UserError(
                f"{path}: /model lacks the attribute {missing[0]}; write the file again with import or train"
            )
        values = {name: int(group.attrs[name]) for name in INTEGERS} | {
            name: float(group.attrs[name]) for name in FLOATS
        }
        return cls(architecture=text(group, "architecture"), rope_type=text(group, "rope_type"), **values)


def dataset_name(hf_name):
    """Where a weight lies in the file: "model.norm.weight" -> "/model/norm/weight", "lm_head.weight" ->
    "/model/lm_head/weight"."""
    return "/model/" + hf_name.removeprefix("model.").replace(".", "/")


def is_number(value, least, most):
    """A number within these bounds; neither NaN nor true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def _shown(value):
    return shorten(json.dumps(value))


def read_config(config, path):
    """A Hugging Face config.json (dict) as an Architecture. `path` is named in messages."""

    def refuse(what, remedy="catdpo supports Llama, Mistral, Qwen2 and Qwen3 models with SwiGLU and rotary embedding"):
        raise UserError(f"{path}: {what} is not supported; {remedy}")

    def number(key, kind, default=None, least=1):
        value = config.get(key)
        value = default if value is None else value
        if value is None:
            raise UserError(f"{path}: {key} is missing")
        if not is_number(value, least, LARGEST) or (kind is int and value != int(value)):
            raise UserError(f"{path}: {key} = {_shown(value)} is not a valid {'count' if kind is int else 'number'}")
        return kind(value)

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        refuse(f"model_type {_shown(kind)}")
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        refuse(f"activation hidden_act = {_shown(config['hidden_act'])}", "the engine has SwiGLU (silu) only")
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else quantised
        refuse(
            f"quantised weights (quantization_config, {shorten(method)})",
            "import the original model in bf16, f16 or f32",
        )
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if config.get(key):
            refuse(f"a mixture of experts ({key} = {_shown(config[key])})")
    if config.get("mlp_bias"):
        refuse("mlp_bias = true", "the engine has biases on q, k and v only")
    if config.get("attention_bias") and kind != "qwen2":
        refuse(
            "attention_bias = true (a bias on o_proj as well)", "the engine has biases on q, k and v only, as in Qwen2"
        )
    if config.get("partial_rotary_factor", 1.0) != 1.0:
        refuse(f"partial_rotary_factor = {_shown(config['partial_rotary_factor'])}", "the engine rotates whole heads")
    if config.get("is_encoder_decoder") or config.get("add_cross_attention"):
        refuse("cross attention")

    heads = number("num_attention_heads", int)
    kv_heads = number("num_key_value_heads", int, {"mistral": 8, "qwen2": 32, "qwen3": 32}.get(kind, heads))
    hidden = number("hidden_size", int)
    if config.get("head_dim") is None and kind != "qwen3" and hidden % heads:
        raise UserError(
            f"{path}: hidden_size {hidden} is no multiple of num_attention_heads {heads} and head_dim is not given"
        )
    head_dim = number("head_dim", int, 128 if kind == "qwen3" else hidden // heads)
    if heads % kv_heads:
        raise UserError(f"{path}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    if head_dim % 2:
        refuse(f"the odd head_dim {head_dim}", "rotary embedding needs an even one")
    positions = number("max_position_embeddings", int)
    _check_window(config, kind, positions, refuse)
    rope = _read_rope(config, positions, path, refuse)
    return Architecture(
        architecture=kind,
        hidden_size=hidden,
        intermediate_size=number("intermediate_size", int),
        num_hidden_layers=number("num_hidden_layers", int),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=number("vocab_size", int),
        max_position_embeddings=positions,
        rms_norm_eps=number("rms_norm_eps", float, 1e-6, least=0),
        tie_word_embeddings=int(bool(config.get("tie_word_embeddings", False))),
        attention_bias=int(kind == "qwen2"),
        qk_norm=int(kind == "qwen3"),
        **rope,
    )


def _check_window(config, kind, positions, refuse):
    """A sliding attention window is accepted only where it can never cut anything off."""
    window = config.get("sliding_window", 4096 if kind == "mistral" and "sliding_window" not in config else None)
    if kind in ("qwen2", "qwen3") and not config.get("use_sliding_window", False):
        window = None
    if window is not None and not is_number(window, -LARGEST, LARGEST):
        refuse(f"sliding_window = {_shown(window)}", "it must be a count or null")
    layers = config.get("layer_types")
    sliding = isinstance(layers, list) and "sliding_attention" in layers
    if (window is not None and window < positions) or (sliding and window is None):
        refuse(
            f"sliding-window attention (sliding_window = {window}, max_position_embeddings = {positions})",
            "the engine attends to the whole sequence; set sliding_window to null in config.json if your sequences "
            "stay below the window",
        )


def _read_rope(config, positions, path, refuse):
    """Rotary embedding: theta and scaling, in the old layout (rope_theta, rope_scaling) or the new one
    (rope_parameters)."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise UserError(f"{path}: rope_scaling is not an object")
    if any(isinstance(value, dict) for value in scaling.values()):
        refuse("rotary embedding that differs between layers")
    theta = config.get("rope_theta")
    theta = scaling.get("rope_theta", 10000.0) if theta is None else theta
    kind = scaling.get("rope_type", scaling.get("type", "default")) or "default"
    if kind not in ("default", "linear", "llama3"):
        refuse(f"rope type {_shown(kind)}", "the engine has default, linear and llama3")
    if not is_number(theta, 1e-6, 1e30):
        raise UserError(f"{path}: rope_theta = {_shown(theta)} is not a valid number")
    if scaling.get("partial_rotary_factor", 1.0) != 1.0:
        refuse(f"partial_rotary_factor = {_shown(scaling['partial_rotary_factor'])}", "the engine rotates whole heads")
    rope = {"rope_theta": float(theta), "rope_type": kind}
    needed = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}[kind]
    for key in needed:
        value = scaling.get(key)
        if not is_number(value, 1e-6, 1e9):
            raise UserError(
                f"{path}: rope scaling of type {kind} needs a positive number for {key}, not {_shown(value)}"
            )
        rope["rope_" + key] = float(value)
    if kind == "llama3":
        original = scaling.get("original_max_position_embeddings") or positions
        if not is_number(original, 1, LARGEST) or original != int(original):
            raise UserError(f"{path}: original_max_position_embeddings = {_shown(original)} is not a valid count")
        rope["rope_original_max_position"] = int(original)
    return rope
