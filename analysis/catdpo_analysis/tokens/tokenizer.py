"""A tokenizer as transformers has it: tokenizer.json with what the other files say over it.

tokenizer.json alone is not the whole: tokens of added_tokens_decoder, named special tokens and added_tokens.json belong
to it, and a special token is one token, whatever tokenizer.json says about normalizing it. What is settled here is
stored, so that tokenizer.json in a model.h5 and in an exported folder says all of it.
"""

import dataclasses
import json

from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers

from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.tokens.tokenizer_files import content_of, json_of, named_tokens, unused_keys

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
SELDOM = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")  # texts to train on do not hold them
LARGEST_ID = 1 << 30
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LOWER, UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
TEKKEN_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT_PROBE = "It's 2024:\n\nof 12345 items\t, not 7."


@dataclasses.dataclass
class Settled:
    """`files`: name -> bytes, with a tokenizer.json that needs no other file. `named`: "eos_token" -> text. `size`:
    number of token ids."""

    tokenizer: Tokenizer
    size: int
    named: dict
    files: dict


def guarded(call, message):
    """What `call` returns; the library's errors, and panics that are no Exception, as UserError."""
    try:
        return call()
    except BaseException as error:
        if isinstance(error, UserError) or not (
            isinstance(error, Exception) or type(error).__name__ == "PanicException"
        ):
            raise
        raise UserError(f"{message}: {shorten(error, 160)}") from None


def read_tokenizer(data, where):
    """(tokenizer, number of token ids) from the bytes of tokenizer.json."""

    def read():
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
        return tokenizer, max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    tokenizer, size = guarded(read, f"{where}: tokenizer.json cannot be read")
    if size == 0:
        raise UserError(f"{where}: tokenizer.json holds no tokens")
    return tokenizer, size


def _flags(token):
    return tuple(bool(getattr(token, flag)) for flag in FLAGS)


def _decoder_tokens(config, named, where):
    """(id, AddedToken) of added_tokens_decoder in tokenizer_config.json, by id."""
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise UserError(f"{where}: added_tokens_decoder in tokenizer_config.json is not an object")
    told = []
    for key, entry in decoder.items():
        content = content_of(entry)
        if not (key.isascii() and key.isdigit() and int(key) < LARGEST_ID) or content is None:
            raise UserError(f"{where}: added_tokens_decoder in tokenizer_config.json: {shorten(key)} is no token")
        flags = {flag: entry[flag] for flag in FLAGS if isinstance(entry, dict) and isinstance(entry.get(flag), bool)}
        if content in named.values():
            flags["special"] = True
        told.append((int(key), AddedToken(content, **flags)))
    return sorted(told, key=lambda entry: entry[0])


def _legacy_tokens(files, special, where):
    """(id, AddedToken) of added_tokens.json, by id."""
    told = []
    for content, index in json_of(files, "added_tokens.json", where).items():
        valid = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < LARGEST_ID
        if not valid or content_of(content) is None:
            raise UserError(f"{where}: added_tokens.json: {shorten(content)} has no valid id")
        told.append((index, AddedToken(content, normalized=content not in special, special=content in special)))
    return sorted(told, key=lambda entry: entry[0])


def _extra_tokens(files, config, where):
    """Texts of the special tokens without a name."""
    texts = []
    sources = [config]
    if "added_tokens_decoder" not in config:
        sources.append(json_of(files, "special_tokens_map.json", where))
    for source in sources:
        for key in ("model_specific_special_tokens", "extra_special_tokens", "additional_special_tokens"):
            values = source.get(key) or []
            values = list(values.values()) if isinstance(values, dict) else values
            if not isinstance(values, list):
                raise UserError(f"{where}: {key} is no list of tokens: {shorten(values)}")
            texts += [text for text in map(content_of, values) if text]
    return texts


def _told_tokens(tokenizer, files, named, where, notes):
    """(id or None, AddedToken) of what the other files tell, in the order in which transformers adds them."""
    config = json_of(files, "tokenizer_config.json", where)
    extra = _extra_tokens(files, config, where)
    told = _decoder_tokens(config, named, where)
    legacy = _legacy_tokens(files, {*named.values(), *extra}, where)
    if "added_tokens_decoder" in config:  # then transformers does not read added_tokens.json
        known = {token.content for _, token in told}
        unused = [t.content for _, t in legacy if t.content not in known and tokenizer.token_to_id(t.content) is None]
        if unused:
            notes.append(
                f"{len(unused)} of added_tokens.json not used, as in transformers: {shorten(', '.join(unused))}"
            )
        legacy = [entry for entry in legacy if entry[1].content not in unused]
        told += [entry for entry in legacy if entry[1].content not in known]
        _check_unique(told + legacy, where)
    else:
        told = legacy
    _check_unique(told, where)
    known = {token.content for _, token in told}
    nameless = [text for text in dict.fromkeys([*named.values(), *extra]) if text not in known]
    never = {named[key] for key in SELDOM if key in named} - {named.get(key) for key in ("bos_token", "eos_token")}
    never -= set(extra)
    while nameless and nameless[-1] in never and tokenizer.token_to_id(nameless[-1]) is None:
        notes.append(f"{nameless.pop()} is named in tokenizer_config.json and is no token of tokenizer.json: left out")
    return told + [(None, AddedToken(text, normalized=False, special=True)) for text in nameless]


def _check_unique(told, where):
    """One id, one token."""
    by_id, by_text = {}, {}
    for index, token in told:
        other, elsewhere = by_id.setdefault(index, token.content), by_text.setdefault(token.content, index)
        if other != token.content or elsewhere != index:
            what = (
                f"{shorten(other)} and {shorten(token.content)} are both"
                if other != token.content
                else (f"{shorten(token.content)} is token {elsewhere} and also")
            )
            raise UserError(
                f"{where}: {what} token {index} in tokenizer_config.json and added_tokens.json; take all files from "
                f"the same model"
            )


def _check_ids(tokenizer, told, where):
    """The ids that the files tell are those that the tokens have."""
    for index, token in told:
        if index is None:
            continue
        found, other = tokenizer.token_to_id(token.content), tokenizer.id_to_token(index)
        if found != index or other != token.content:
            has = f"gives it {found}" if found is not None else f"has {shorten(other)} there"
            raise UserError(
                f"{where}: {shorten(token.content)} is token {index} in tokenizer_config.json or added_tokens.json, "
                f"but tokenizer.json {has}; take all files from the same model"
            )


def _add(tokenizer, told, named, notes):
    """Adds what tokenizer.json lacks and gives known tokens the flags that the files tell."""
    there = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    new = []
    for index, token in told:
        old = there.get(token.content)
        if old is None or (index is not None and _flags(old) != _flags(token)):
            new.append(token)
        elif token.content in named.values() and not old.special:
            flags = {flag: getattr(old, flag) for flag in FLAGS} | {"special": True}
            new.append(AddedToken(token.content, **flags))
    added = [token.content for token in new if tokenizer.token_to_id(token.content) is None]
    changed = [token.content for token in new if token.content not in added]
    tokenizer.add_tokens(new)
    for names, what in (
        (added, "not in tokenizer.json: added, as transformers does"),
        (changed, "marked otherwise in tokenizer_config.json than in tokenizer.json: as the former says"),
    ):
        if names:
            notes.append(f"{len(names)} token{'s' if len(names) > 1 else ''} {what}: {shorten(', '.join(names))}")
    return bool(new)


def _make_whole(tokenizer, named, notes):
    """A special token that is not found inside a text (because it is normalized, or only taken as a word) is made one
    that is."""
    added = tokenizer.get_added_tokens_decoder()
    special = {i: token for i, token in added.items() if token.special or token.content in named.values()}
    if not special:
        return False
    texts = [f"a{token.content}a" for token in special.values()]
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    broken = [token for (i, token), encoding in zip(special.items(), encoded) if i not in encoding.ids]
    tokenizer.add_tokens(
        [
            AddedToken(token.content, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False, special=True)
            for token in broken
        ]
    )
    if broken:
        notes.append(
            f"{len(broken)} special token{'s' if len(broken) > 1 else ''} that tokenizer.json would split in a text: "
            f"{shorten(', '.join(token.content for token in broken))} (made one token each)"
        )
    return bool(broken)


def _patterns(tokenizer):
    """Regular expressions that texts are split by."""
    steps = json.loads(tokenizer.to_str()).get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    return [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]


def _compare_settings(tokenizer, config, named, where, notes):
    """Settings of tokenizer_config.json that tokenizer.json decides."""
    if config.get("split_special_tokens"):
        raise UserError(f"{where}: split_special_tokens = true (tokenizer_config.json) is not supported")
    if config.get("fix_mistral_regex") and TEKKEN_SPLIT not in _patterns(tokenizer):
        raise UserError(
            f"{where}: fix_mistral_regex = true (tokenizer_config.json) asks for another split of texts than "
            "tokenizer.json has; save the tokenizer again with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    plain, around = (tokenizer.encode("a", add_special_tokens=add).ids for add in (False, True))
    at = next((i for i in range(len(around)) if around[i : i + len(plain)] == plain), 0)
    parts = {"bos": around[:at], "eos": around[at + len(plain) :]}
    for name, ids in parts.items():
        told, text = config.get(f"add_{name}_token"), named.get(f"{name}_token")
        if isinstance(told, bool) and text and told != (tokenizer.token_to_id(text) in ids):
            notes.append(
                f"tokenizer_config.json says add_{name}_token = {str(told).lower()}, tokenizer.json does "
                f"{'not add it' if told else 'add it'}, and decides, as in transformers"
            )
    kind = str(config.get("tokenizer_class")).removesuffix("Fast")
    bos = named.get("bos_token")
    if kind == "LlamaTokenizer" and bos and not config.get("legacy"):
        behind = tokenizer.encode(f"{bos}a", add_special_tokens=False).tokens[1:2]
        if behind and behind[0].startswith("\u2581"):
            notes.append(
                "tokenizer.json puts a space between a special token and what follows it, its class LlamaTokenizer "
                "does not (legacy is not true): tokenizer.json is used (transformers 5 builds it anew by the class)"
            )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "GPT2Tokenizer")
    if kind == "Qwen2Tokenizer":
        split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated")
        byte_level = pre_tokenizers.Sequence([split, byte_level])
    if kind in ("GPT2Tokenizer", "Qwen2Tokenizer") and tokenizer.pre_tokenizer is not None:
        pieces = [
            [piece for piece, _ in p.pre_tokenize_str(SPLIT_PROBE)] for p in (byte_level, tokenizer.pre_tokenizer)
        ]
        if pieces[0] != pieces[1]:
            notes.append(
                f"tokenizer.json splits texts otherwise than its class {kind}: tokenizer.json is used (transformers 5 "
                "builds it anew by the class)"
            )


def settle(files, where, notes):
    """The tokenizer that all files together describe, or UserError where they contradict each other. `notes` gets a
    line for whatever was decided."""
    tokenizer, _ = read_tokenizer(files["tokenizer.json"], where)
    cut, padded = tokenizer.truncation, tokenizer.padding
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = json_of(files, "tokenizer_config.json", where)
    named = named_tokens(files, where, lambda text: tokenizer.token_to_id(text) is not None, notes)
    told = _told_tokens(tokenizer, files, named, where, notes)
    occupied = [(i, t) for i, t in told if i is not None and tokenizer.id_to_token(i) is not None]
    _check_ids(tokenizer, occupied, where)

    def change():
        changed = _add(tokenizer, told, named, notes)
        changed |= _make_whole(tokenizer, named, notes)
        return changed

    changed = guarded(change, f"{where}: the tokens of tokenizer_config.json do not go with tokenizer.json")
    _check_ids(tokenizer, told, where)
    guarded(
        lambda: _compare_settings(tokenizer, config, named, where, notes),
        f"{where}: tokenizer.json cannot encode a text",
    )
    notes += filter(None, [unused_keys(files, where)])
    if changed:
        written = json.loads(tokenizer.to_str())
        if cut or padded:  # kept for others; here nothing is cut or padded
            original = json.loads(files["tokenizer.json"])
            written |= {key: original.get(key) for key in ("truncation", "padding")}
        files = files | {"tokenizer.json": json.dumps(written, ensure_ascii=False, indent=2).encode()}
        tokenizer, _ = read_tokenizer(files["tokenizer.json"], where)  # what was changed in place keeps old texts
        tokenizer.no_truncation()
        tokenizer.no_padding()
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return Settled(tokenizer, size, named, files)


def decoder_of(tokenizer):
    """The description of its decoder in tokenizer.json, as Python values."""
    return json.loads(tokenizer.to_str()).get("decoder")
