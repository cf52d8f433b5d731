#!/usr/bin/env python3
"""Make the fixtures tiny_*.h5: small random models with logits, log-probs, losses and gradients by transformers and
autograd.

    python make_fixtures.py             write the files beside this script       (needs torch, transformers, h5py)
    python make_fixtures.py --check     make them in memory and compare with those that are there

Weights come from a hash of their index, so that every machine and every library version draws the same ones.
README.md beside this script says what a file holds.
"""
import argparse
import hashlib
import json
import os
import sys
import tempfile
import zlib

import h5py
import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

import catdpo_h5 as ch

HERE = os.path.dirname(os.path.abspath(__file__))
VOCABULARY = 97
CATEGORIES, HARM = ["privacy", "fraud", "benign"], [1, 1, 0]
BETA = 0.3
CLIP, LEARNING_RATE, WEIGHT_DECAY, BETAS, EPSILON = 0.5, 1e-2, 0.1, (0.9, 0.95), 1e-3

COMMON = dict(
    vocab_size=VOCABULARY,
    num_hidden_layers=1,
    num_key_value_heads=3,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    hidden_act="silu",
)
MODELS = {
    "tiny_llama": dict(
        model_type="llama",
        num_hidden_layers=2,
        hidden_size=12,
        intermediate_size=19,
        num_attention_heads=6,
        head_dim=8,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0),
    ),
    "tiny_llama_linear": dict(
        model_type="llama",
        hidden_size=15,
        intermediate_size=13,
        num_attention_heads=3,
        head_dim=6,
        rope_parameters=dict(rope_type="linear", rope_theta=1000.0, factor=2.5),
    ),
    # wave lengths 6, 30, 141 and 664 against 12 and 48: the four frequencies meet all three cases of the scaling
    "tiny_llama3_tied": dict(
        model_type="llama",
        hidden_size=12,
        intermediate_size=17,
        num_attention_heads=6,
        head_dim=8,
        tie_word_embeddings=True,
        rope_parameters=dict(
            rope_type="llama3",
            rope_theta=500.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=48,
        ),
    ),
    "tiny_qwen2_tied": dict(
        model_type="qwen2",
        num_hidden_layers=2,
        hidden_size=13,
        intermediate_size=17,
        num_attention_heads=9,
        head_dim=4,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        rope_parameters=dict(rope_type="default", rope_theta=1000000.0),
    ),
    "tiny_qwen2": dict(
        model_type="qwen2",
        hidden_size=12,
        intermediate_size=22,
        num_attention_heads=3,
        tie_word_embeddings=False,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0),
    ),
    "tiny_qwen3": dict(
        model_type="qwen3",
        hidden_size=14,
        intermediate_size=15,
        num_attention_heads=6,
        head_dim=6,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0),
    ),
    # windows shorter than a prompt, so that a response sees a part of it
    "tiny_mistral": dict(
        model_type="mistral",
        hidden_size=12,
        intermediate_size=13,
        num_attention_heads=3,
        head_dim=6,
        sliding_window=6,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0),
    ),
    # without a padding token, whose row torch leaves out of the look-up's gradient
    "tiny_gemma3": dict(
        model_type="gemma3_text",
        pad_token_id=None,
        num_hidden_layers=3,
        hidden_size=18,
        intermediate_size=14,
        num_attention_heads=6,
        head_dim=8,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=5,
        sliding_window=5,
        rms_norm_eps=1e-6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters=dict(
            full_attention=dict(rope_type="linear", rope_theta=5000.0, factor=2.5),
            sliding_attention=dict(rope_type="default", rope_theta=60.0),
        ),
    ),
    "tiny_olmo2": dict(
        model_type="olmo2",
        pad_token_id=None,
        num_hidden_layers=2,
        hidden_size=18,
        intermediate_size=13,
        num_attention_heads=9,
        tie_word_embeddings=False,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0),
    ),
}
CLASSES = dict(
    llama="LlamaForCausalLM",
    mistral="MistralForCausalLM",
    qwen2="Qwen2ForCausalLM",
    qwen3="Qwen3ForCausalLM",
    gemma3_text="Gemma3ForCausalLM",
    olmo2="Olmo2ForCausalLM",
)
# prompt, chosen and rejected lengths of the batch behind the losses: a completion of one token, equal and very unequal
# lengths
BATCH = [(3, 2, 4), (7, 9, 5), (12, 1, 20), (18, 22, 11), (5, 14, 14), (9, 6, 17)]


def uniform(key, shape, low, high):
    """Multiples of 2^-12 of the range, from a hash of (key, index): the same for ever."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        words = ch.mix(
            np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            + np.uint64(zlib.crc32(key.encode()))
        )
    fraction = ((words >> np.uint64(52)).astype(np.float64) + 0.5) / 4096
    return (low + (high - low) * fraction).reshape(shape).astype(np.float32)


def weight(model, name, shape):
    """Norms away from 1 (Gemma adds it), biases away from 0, and scales at which attention and the output distribution
    are not flat."""
    key, gemma = f"{model}/{name}", "gemma" in model
    if name.endswith("norm.weight"):
        return uniform(key, shape, *((-0.5, 0.6) if gemma else (0.5, 1.6)))
    if name.endswith("bias"):
        return uniform(key, shape, -0.6, 0.6)
    if "embed_tokens" in name or "lm_head" in name:
        gain = 0.9 if gemma else 1.8  # looked-up rows are multiplied by the root of their length
    elif "q_proj" in name or "k_proj" in name:
        gain = 1.4
    else:
        gain = 1.1
    bound = gain * np.sqrt(3.0 / shape[1])
    return uniform(key, shape, -bound, bound)


def tokenizer_files():
    """A word-level tokenizer of 97 words with a chat template, so that export and transformers have something to
    load."""
    words = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
    words += [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "ai", "ou", "ee")][
        : VOCABULARY - len(words)
    ]
    special = [dict(id=i, content=w, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
               for i, w in enumerate(words[:5])]
    tokenizer = dict(version="1.0", truncation=None, padding=None, added_tokens=special, normalizer=None,
                     pre_tokenizer=dict(type="WhitespaceSplit"), post_processor=None, decoder=None,
                     model=dict(type="WordLevel", vocab={w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    template = ("{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} </s> {% endfor %}"
                "{% if add_generation_prompt %}<|assistant|> {% endif %}")
    settings = dict(
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    )
    return {"tokenizer.json": json.dumps(tokenizer, separators=(",", ":")).encode(),
            "tokenizer_config.json": json.dumps(settings, separators=(",", ":")).encode()}, words, template


def ids(key, count):
    return [int(v) for v in np.floor(uniform(key, (count,), 5, VOCABULARY)).astype(int)] if count else []


def pair(key, lengths, categories, chosen_safe, rejected_safe, better, prompt_key=None, **more):
    prompt, chosen, rejected = lengths
    return dict(prompt=ids(f"{prompt_key or key}/prompt", prompt), chosen=ids(f"{key}/chosen", chosen - 1) + [2],
                rejected=ids(f"{key}/rejected", rejected - 1) + [2], categories=categories, chosen_safe=chosen_safe,
                rejected_safe=rejected_safe, chosen_better=better, **more)


def build(name):
    settings = {**COMMON, **MODELS[name]}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    config._attn_implementation = "sdpa"
    model = AutoModelForCausalLM.from_config(config).eval()
    weights = {n: weight(name, n, tuple(p.shape)) for n, p in model.named_parameters()}
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(torch.from_numpy(weights[n]))
    model.tie_weights()
    return config, model, weights


def completion_logits(model, sequence, prompt):
    """Logits that predict the completion tokens, [completion length, vocabulary]."""
    return model(input_ids=torch.tensor([sequence])).logits[0, prompt - 1 : -1]


def completion_logp(logits, completion):
    return torch.log_softmax(logits.double(), -1)[torch.arange(len(completion)), torch.tensor(completion)].sum()


def run(model, pairs):
    """Logits of both sequences of each pair and their summed log-probs [pairs, 2]."""
    logits = [
        [completion_logits(model, p["prompt"] + p[s], len(p["prompt"])) for s in ("chosen", "rejected")] for p in pairs
    ]
    logps = torch.stack([torch.stack([completion_logp(l, p[s]) for l, s in zip(both, ("chosen", "rejected"))])
                         for both, p in zip(logits, pairs)])
    return logits, logps


def plant(model, one):
    """Replace every third chosen token by the one that the model finds likeliest, so that the token accuracy is not
    0."""
    prompt = len(one["prompt"])
    for i in range(0, len(one["chosen"]), 3):
        with torch.no_grad():
            one["chosen"][i] = int(completion_logits(model, one["prompt"] + one["chosen"], prompt)[i].argmax())


def model_attributes(group, config, weights, tokenizer_digest, name):
    rope = config.rope_parameters
    local = rope.get("sliding_attention", {})
    rope = rope.get("full_attention", rope)
    window = config.sliding_window if config.model_type in ("mistral", "gemma3_text") else None
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    windows = dict(
        rope_local_base_freq=float(local.get("rope_theta", 0)),
        sliding_window=int(window or 0),
        query_pre_attn_scalar=float(getattr(config, "query_pre_attn_scalar", 0)),
        layer_types="".join(t[0] for t in types),
    )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    ch.set_attributes(
        group,
        architecture=config.model_type,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=head_dim,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=float(config.rms_norm_eps),
        rope_theta=float(rope["rope_theta"]),
        tie_word_embeddings=bool(config.tie_word_embeddings),
        attention_bias=config.model_type == "qwen2",
        qk_norm=config.model_type in ("qwen3", "gemma3_text", "olmo2"),
        rope_type=rope["rope_type"],
        rope_factor=float(rope.get("factor", 1)),
        rope_low_freq_factor=float(rope.get("low_freq_factor", 1)),
        rope_high_freq_factor=float(rope.get("high_freq_factor", 4)),
        rope_original_max_position=int(rope.get("original_max_position_embeddings", 0)),
        **(windows if window else {}),  # files of older versions know none
        weights_digest=ch.weights_digest({n: ch.checksum(w) for n, w in weights.items()}),
        tokenizer_digest=tokenizer_digest,
        source=f"random weights of {name}",
    )
    text = {k: v for k, v in config.to_dict().items() if k not in ("transformers_version", "dtype", "_name_or_path")}
    text["architectures"] = [CLASSES[config.model_type]]
    group.attrs.create("hf_config", json.dumps(text, indent=1, sort_keys=True), dtype=h5py.string_dtype("utf-8"))


def write_model(file, name, config, weights, tokenizer):
    ch.root_attributes(file, "catdpo-model")
    group = ch.create_group(file, "model")
    digest = hashlib.sha256(tokenizer["tokenizer.json"]).hexdigest()
    model_attributes(group, config, weights, digest, name)
    for tensor, values in weights.items():
        ch.set_attributes(ch.put(group, ch.tensor_path(tensor), values), checksum=ch.checksum(values))
    for file_name, content in tokenizer.items():
        ch.put(file, f"tokenizer/{file_name}", np.frombuffer(content, dtype=np.uint8))


def statistics(logits, pairs):
    """TRL's entropy (all completions), token accuracy (chosen ones) and mean logits."""
    flat = [torch.cat([both[i] for both in logits]).double() for i in (0, 1)]
    every = torch.cat(flat)
    logp = torch.log_softmax(every, -1)
    target = torch.tensor([t for p in pairs for t in p["chosen"]])
    return dict(
        entropy=float(-(logp.exp() * logp).sum(-1).mean()),
        logits_chosen=float(flat[0].mean()),
        logits_rejected=float(flat[1].mean()),
        mean_token_accuracy=float((flat[0].argmax(-1) == target).double().mean()),
    )


def write_optimizer(oracle, weights, gradient, norm):
    """Two steps of torch's AdamW on three tensors; the second gradient is minus half of the first, both after
    clipping."""
    chosen = [
        n
        for n in weights
        if n
        in (
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.norm.weight",
            "model.layers.0.self_attn.v_proj.bias",
        )
    ]
    tensors = [torch.nn.Parameter(torch.from_numpy(weights[n]).double()) for n in chosen]
    scale = min(1.0, CLIP / (norm + 1e-6))
    optimizer = torch.optim.AdamW(tensors, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY)
    group = ch.create_group(oracle, "adamw")
    ch.set_attributes(
        group,
        learning_rate=LEARNING_RATE,
        beta1=BETAS[0],
        beta2=BETAS[1],
        epsilon=EPSILON,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP,
        grad_norm=norm,
        clip_scale=scale,
        decayed="every tensor, vectors too",
        description="weights after step 1 with clip_scale times /oracle/gradient and step 2 with -0.5 times that",
    )
    for step, factor in ((1, 1.0), (2, -0.5)):
        for n, t in zip(chosen, tensors):
            t.grad = torch.from_numpy(gradient[n]).double() * scale * factor
        optimizer.step()
        for n, t in zip(chosen, tensors):
            ch.put(group, f"step{step}/{ch.tensor_path(n)}", t.detach().numpy().astype(np.float32))


def write_fixture(file, name, tokenizer):
    config, model, weights = build(name)
    write_model(file, name, config, weights, tokenizer)
    pairs = [
        pair(f"batch/{i}", lengths, [CATEGORIES[i % 2]] if i % 3 else ["benign"], 1, 0 if i % 3 else 1, 1)
        for i, lengths in enumerate(BATCH)
    ]
    plant(model, pairs[3])
    oracle = ch.create_group(file, "oracle")
    ch.write_categories(ch.create_group(oracle, "categories"), CATEGORIES, HARM)
    ch.write_pairs(ch.create_group(oracle, "pairs"), pairs, CATEGORIES)

    with torch.no_grad():
        _, single = run(model, pairs)
    model.double()
    logits, logps = run(model, pairs)
    noise = uniform(f"{name}/reference", (len(pairs), 2), -3, 3).astype(np.float64)
    reference = logps.detach().numpy().round(2) + noise
    offsets = np.array([0.0 if p["rejected_safe"] else 0.75 * (i + 1) for i, p in enumerate(pairs)])
    delta = logps - torch.from_numpy(reference)
    h = delta[:, 0] - delta[:, 1]
    loss = torch.nn.functional.softplus(torch.from_numpy(offsets) - BETA * h).mean()
    loss.backward()
    gradient = {n: p.grad.numpy().astype(np.float32) for n, p in model.named_parameters()}
    norm = float(torch.sqrt(sum((p.grad**2).sum() for p in model.parameters())))

    ch.set_attributes(
        oracle,
        beta=BETA,
        loss=loss.item(),
        loss_dpo=torch.nn.functional.softplus(-BETA * h).mean().item(),
        grad_norm=norm,
        **statistics([[l.detach() for l in both] for both in logits], pairs),
    )
    for i, side in enumerate(("chosen", "rejected")):
        for group, values in (
            ("logps", logps.detach().numpy()),
            ("logps_float32", single.numpy()),
            ("reference", reference),
        ):
            ch.put(oracle, f"{group}/{side}", values[:, i])
        ch.set_attributes(
            oracle[f"logps/{side}"], units="nats", description="summed completion log-probs, float64 model"
        )
        ch.set_attributes(
            oracle[f"logps_float32/{side}"], units="nats", description="the same, float32 model, summed in float64"
        )
        ch.set_attributes(oracle[f"reference/{side}"], units="nats", description="reference log-probs used in loss")
        ch.put(oracle, f"logits/{side}", logits[1][i].detach().numpy().astype(np.float32))
        ch.set_attributes(
            oracle[f"logits/{side}"],
            pair=1,
            description="logits that predict the completion tokens of pair 1 [token, vocabulary]",
        )
    oracle["offset"] = offsets
    ch.set_attributes(
        oracle["offset"], units="beta * h", description="margin of each pair in loss = mean softplus(offset - beta h)"
    )
    for n, g in gradient.items():
        ch.put(oracle, f"gradient/{ch.tensor_path(n)}", g)
    write_optimizer(oracle, weights, gradient, norm)


def tiny_pairs(words):
    """28 training and 12 held-out pairs: three categories, one of them rare, several labels, pairs that share a prompt,
    both-safe pairs."""
    def make(split, i):
        key = f"{split}/{i}"
        lengths = [
            int(v)
            for v in np.floor(uniform(f"{key}/lengths", (3,), 0, 1) * np.array([18, 24, 24])).astype(int)
            + np.array([3, 2, 2])
        ]
        if i % 4 == 3:
            labels = ["benign"]
        elif i % 9 == 2:
            labels = ["privacy", "fraud"]
        else:
            labels = ["fraud"] if i % 13 == 5 else ["privacy"]
        safe = labels == ["benign"]
        shared = f"{split}/{i - 1}" if i % 6 == 1 else None       # the same prompt as the pair before
        if shared:
            lengths[0] = made[-1][2]
        made.append((key, labels, lengths[0]))
        one = pair(
            key,
            lengths,
            labels,
            1,
            1 if safe else 0,
            1 if safe or i % 5 else 0,
            prompt_key=shared,
            row=len(made) - 1,
            swapped=int(not safe and i % 5 == 0),
        )
        for part in ("prompt", "chosen", "rejected"):
            one[f"{part}_text"] = " ".join(words[t] for t in one[part] if t > 4)
        return one

    made = []
    return [make("train", i) for i in range(28)], [make("heldout", i) for i in range(12)]


def write_tiny_pairs(file, tokenizer, words, template):
    sha = lambda text: hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
    train, heldout = tiny_pairs(words)
    ch.pairs_attributes(
        file,
        data_digest=sha(json.dumps([train, heldout])),
        tokenizer_digest=sha(tokenizer["tokenizer.json"]),
        template_digest=sha(template),
        vocab_size=VOCABULARY,
        settings=dict(made_by="make_fixtures.py"),
        inputs=[dict(name="random", bytes=0, sha256=sha(""))],
    )
    ch.write_categories(ch.create_group(file, "categories"), CATEGORIES, HARM)
    ch.write_pairs(ch.create_group(file, "train"), train, CATEGORIES, with_text=True)
    ch.write_pairs(ch.create_group(file, "heldout"), heldout, CATEGORIES, with_text=True)
    ch.write_ledger(
        file,
        [
            dict(
                file=0,
                row=40,
                split="",
                category="fraud",
                reason="both responses unsafe",
                tokens_before=31,
                tokens_after=0,
            )
        ],
        CATEGORIES,
    )


def differences(made, stored):
    """Datasets and attributes of `made` that `stored` lacks or holds with other values (rounding apart)."""
    found = []

    def same(a, b):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
            return False
        return np.allclose(a, b, rtol=2e-4, atol=1e-6) if a.dtype.kind == "f" else np.array_equal(a, b)

    def visit(name, item):
        if name not in stored:
            found.append(f"/{name} is missing")
            return
        if isinstance(item, h5py.Dataset) and not same(item[()], stored[name][()]):
            found.append(f"/{name} differs")
        for key in item.attrs:
            if "REFERENCE" in key or key in ("DIMENSION_LIST", "hf_config"):
                continue
            if key not in stored[name].attrs or not same(item.attrs[key], stored[name].attrs[key]):
                found.append(f"/{name} attribute {key} differs")

    visit("/", made)
    made.visititems(visit)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="compare with the files that are there instead of writing them"
    )
    check = parser.parse_args().check
    torch.set_num_threads(1)
    tokenizer, words, template = tokenizer_files()
    wrong = 0
    for name in [*MODELS, "tiny_pairs"]:
        path = os.path.join(HERE, f"{name}.h5")
        with tempfile.TemporaryDirectory() as folder:
            target = os.path.join(folder, "made.h5") if check else path + ".tmp"
            with h5py.File(target, "w", libver=("v110", "v110")) as file:
                if name == "tiny_pairs":
                    write_tiny_pairs(file, tokenizer, words, template)
                else:
                    write_fixture(file, name, tokenizer)
            if check:
                with h5py.File(target) as made, h5py.File(path) as stored:
                    found = differences(made, stored)
                print(f"{name}.h5: " + ("same" if not found else "; ".join(found[:5])))
                wrong += bool(found)
            else:
                os.replace(target, path)
                print(f"{name}.h5: {os.path.getsize(path) / 1000:.0f} kB")
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, h5py {h5py.__version__}, numpy "
        f"{np.__version__}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
