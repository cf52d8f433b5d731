"""A model's tokenizer and chat template: from model.h5 or from a folder, without a deep-learning framework.

The template runs in jinja2's sandbox with the helpers that templates on the Hub rely on, so that a rendered text is
the same as that of transformers' apply_chat_template. A template is somebody else's program: it has some seconds and
some memory, and reaches nothing but its arguments.
"""

import contextlib
import datetime
import json
import os
import signal
import threading

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from tokenizers import Tokenizer

from catdpo_analysis.files import h5io
from catdpo_analysis.files.digest import sha256
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.models.hf_source import TOKENIZER_FILES

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks the assistant's text in some templates; here it only renders
    its body."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


SECONDS = 5  # for a template to be compiled, or to write one conversation; it takes milliseconds
MOST_TEXT = 1 << 24  # characters of a conversation


@contextlib.contextmanager
def time_limit(seconds, message):
    """Ends the block with UserError(message) after some seconds; without a limit in other threads than the main one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame):
        raise UserError(message)

    before = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


class Sandbox(ImmutableSandboxedEnvironment):
    """No product or power that takes all memory, or longer than can be interrupted."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context, operator, left, right):
        numbers = [value for value in (left, right) if isinstance(value, (int, float))]
        sequences = [value for value in (left, right) if isinstance(value, (str, bytes, list, tuple))]
        if operator == "**" and (len(numbers) < 2 or abs(left) > 1 << 32 or abs(right) > 64):
            raise SecurityError("a power beyond what a chat template needs")
        if operator == "*" and sequences and numbers and len(sequences[0]) * abs(numbers[0]) > MOST_TEXT:
            raise SecurityError("a repetition beyond what a chat template needs")
        return super().call_binop(context, operator, left, right)


def read_tokenizer(data, where):
    """(tokenizer, number of token ids) from the bytes of tokenizer.json."""
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
        size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    except BaseException as error:  # the library raises plain Exception; a panic of its own is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{where}: tokenizer.json cannot be read: {shorten(error, 160)}") from None
    if size == 0:
        raise UserError(f"{where}: tokenizer.json holds no tokens")
    return tokenizer, size


def compile_template(text):
    """A chat template ready to render."""

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
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
        self.tokenizer, self.vocab_size = read_tokenizer(files["tokenizer.json"], where)
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
        self.template = self._compile(self.template_text) if self.template_text else None
        self.tokenizer_digest = sha256(files["tokenizer.json"])
        self.template_digest = sha256(self.template_text)

    def _compile(self, text):
        try:
            with time_limit(SECONDS, f"{self.where}: the chat template takes longer than {SECONDS} s to compile"):
                return compile_template(text)
        except UserError:
            raise
        except Exception as error:  # jinja2's parser raises several kinds
            raise UserError(f"{self.where}: the chat template is not valid: {shorten(error, 160)}") from None

    def _json(self, files, name):
        try:
            value = json.loads(files.get(name, b"{}"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.where}: {name} is not valid JSON: {shorten(error, 160)}") from None
        return value if isinstance(value, dict) else {}

    def _template(self, files, config):
        if "chat_template.jinja" in files:
            try:
                return files["chat_template.jinja"].decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{self.where}: chat_template.jinja is not UTF-8 text: {error}") from None
        template = config.get("chat_template") or ""
        if isinstance(template, list):  # several named ones
            entries = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
            template = (entries[-1].get("template") if entries else None) or ""
        if not isinstance(template, str) or "\0" in template:
            raise UserError(f"{self.where}: chat_template in tokenizer_config.json is no text: {shorten(template)}")
        try:
            template.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"{self.where}: chat_template in tokenizer_config.json has half of a surrogate pair"
            ) from None
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
        try:
            return [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=special_tokens)]
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise UserError(f"{self.where}: tokenizer.json cannot encode a text: {shorten(error, 160)}") from None

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
            with time_limit(SECONDS, f"the chat template takes longer than {SECONDS} s for this conversation"):
                text = self.template.render(messages=cleaned, add_generation_prompt=add_generation_prompt, **extra)
                text.encode("utf-8")
        except UserError:
            raise
        except Exception as error:  # a template can raise anything
            raise UserError(f"the chat template refuses this conversation: {shorten(error, 200)}") from None
        if len(text) > MOST_TEXT:
            raise UserError(f"the chat template writes {len(text)} characters for this conversation")
        return text
