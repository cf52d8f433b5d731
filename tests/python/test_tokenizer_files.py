"""A tokenizer is what all of its files say together, as transformers has it: a named special token is one token."""

import json

import pytest
from conftest import CHATML, train_bpe
from tokenizers import AddedToken, Tokenizer
from tokenizers_of_kinds import entry, files_of, sentencepiece_of, without

from catdpo_analysis.errors import UserError
from catdpo_analysis.tokens.chat import ChatTokenizer

TEXT = "the sky is blue<|im_end|>\nthe grass"


def chat(files):
    return ChatTokenizer(files, "here")


def tokens(tokenizer, text=TEXT):
    return [tokenizer.token(i) for i in tokenizer.encode([text], special_tokens=False)[0]]


def whole(tokenizer, token="<|im_end|>", text=TEXT):
    """The token is one token in the text, and the file that is stored says so alone."""
    alone = ChatTokenizer({"tokenizer.json": tokenizer.files["tokenizer.json"]}, "alone")
    again = chat(tokenizer.files)
    assert again.files == tokenizer.files and again.tokenizer_digest == tokenizer.tokenizer_digest
    return all(tokens(one, text).count(token) == text.count(token) for one in (tokenizer, alone, again))


def larger():
    """A tokenizer whose last two ids are free for tokens that only other files name."""
    tokenizer = train_bpe()
    tokenizer.add_special_tokens(["<|eot|>"])
    return tokenizer, tokenizer.token_to_id("<|eot|>"), without(tokenizer, "<|eot|>")


def test_a_tokenizer_json_that_says_all_is_stored_as_it_is():
    files = files_of()
    assert chat(files).files == files and chat(files).notes == []


@pytest.mark.parametrize("kind", ["LlamaTokenizerFast", "LlamaTokenizer", "PreTrainedTokenizerFast", None])
def test_a_named_token_that_is_marked_normalized_is_one_token_all_the_same(kind):
    text = "abc</s>bc <s>a"
    config = {"eos_token": "</s>", "bos_token": {"content": "<s>", "normalized": True}, "tokenizer_class": kind}
    files = files_of(sentencepiece_of(normalized=True), config)
    assert "</s>" not in Tokenizer.from_str(files["tokenizer.json"].decode()).encode(text).tokens
    tokenizer = chat(files)
    assert whole(tokenizer, "</s>", text) and whole(tokenizer, "<s>", text)
    assert any("</s> (made one token each)" in note for note in tokenizer.notes)


def test_a_special_token_that_is_only_taken_as_a_word_is_one_token_all_the_same():
    tokenizer = train_bpe()
    tokenizer.add_tokens([AddedToken("<|im_end|>", single_word=True, special=True)])
    assert whole(chat(files_of(tokenizer)))


@pytest.mark.parametrize(
    "config, more",
    [
        ({"added_tokens_decoder": True}, {}),
        ({}, {}),
        ({"eos_token": {"content": "<|eot|>", "lstrip": False}}, {}),
        ({"eos_token": None, "additional_special_tokens": ["<|eot|>"]}, {}),
        ({"eos_token": None, "extra_special_tokens": {"turn_token": "<|eot|>"}}, {}),
        ({"eos_token": None, "turn_token": "<|eot|>"}, {}),
        ({"eos_token": None}, {"special_tokens_map": {"eos_token": {"content": "<|eot|>"}}}),
        ({"eos_token": None}, {"special_tokens_map": {"additional_special_tokens": [{"content": "<|eot|>"}]}}),
        ({}, {"added_tokens": True}),
        ({"eos_token": None}, {"added_tokens": True}),
    ],
    ids=str,
)
def test_a_token_that_only_another_file_names_is_added_under_the_next_id(config, more):
    full, i, tokenizer = larger()
    config = {"eos_token": "<|eot|>"} | config
    if config.get("added_tokens_decoder"):
        config["added_tokens_decoder"] = {str(i): entry("<|eot|>")}
    more = {name: {"<|eot|>": i} if value is True else value for name, value in more.items()}
    found = chat(files_of(tokenizer, config, **more))
    text = "the sky<|eot|>is"
    assert found.encode([text], False)[0] == full.encode(text, add_special_tokens=False).ids
    assert whole(found, "<|eot|>", text) and found.vocab_size == i + 1
    assert any("not in tokenizer.json: added" in note and "<|eot|>" in note for note in found.notes)


def test_flags_of_added_tokens_decoder_hold_over_those_of_tokenizer_json():
    tokenizer = train_bpe()
    i = tokenizer.token_to_id("<|im_end|>")
    decoder = {str(i): entry("<|im_end|>", rstrip=True)}
    found = chat(files_of(tokenizer, {"eos_token": "<|im_end|>", "added_tokens_decoder": decoder}))
    assert found.tokenizer.get_added_tokens_decoder()[i].rstrip and any("otherwise" in note for note in found.notes)
    assert whole(found)


@pytest.mark.parametrize(
    "config, more, named",
    [
        ({"added_tokens_decoder": {"5": entry("<|im_end|>")}}, {}, "is token 5 in tokenizer_config.json"),
        ({"added_tokens_decoder": {"2": entry("<|other|>")}}, {}, "is token 2 in tokenizer_config.json"),
        ({"added_tokens_decoder": {"9000": entry("<|new|>")}}, {}, "is token 9000 in tokenizer_config.json"),
        ({}, {"added_tokens": {"<|new|>": 9000}}, "is token 9000 in tokenizer_config.json or added_tokens.json"),
        ({}, {"added_tokens": {"<|im_end|>": 5}}, "is token 5 in"),
        (
            {"added_tokens_decoder": {"2": entry("<|im_end|>")}},
            {"added_tokens": {"<|im_end|>": 5}},
            "is token 2 and also token 5",
        ),
        ({"added_tokens_decoder": {"-1": entry("x")}}, {}, "is no token"),
        ({"added_tokens_decoder": {"2": 7}}, {}, "is no token"),
        ({"added_tokens_decoder": [1]}, {}, "not an object"),
        ({}, {"added_tokens": {"<|im_end|>": "2"}}, "has no valid id"),
        ({"additional_special_tokens": "x"}, {}, "no list of tokens"),
        ({"split_special_tokens": True}, {}, "split_special_tokens"),
        ({"chat_template": [{"name": "a", "template": "1"}, {"name": "a", "template": "2"}]}, {}, "two chat templates"),
        ({"chat_template": {"a/b": "x"}}, {}, "not a name for a chat template"),
        ({}, {"tokenizer_config.json": '{"eos_token": "a", "eos_token": "b"}'}, "there twice"),
    ],
    ids=str,
)
def test_files_that_contradict_each_other_are_refused(config, more, named):
    with pytest.raises(UserError, match="here") as error:
        chat(files_of(None, {"eos_token": "<|im_end|>"} | config, **more))
    assert named in str(error.value)


@pytest.mark.parametrize("decoder", [True, False])
def test_of_two_files_that_name_another_eos_token_the_one_that_transformers_takes_is_used_and_said(decoder):
    config = {"eos_token": "<|im_end|>"} | ({"added_tokens_decoder": {}} if decoder else {})
    found = chat(files_of(None, config, special_tokens_map={"eos_token": "<|endoftext|>"}))
    assert found.eos == ("<|im_end|>" if decoder else "<|endoftext|>")
    assert any("eos_token is <|im_end|> in tokenizer_config.json and <|endoftext|>" in note for note in found.notes)


def test_an_eos_token_that_no_file_names_is_that_of_the_class():
    found = chat(files_of(sentencepiece_of(), {"tokenizer_class": "LlamaTokenizerFast"}))
    assert (
        found.eos == "</s>" and found.named["bos_token"] == "<s>" and any("its class" in note for note in found.notes)
    )
    assert chat(files_of(sentencepiece_of(), {"tokenizer_class": "LlamaTokenizer", "eos_token": None})).eos is None
    assert chat(files_of(train_bpe(), {"tokenizer_class": "LlamaTokenizer"})).eos is None  # it has no </s>


def test_a_padding_token_that_nobody_writes_is_left_out_unless_ids_depend_on_it():
    tokenizer = train_bpe()
    size = tokenizer.get_vocab_size()
    config = {"eos_token": "<|im_end|>", "pad_token": "[PAD]"}
    found = chat(files_of(tokenizer, config))
    assert found.vocab_size == size and any("[PAD]" in note and "left out" in note for note in found.notes)
    found = chat(files_of(tokenizer, config | {"additional_special_tokens": ["<|more|>"]}))
    assert (found.id_of("[PAD]"), found.id_of("<|more|>")) == (size, size + 1)  # as transformers counts


def test_settings_that_tokenizer_json_decides_are_compared():
    from tokenizers import processors

    tokenizer = sentencepiece_of()
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    assert any(
        "add_bos_token = true" in note for note in chat(files_of(tokenizer, config | {"add_bos_token": True})).notes
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert chat(files_of(tokenizer, config | {"add_bos_token": True, "add_eos_token": False})).notes == []
    notes = chat(files_of(tokenizer, config | {"add_bos_token": False})).notes
    assert any("tokenizer.json does add it" in note for note in notes)
    llama = config | {"tokenizer_class": "LlamaTokenizerFast"}
    assert any("puts a space between" in note for note in chat(files_of(tokenizer, llama)).notes)
    assert chat(files_of(tokenizer, llama | {"legacy": True})).notes == []
    assert chat(files_of(sentencepiece_of(prefix=False), llama)).notes == []
    notes = chat(files_of(None, {"eos_token": "<|im_end|>", "tokenizer_class": "Qwen2TokenizerFast"})).notes
    assert any("splits texts otherwise than its class Qwen2Tokenizer" in note for note in notes)


def test_truncation_and_padding_of_tokenizer_json_stay_in_the_file_and_cut_nothing():
    _, i, tokenizer = larger()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    found = chat(files_of(tokenizer, {"eos_token": "<|eot|>"}))
    assert len(found.encode([TEXT], False)[0]) > 4 and whole(found, "<|eot|>", "a<|eot|>")
    stored = json.loads(found.files["tokenizer.json"])
    assert stored["truncation"]["max_length"] == 4 and stored["padding"]["pad_id"] == 0


# ---- chat templates --------------------------------------------------------------------------------------------------

MESSAGES, TOOLS = [{"role": "user", "content": "hi"}], [{"type": "function", "function": {"name": "f"}}]
WITH_TOOLS = "{% if tools %}TOOLS {% endif %}" + CHATML


@pytest.mark.parametrize(
    "config, more, wanted, note",
    [
        ({"chat_template": "c"}, {}, {"default": "c"}, None),
        ({}, {"chat_template.jinja": "f"}, {"default": "f"}, None),
        ({"chat_template": "f"}, {"chat_template.jinja": "f"}, {"default": "f"}, None),
        ({"chat_template": "c"}, {"chat_template.jinja": "f"}, {"default": "f"}, "the file is used"),
        ({"chat_template": {"default": "c", "tool_use": "t"}}, {}, {"default": "c", "tool_use": "t"}, None),
        ({"chat_template": [{"name": "rag", "template": "r"}]}, {}, {"rag": "r"}, None),
        (
            {"chat_template": [{"name": "default", "template": "c"}, {"name": "tool_use", "template": "t"}]},
            {"chat_template_tool_use.jinja": "u"},
            {"default": "c", "tool_use": "u"},
            "chat template tool_use is in a file",
        ),
        ({"chat_template": None}, {}, {}, None),
    ],
    ids=str,
)
def test_several_chat_templates_are_all_read_and_compared(config, more, wanted, note):
    found = chat(files_of(None, {"eos_token": "<|im_end|>"} | config, **more))
    assert found.templates == wanted
    assert [line for line in found.notes if note and note in line] or not note and not found.notes


def test_a_row_with_tools_gets_the_template_for_tools():
    named = {"chat_template": {"default": CHATML, "tool_use": WITH_TOOLS}}
    found = chat(files_of(None, named))
    assert found.render(MESSAGES, tools=TOOLS).startswith("TOOLS ") and not found.render(MESSAGES).startswith("TOOLS ")
    assert chat(files_of(None, {"chat_template": WITH_TOOLS})).render(MESSAGES, tools=TOOLS).startswith("TOOLS ")
    only = chat(files_of(None, {"chat_template": {"tool_use": WITH_TOOLS}}))
    with pytest.raises(UserError, match=r"several chat templates \(tool_use\) and none for this"):
        only.render(MESSAGES)


def test_the_digest_of_templates_tells_names_and_texts_apart():
    def digest(config):
        return chat(files_of(None, config)).template_digest

    one = digest({"chat_template": "a"})
    assert one == digest({"chat_template": {"default": "a"}})
    others = [{"default": "a", "tool_use": "b"}, {"default": "ab", "tool_use": ""}, {"tool_use": "a"}, {"default": "b"}]
    digests = [digest({"chat_template": value}) for value in others]
    assert len({one, *digests}) == 5
