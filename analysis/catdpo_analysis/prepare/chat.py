"""A model's tokenizer and chat template: from model.h5 or from a folder, without a deep-learning framework.

The template runs in jinja2's sandbox with the helpers that templates on the Hub rely on, so that a rendered text is
the same as that of transformers' apply_chat_template. A template is somebody else's program: it has some seconds and
some memory, and reaches nothing but its arguments.
"""

import contextlib
import datetime
import json
import os
import re
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

TEMPLATE_FILE = re.compile(
    r"chat_template(?:_([\w.-]+))?\.jinja", re.ASCII
)  # those with a name: NAME.jinja of a folder
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


def digest_of(templates):
    """sha256 of the only template; of several, of their names and texts."""
    if set(templates) <= {"default"}:
        return sha256(templates.get("default", ""))
    return sha256("".join(f"{name}\0{templates[name]}\0" for name in sorted(templates)))


def _with_reasoning(message):
    """A message with its reasoning under both names that templates know, as transformers hands it to them."""
    names = ("reasoning_content", "thinking", "reasoning")
    reasoning = next((message[name] for name in names if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


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
        self.eos_id, self.bos_id, self.unknown_id = (
            self.id_of(self.named[name]) if name in self.named else None
            for name in ("eos_token", "bos_token", "unk_token")
        )
        self.templates = self._templates(files, config) if template is None else {"default": template}
        self.template_text = self.templates.get("default", "")
        self.compiled = {name: self._compile(text) for name, text in self.templates.items() if text}
        self.tokenizer_digest = sha256(files["tokenizer.json"])
        self.template_digest = digest_of(self.templates)

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

    def _templates(self, files, config):
        """Name -> text of the chat templates: those in files, else those of tokenizer_config.json, one or several with
        names; "default" is the one without a name."""
        texts = {}
        for name, data in files.items():
            template = TEMPLATE_FILE.fullmatch(name)
            if template:
                try:
                    texts[template[1] or "default"] = data.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(f"{self.where}: {name} is not UTF-8 text: {error}") from None
        if texts:
            return texts
        found = config.get("chat_template") or {}
        if isinstance(found, list):  # several named ones
            found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        texts = {"default": found} if isinstance(found, str) else found
        where = f"{self.where}: chat_template in tokenizer_config.json"
        for text in texts.values() if isinstance(texts, dict) else [texts]:
            if not isinstance(text, str) or "\0" in text:
                raise UserError(f"{where} is no text: {shorten(text)}")
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise UserError(f"{where} has half of a surrogate pair") from None
        return texts

    def template_for(self, tools):
        """The name of the template for a conversation with these tools, as transformers chooses it, or None."""
        names = ("tool_use", "default") if tools is not None else ("default",)
        return next((name for name in names if name in self.compiled), None)

    @property
    def has_template(self):
        return bool(self.compiled)

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
        paths = {name: os.path.join(folder, name) for name in TOKENIZER_FILES}
        more = os.path.join(folder, "additional_chat_templates")
        if os.path.isdir(more):
            paths |= {f"chat_template_{name}": os.path.join(more, name) for name in sorted(os.listdir(more))}
        for name, path in paths.items():
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

    def id_of(self, token):
        """The id of a token's text, or None."""
        return self.tokenizer.token_to_id(token)

    def token(self, number):
        return self.tokenizer.id_to_token(number)

    def decode(self, ids):
        """The text of token ids, special tokens included."""
        return self.tokenizer.decode([int(number) for number in ids], skip_special_tokens=False)

    @property
    def specials(self):
        """Texts of the tokenizer's special tokens."""
        return tuple(token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special)

    def render(self, messages, add_generation_prompt=False, **extra):
        """The text of a conversation, as the chat template writes it; with tools the one that is named tool_use, where
        there is one."""
        name = self.template_for(extra.get("tools"))
        if name is None:
            raise UserError(
                f"{self.where} has several chat templates ({', '.join(sorted(self.templates))}) and none for this "
                "conversation; name one with --chat-template FILE"
                if self.templates
                else f"{self.where} has no chat template; name one with --chat-template FILE"
            )
        cleaned = [_with_reasoning({k: v for k, v in message.items() if v is not None}) for message in messages]
        extra = {"tools": None, "documents": None} | self.named | extra
        try:
            with time_limit(SECONDS, f"the chat template takes longer than {SECONDS} s for this conversation"):
                text = self.compiled[name].render(
                    messages=cleaned, add_generation_prompt=add_generation_prompt, **extra
                )
                text.encode("utf-8")
        except UserError:
            raise
        except Exception as error:  # a template can raise anything
            raise UserError(f"the chat template refuses this conversation: {shorten(error, 200)}") from None
        if len(text) > MOST_TEXT:
            raise UserError(f"the chat template writes {len(text)} characters for this conversation")
        return text
