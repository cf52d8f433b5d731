"""The files that a tokenizer consists of, and what they say in more than one place: named tokens and chat templates."""

import json
import os
import re

import numpy as np

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.digest import bytes_checksum, sha256
from catdpo_analysis.files.json_file import parse_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
ADDITIONAL = "additional_chat_templates"  # a folder of named templates, NAME.jinja
TEMPLATE_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
NAMED_TEMPLATE = re.compile(
    r"chat_template_([\w.-]{1,64})\.jinja", re.ASCII
)  # how one of them is called in /tokenizer of model.h5
MOST_TEMPLATES = 8
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def is_file(name):
    """Is a member of /tokenizer one of the files? Others are made from them."""
    return name in TOKENIZER_FILES or NAMED_TEMPLATE.fullmatch(name) is not None


def read_files(folder):
    """Name -> bytes of the files in a folder; chat_template_NAME.jinja for a template with a name."""
    files = {name: os.path.join(folder, name) for name in TOKENIZER_FILES}
    more = os.path.join(folder, ADDITIONAL)
    if os.path.isdir(more):
        files |= {f"chat_template_{name}": os.path.join(more, name) for name in sorted(os.listdir(more))}
    found = {}
    for name, path in files.items():
        if is_file(name) and os.path.isfile(path):
            with open(path, "rb") as file:
                found[name] = file.read()
    return found


def write_files(folder, files):
    """The same back into a folder."""
    for name, data in files.items():
        template = NAMED_TEMPLATE.fullmatch(name)
        if template:
            os.makedirs(os.path.join(folder, ADDITIONAL), exist_ok=True)
            name = os.path.join(ADDITIONAL, template[1] + ".jinja")
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)


def set_checksum(dataset, values):
    """Of the bytes of an array."""
    dataset.attrs.create("checksum", bytes_checksum(values.tobytes()), dtype="<u8")


def store_files(group, files):
    """As uint8 datasets of an HDF5 group."""
    for name, data in files.items():
        values = np.frombuffer(data, dtype=np.uint8)
        set_checksum(group.create_dataset(name, data=values), values)


def json_of(files, name, where):
    """One of the JSON files, or {} where there is none."""
    return parse_json(files[name], f"{where}: {name}") if name in files else {}


IGNORED = {  # keys of tokenizer_config.json that change neither the tokens of a text nor what is rendered
    "add_prefix_space",  # tokenizer.json decides
    "auto_map",
    "backend",
    "chat_control_tokens",
    "clean_up_tokenization_spaces",  # of decoding
    "errors",
    "from_slow",
    "is_local",
    "local_files_only",
    "max_length",
    "merges_file",
    "model_input_names",
    "model_max_length",
    "name_or_path",
    "pad_to_multiple_of",
    "pad_token_type_id",
    "padding",
    "padding_side",
    "processor_class",
    "response_schema",
    "response_template",
    "return_token_type_ids",
    "sp_model_kwargs",
    "spaces_between_special_tokens",  # of decoding
    "special_tokens_map_file",
    "stride",
    "tokenizer_file",
    "truncation",
    "truncation_side",
    "truncation_strategy",
    "use_default_system_prompt",
    "use_fast",
    "vocab_file",
}
READ = {
    "add_bos_token",
    "add_eos_token",
    "added_tokens_decoder",
    "additional_special_tokens",
    "chat_template",
    "extra_special_tokens",
    "fix_mistral_regex",
    "legacy",
    "model_specific_special_tokens",
    "split_special_tokens",
    "tokenizer_class",
}


def unused_keys(files, where):
    """A note about keys of tokenizer_config.json that nobody reads, or None."""
    config = json_of(files, "tokenizer_config.json", where)
    keys = sorted(key for key in config if key not in IGNORED | READ and not key.endswith("_token"))
    if not keys:
        return None
    listed = shorten(", ".join(keys), 160)
    return f"tokenizer_config.json: {len(keys)} key{'s' if len(keys) > 1 else ''} not used: {listed}"


# ---- named tokens ----------------------------------------------------------------------------------------------------

DEFAULTS = {  # named tokens of the classes that have any, where tokenizer_config.json does not mention them
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    "GemmaTokenizer": {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
}


def content_of(value):
    """The text of a token that a config names as such or as an object."""
    value = value.get("content") if isinstance(value, dict) else value
    if not isinstance(value, str) or not value:
        return None
    return value if all(not 0xD800 <= ord(c) < 0xE000 for c in value) else None  # half of a surrogate pair is no text


def named_tokens(files, where, has, notes):
    """bos_token, eos_token, ... -> text. tokenizer_config.json has them; special_tokens_map.json goes before it where
    there is no added_tokens_decoder, as in transformers. Other keys of that kind (image_token) are among them. `has`:
    is a text a token of tokenizer.json?"""
    config, mapped = json_of(files, "tokenizer_config.json", where), json_of(files, "special_tokens_map.json", where)
    named = {key: content_of(value) for key, value in config.items() if key.endswith("_token")}
    other = {key: content_of(value) for key, value in mapped.items() if key.endswith("_token")}
    decides = "tokenizer_config.json" if "added_tokens_decoder" in config else "special_tokens_map.json"
    for key, text in other.items():
        if text is None or named.get(key) == text:
            continue
        if named.get(key):
            used = named[key] if decides == "tokenizer_config.json" else text
            notes.append(
                f"{key} is {named[key]} in tokenizer_config.json and {text} in special_tokens_map.json; {used} is "
                f"used, as transformers does"
            )
        if decides == "special_tokens_map.json":
            named[key] = text
    kind = str(config.get("tokenizer_class")).removesuffix("Fast")
    for key, text in DEFAULTS.get(kind, {}).items():
        if key not in config and not named.get(key) and has(text):
            named[key] = text
            if key == "eos_token":
                notes.append(f"tokenizer_config.json names no {key}; {text} is that of its class, {kind}")
    order = [*NAMED, *(key for key in named if key not in NAMED)]
    return {key: named[key] for key in order if named.get(key) is not None}


# ---- chat templates --------------------------------------------------------------------------------------------------


def _text(data, name, where):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: {name} is not UTF-8 text: {error}") from None


def _in_config(config, where):
    """name -> text of chat_template in tokenizer_config.json: a text, a list of named ones, or an object of them."""
    value = config.get("chat_template") or {}
    if isinstance(value, str):
        value = {"default": value}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        names = [json.dumps(entry.get("name")) for entry in value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{where}: tokenizer_config.json has two chat templates called {shorten(twice)}")
        value = {
            entry["name"] if isinstance(entry.get("name"), str) else None: entry.get("template") for entry in value
        }
    if not isinstance(value, dict):
        raise UserError(f"{where}: chat_template in tokenizer_config.json is no text: {shorten(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not TEMPLATE_NAME.fullmatch(name):
            raise UserError(f"{where}: {shorten(name)} is not a name for a chat template in tokenizer_config.json")
        if not isinstance(text, str) or "\0" in text:
            raise UserError(f"{where}: chat_template in tokenizer_config.json is no text: {shorten(text)}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"{where}: chat_template in tokenizer_config.json has half of a surrogate pair") from None
    return value


def chat_templates(files, where, notes):
    """Name -> text of all chat templates; "default" is the one without a name. Files go before tokenizer_config.json,
    as in transformers."""
    found = {}
    for name, data in files.items():
        template = NAMED_TEMPLATE.fullmatch(name)
        if template or name == "chat_template.jinja":
            found[template[1] if template else "default"] = _text(data, name, where)
    in_config = _in_config(json_of(files, "tokenizer_config.json", where), where)
    for name, text in in_config.items():
        if name in found and found[name] != text:
            notes.append(
                f"the chat template{'' if name == 'default' else ' ' + name} is in a file and, in other words, in "
                "tokenizer_config.json; the file is used, as transformers does"
            )
    found = {name: text for name, text in (in_config | found).items() if text}
    if len(found) > MOST_TEMPLATES:
        raise UserError(f"{where} has {len(found)} chat templates; remove some ({MOST_TEMPLATES} may stay)")
    return found


def template_files(templates):
    """Name -> bytes, as the files of a tokenizer have them."""
    return {
        "chat_template.jinja" if name == "default" else f"chat_template_{name}.jinja": text.encode()
        for name, text in templates.items()
    }


def stored_files(file, path):
    """Name -> bytes of the files in /tokenizer of a model.h5 or a checkpoint, with the chat templates of a checkpoint's
    data."""
    group, templates = file["tokenizer"], stored_templates(file)
    files = {name: group[name][...].tobytes() for name in group if is_file(name)}
    return files if templates is None else with_templates(files, templates, path)


def stored_templates(file):
    """Those in /templates of a pairs.h5 or a checkpoint, which the data were made with; None where it does not say."""
    if "templates" not in file or not len(file["templates"]):
        return None
    group = file["templates"]
    return chat_templates({name: group[name][...].tobytes() for name in group if is_file(name)}, file.filename, [])


def template_digest(templates):
    """sha256 of the only template; of several, of their names and texts."""
    if set(templates) <= {"default"}:
        return sha256(templates.get("default", ""))
    return sha256("".join(f"{name}\0{templates[name]}\0" for name in sorted(templates)))


def with_templates(files, templates, where):
    """The same files with these chat templates and no others."""
    if chat_templates(files, where, []) == templates:
        return files
    kept = {
        name: data
        for name, data in files.items()
        if name != "chat_template.jinja" and not NAMED_TEMPLATE.fullmatch(name)
    }
    config = json_of(files, "tokenizer_config.json", where)
    if config.pop("chat_template", None) is not None:
        kept["tokenizer_config.json"] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    return kept | template_files(templates)
