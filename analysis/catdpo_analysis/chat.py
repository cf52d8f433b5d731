"""A model's tokenizer and chat template: from model.h5 or from a folder, without a deep-learning framework.

The template runs in jinja2's sandbox with the helpers that templates on the Hub rely on, so that a rendered text is
the same as that of transformers' apply_chat_template.
"""

import datetime
import json
import os

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from catdpo_analysis import h5io
from catdpo_analysis.digest import sha256
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.hf_source import TOKENIZER_FILES

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks the assistant's text in some templates; here it only renders
    its body."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_template(text):
    """A chat template ready to render."""

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(text)


class ChatTokenizer:
    """`encode` and `encode_chat` give token ids; `eos` is the text of the end token or None; digests as the trainer
    checks them."""

    def __init__(self, files, where, template=None):
        """`files`: name -> bytes, as in /tokenizer of model.h5. `template`: a text that replaces the files' chat
        template."""
        self.where = where
        try:
            self.tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode("utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"{where}: tokenizer.json cannot be read: {error}") from None
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        config = self._json(files, "special_tokens_map.json") | self._json(files, "tokenizer_config.json")
        self.named = {}
        for name in NAMED:
            value = config.get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                self.named[name] = value
        self.eos = self.named.get("eos_token")
        self.template_text = self._template(files, config) if template is None else template
        try:
            self.template = compile_template(self.template_text) if self.template_text else None
        except jinja2.TemplateError as error:
            raise UserError(f"{where}: the chat template is not valid: {error}") from None
        self.tokenizer_digest = sha256(files["tokenizer.json"])
        self.template_digest = sha256(self.template_text)
        self.vocab_size = max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def _json(self, files, name):
        try:
            value = json.loads(files.get(name, b"{}"))
        except ValueError as error:
            raise UserError(f"{self.where}: {name} is not valid JSON: {error}") from None
        return value if isinstance(value, dict) else {}

    @staticmethod
    def _template(files, config):
        if "chat_template.jinja" in files:
            return files["chat_template.jinja"].decode("utf-8")
        template = config.get("chat_template") or ""
        if isinstance(template, list):  # several named ones
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = named.get("default") or ""
        return template

    @classmethod
    def from_model(cls, path, template=None):
        """From the /tokenizer group of a model.h5 or a checkpoint."""
        with h5io.open_as(path, "catdpo-model", "catdpo-checkpoint") as file:
            group = file.get("tokenizer")
            if group is None or "tokenizer.json" not in group:
                raise UserError(f"{path} holds no tokenizer; name its folder with --tokenizer")
            return cls({name: group[name][...].tobytes() for name in group}, path, template)

    @classmethod
    def from_folder(cls, folder, template=None):
        """From a folder with tokenizer.json."""
        files = {}
        for name in TOKENIZER_FILES:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    files[name] = file.read()
        if "tokenizer.json" not in files:
            raise UserError(
                f"{folder} has no tokenizer.json; make one with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        return cls(files, folder, template)

    def encode(self, texts, special_tokens):
        """Lists of token ids of plain texts; `special_tokens`: add what the tokenizer puts around a text, such as
        BOS."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=special_tokens)]

    def render(self, messages, add_generation_prompt=False, **extra):
        """The text of a conversation, as the chat template writes it."""
        if self.template is None:
            raise UserError(
                f"{self.where} has no chat template, which messages (and PKU-SafeRLHF rows) need; name one with "
                "--chat-template FILE"
            )
        cleaned = [{key: value for key, value in message.items() if value is not None} for message in messages]
        extra = {"tools": None, "documents": None} | self.named | extra
        try:
            return self.template.render(messages=cleaned, add_generation_prompt=add_generation_prompt, **extra)
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise UserError(f"the chat template refuses this conversation: {shorten(error, 200)}") from None
