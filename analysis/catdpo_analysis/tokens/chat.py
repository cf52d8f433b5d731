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

from catdpo_analysis.files import h5io
from catdpo_analysis.files.digest import sha256
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files.json_file import read_json
from catdpo_analysis.tokens.tokenizer import guarded, settle
from catdpo_analysis.tokens.tokenizer_files import chat_templates, read_files, stored_files, template_digest


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


def _with_reasoning(message):
    """A message with its reasoning under both names that templates know, as transformers hands it to them."""
    names = ("reasoning_content", "thinking", "reasoning")
    reasoning = next((message[name] for name in names if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


class ChatTokenizer:
    """`encode` and `render` give token ids and texts; `named`: "eos_token" -> text; `eos` is the text of the end token
    or None; `templates`: name -> text of the chat templates; digests as the trainer checks them; `notes`: lines about
    what was decided between the tokenizer's files; `positions`: how long a sequence of the model may be, or None;
    `files`: as they belong into /tokenizer."""

    def __init__(self, files, where, template=None, positions=None):
        """`files`: name -> bytes, as in /tokenizer of model.h5. `template`: a text that replaces the files' chat
        templates."""
        self.where, self.positions, self.notes = where, positions, []
        settled = settle(files, where, self.notes)
        self.tokenizer, self.vocab_size, self.named, self.files = (
            settled.tokenizer,
            settled.size,
            settled.named,
            settled.files,
        )
        self.eos = self.named.get("eos_token")
        self.eos_id, self.bos_id, self.unknown_id = (
            self.id_of(self.named[name]) if name in self.named else None
            for name in ("eos_token", "bos_token", "unk_token")
        )
        self.templates = chat_templates(files, where, self.notes) if template is None else {"default": template}
        self.compiled = {name: self._compile(text) for name, text in self.templates.items() if text}
        self.tokenizer_digest = sha256(self.files["tokenizer.json"])
        self.template_digest = template_digest(self.templates)

    def _compile(self, text):
        try:
            with time_limit(SECONDS, f"{self.where}: the chat template takes longer than {SECONDS} s to compile"):
                return compile_template(text)
        except UserError:
            raise
        except Exception as error:  # jinja2's parser raises several kinds
            raise UserError(f"{self.where}: the chat template is not valid: {shorten(error, 160)}") from None

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
            group, model = file.get("tokenizer"), file["model"].attrs
            if group is None or "tokenizer.json" not in group:
                raise UserError(f"{path} holds no tokenizer; name its folder with --tokenizer")
            files = stored_files(file, path)
            tokenizer = cls(files, path, template, positions_of(model))
        if tokenizer.files != files:
            raise UserError(
                f"{path} was imported by a version that read tokenizer.json alone, and its other files say more "
                f"({tokenizer.notes[0]}); import the model again"
            )
        return tokenizer

    @classmethod
    def from_folder(cls, folder, template=None):
        """From a folder with tokenizer.json."""
        files = read_files(folder)
        if "tokenizer.json" not in files:
            raise UserError(
                f"{folder} has no tokenizer.json; make one with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        config, positions = os.path.join(folder, "config.json"), None
        if os.path.isfile(config):
            found = read_json(config).get("max_position_embeddings")
            positions = found if isinstance(found, int) and found > 0 else None
        return cls(files, folder, template, positions)

    def encode(self, texts, special_tokens):
        """Lists of token ids of plain texts; `special_tokens`: add what the tokenizer puts around a text, such as
        BOS."""
        encoded = guarded(
            lambda: self.tokenizer.encode_batch(texts, add_special_tokens=special_tokens),
            f"{self.where}: tokenizer.json cannot encode a text",
        )
        return [encoding.ids for encoding in encoded]

    def offsets(self, text, special_tokens):
        """(first character, end) of each token of a text; (0, 0) for what the tokenizer puts around it."""
        return self.tokenizer.encode(text, add_special_tokens=special_tokens).offsets

    def id_of(self, token):
        """The id of a token's text, or None."""
        return None if re.search("[\ud800-\udfff]", token) else self.tokenizer.token_to_id(token)

    def token(self, number):
        """The text of a token id, or None."""
        return self.tokenizer.id_to_token(number) if 0 <= number < self.vocab_size else None

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


def positions_of(attributes):
    """How long a sequence the model of these attributes of /model may be."""
    positions = int(attributes["max_position_embeddings"])
    kind = attributes["rope_type"]
    scaled = (kind.decode() if isinstance(kind, bytes) else kind) == "linear"
    return int(positions * max(1.0, float(attributes["rope_factor"]))) if scaled else positions
