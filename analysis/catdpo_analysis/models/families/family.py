"""What the families of models have in common. Each method and value may be replaced in a family's own file."""

from catdpo_analysis.models.hf_config import LARGEST, is_number, shown


class Family:
    """The defaults are Llama's."""

    name = None  # model_type in config.json, `architecture` in /model
    title = None  # in messages
    hf_class = None  # `architectures` in config.json
    gguf_name = None  # general.architecture of a GGUF file
    defaults = {}  # what transformers takes for keys that config.json lacks
    attention_bias = False  # biases on q, k and v
    qk_norm = False  # RMSNorm over each query and key head
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
        if config.get("mlp_bias"):
            config.refuse("mlp_bias = true", "the engine has biases on q, k and v only")
        if config.get("attention_bias") and not self.attention_bias:
            config.refuse(
                "attention_bias = true (a bias on o_proj as well)",
                "the engine has biases on q, k and v only, as in Qwen2",
            )

    def window(self, config):
        """The sliding window that a Config asks for, or None."""
        return config.get("sliding_window")

    def check_window(self, config, positions):
        """A sliding attention window is accepted only where it can never cut anything off."""
        window = self.window(config)
        if window is not None and not is_number(window, -LARGEST, LARGEST):
            config.refuse(f"sliding_window = {shown(window)}", "it must be a count or null")
        layers = config.get("layer_types")
        sliding = isinstance(layers, list) and "sliding_attention" in layers
        if (window is not None and window < positions) or (sliding and window is None):
            config.refuse(
                f"sliding-window attention (sliding_window = {window}, max_position_embeddings = {positions})",
                "the engine attends to the whole sequence; set sliding_window to null in config.json if your "
                "sequences stay below the window",
            )

    def config_entries(self, a):
        """What config.json says beside the common entries."""
        return {}

    def gguf_entries(self, tensors):
        """What config.json says beside the common entries, from a GGUF file with these tensors."""
        return {}

    def gguf_values(self, name, values, a):
        """A tensor as the Hugging Face layout has it, from the values in a GGUF file."""
        return values
