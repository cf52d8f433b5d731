"""What the families of models have in common. Each method and value may be replaced in a family's own file."""

from catdpo_analysis.errors import UserError
from catdpo_analysis.models.hf_config import shown

FULL, SLIDING = "full_attention", "sliding_attention"  # layer_types in config.json


class Family:
    """The defaults are Llama's."""

    name = None  # model_type in config.json, `architecture` in /model
    title = None  # in messages
    hf_class = None  # `architectures` in config.json
    gguf_name = None  # general.architecture of a GGUF file
    defaults = {}  # what transformers takes for keys that config.json lacks
    attention_bias = False  # biases on q, k and v
    qk_norm = False  # RMSNorm over each query and key head
    sliding = False  # layers may have a sliding window
    reads_layer_types = False  # config.json may list the layers that have one
    local_rope = False  # these have a rotation of their own, given by rope_local_base_freq
    gguf_options = ()  # metadata that gguf_entries reads, of options that other families do not have
    gguf_names = {  # of a layer's tensors, below blk.<layer>.
        "attn_norm.weight": "input_layernorm.weight",
        "attn_q.weight": "self_attn.q_proj.weight",
        "attn_q.bias": "self_attn.q_proj.bias",
        "attn_k.weight": "self_attn.k_proj.weight",
        "attn_k.bias": "self_attn.k_proj.bias",
        "attn_v.weight": "self_attn.v_proj.weight",
        "attn_v.bias": "self_attn.v_proj.bias",
        "attn_q_norm.weight": "self_attn.q_norm.weight",
        "attn_k_norm.weight": "self_attn.k_norm.weight",
        "attn_output.weight": "self_attn.o_proj.weight",
        "attn_output.bias": "self_attn.o_proj.bias",
        "ffn_norm.weight": "post_attention_layernorm.weight",
        "ffn_gate.weight": "mlp.gate_proj.weight",
        "ffn_up.weight": "mlp.up_proj.weight",
        "ffn_down.weight": "mlp.down_proj.weight",
    }

    def layer_tensors(self, a):
        """The weights of one layer of Architecture a: Hugging Face name below model.layers.<layer>. -> shape, in the
        order of the data flow."""
        hidden, mlp = a.hidden_size, a.intermediate_size
        q, kv = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
        shapes = {"input_layernorm.weight": (hidden,)}
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            shapes[f"self_attn.{name}_proj.weight"] = (rows, hidden)
            if a.attention_bias:
                shapes[f"self_attn.{name}_proj.bias"] = (rows,)
        shapes["self_attn.o_proj.weight"] = (hidden, q)
        if a.qk_norm:
            shapes["self_attn.q_norm.weight"] = shapes["self_attn.k_norm.weight"] = (a.head_dim,)
        return shapes | {
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (mlp, hidden),
            "mlp.up_proj.weight": (mlp, hidden),
            "mlp.down_proj.weight": (hidden, mlp),
        }

    def check(self, config):
        """Refuses by name what a Config asks for and the engine cannot compute."""
        if config.get("hidden_act", "silu") not in ("silu", "swish"):
            config.refuse(
                f"activation hidden_act = {shown(config.get('hidden_act'))}", "the engine has SwiGLU (silu) only"
            )
        if config.flag("mlp_bias"):
            config.refuse("mlp_bias = true", "the engine has biases on q, k and v only")
        if config.flag("attention_bias") and not self.attention_bias:
            config.refuse(
                "attention_bias = true (a bias on o_proj as well)",
                "the engine has biases on q, k and v only, as in Qwen2",
            )

    def window(self, config):
        """The sliding window that a Config asks for, or None."""
        return config.get("sliding_window")

    def layer_types(self, config, layers):
        """FULL or SLIDING for each layer, where config.json does not list them."""
        return [SLIDING if self.sliding and self.window(config) is not None else FULL] * layers

    def options(self, config):
        """Attributes of /model beside the common ones, from a Config."""
        return {}

    def config_entries(self, a):
        """What config.json says beside the common entries."""
        return {"hidden_act": "silu"}

    def gguf_entries(self, get, tensors, config):
        """What config.json says beside the common entries in `config`, from a GGUF file: get(key) gives its metadata
        below the name of the architecture."""
        window, positions = get("attention.sliding_window"), config["max_position_embeddings"]
        if window is not None and 0 < window < positions:
            raise UserError(
                f"sliding-window attention ({window} of {positions} positions) is not supported in GGUF files of "
                f"{self.title}; import the model from its Hugging Face folder instead"
            )
        return {"hidden_act": "silu"}

    def gguf_values(self, name, values, a):
        """A tensor as the Hugging Face layout has it, from the values in a GGUF file."""
        return values
