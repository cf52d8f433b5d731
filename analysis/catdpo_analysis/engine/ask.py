"""The ask command: questions to one or several models, through each one's own chat template."""

import dataclasses
import json
import os
import re
import shutil
import sys
import tempfile

import numpy as np

from catdpo_analysis.engine import program
from catdpo_analysis.engine.prompts import write_tokens
from catdpo_analysis.errors import UserError, shorten
from catdpo_analysis.files import h5io
from catdpo_analysis.files.paths import expand, names_of
from catdpo_analysis.files.samples import FINISH, read_samples
from catdpo_analysis.prepare.formats import RULES, Prompt
from catdpo_analysis.prepare.prepare import read_template
from catdpo_analysis.text.side_by_side import Said, show_answers
from catdpo_analysis.tokens.chat import ChatTokenizer, positions_of

OPTIONS = {"max_tokens": "generate.max_tokens", "temperature": "generate.temperature", "seed": "generate.seed"}


def add_arguments(parser):
    parser.usage = "%(prog)s MODEL... [QUESTION...] [options]"
    parser.add_argument(
        "words",
        metavar="MODEL, QUESTION",
        nargs="+",
        help="model.h5, checkpoints or run directories (their last checkpoint), then questions; without a question, or "
        "for -, a line of standard input each",
    )
    parser.add_argument("--system", metavar="TEXT", help="system message before each question")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of an answer (default: 128)")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="0: the likeliest token each time (default); 1: as likely as the model says",
    )
    parser.add_argument("--samples", type=int, metavar="N", help="answers to each question (default: 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the draws (default: 42)")
    parser.add_argument("--chat-template", metavar="FILE", help="jinja template instead of the model's")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line for each answer instead")
    program.add_arguments(parser)


# ---- what is asked --------------------------------------------------------------------------------------------------


def model_file(path):
    """The file of a model: itself, or a run directory's final or latest checkpoint."""
    if not os.path.exists(path):
        raise UserError(f"there is no file or folder {path}; the first argument is a model, questions come after it")
    if not os.path.isdir(path):
        return path
    folder = os.path.join(path, "checkpoints")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = sorted((int(found[1]), name) for name in names if (found := re.fullmatch(r"step-(\d+)\.h5", name)))
    if "final.h5" in names or steps:
        return os.path.join(folder, "final.h5" if "final.h5" in names else steps[-1][1])
    if os.path.isfile(os.path.join(path, "config.json")) and not os.path.isfile(os.path.join(path, "metrics.h5")):
        raise UserError(f"{path} is a model of another format: catdpo-analysis import {path} --out model.h5")
    raise UserError(f"{path} holds no checkpoint yet (checkpoints/final.h5 or step-*.h5)")


def split_words(words):
    """(models, questions): models come first, and are files or folders."""
    words = [words[0], *words[1:]]
    models = [expand(words.pop(0))]
    while words and (words[0].endswith(".h5") or os.path.exists(expand_or_same(words[0]))):
        models.append(expand(words.pop(0)))
    return models, words


def expand_or_same(word):
    """A question may hold a $ that is no variable."""
    try:
        return expand(word)
    except UserError:
        return word


def read_questions(words):
    if words and words != ["-"]:
        if any(not word.strip() for word in words):
            raise UserError("a question is empty")
        return words
    if sys.stdin.isatty():
        print("Questions, one a line; Ctrl-D ends them.", file=sys.stderr)
    try:
        questions = [line.strip() for line in sys.stdin if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8: {error}") from None
    if not questions:
        raise UserError("no question: name one behind the model, or a line of standard input each")
    return questions


# ---- answers --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    text: str
    finish: str  # of FINISH
    tokens: int


def encode_questions(tokenizer, questions, system, room, where):
    """(rows, token ids) of each question as the model is asked it."""
    before = [{"role": "system", "content": system}] if system else []
    rows, texts = [], []
    for i, question in enumerate(questions):
        messages = [*before, {"role": "user", "content": question}]
        texts.append(tokenizer.render(messages, add_generation_prompt=True))
        rows.append(Prompt(categories=["all"], prompt=messages, chat=True, rule=RULES[-1], row=i))
    sequences = [np.array(ids, dtype="<i4") for ids in tokenizer.encode(texts, special_tokens=False)]
    for question, sequence in zip(questions, sequences):
        if len(sequence) >= room:
            raise UserError(
                f"{where}: the model has room for {room} tokens, and the question '{shorten(question)}' takes "
                f"{len(sequence)} with its template"
            )
    return rows, sequences


def ask(args, path, questions, template, folder):
    """A list of answers to each question."""
    file = model_file(path)
    tokenizer = ChatTokenizer.from_model(file, template)
    with h5io.open_as(file, "catdpo-model", "catdpo-checkpoint") as opened:
        room = positions_of(opened["model"].attrs)
    rows, sequences = encode_questions(tokenizer, questions, args.system, room, file)
    prompts, samples = os.path.join(folder, "prompts.h5"), os.path.join(folder, "samples.h5")
    write_tokens(prompts, tokenizer, rows, sequences, {}, {"made by": "ask", "system": args.system or ""})
    settings = {key: str(getattr(args, name)) for name, key in OPTIONS.items() if getattr(args, name) is not None}
    settings["generate.samples"] = str(args.samples or 1)
    options = ["--model", file, "--prompts", prompts, "--out", samples, "--overwrite"]
    program.run_program(args, "generate", options, settings, f"{path} answers")
    found = read_samples(samples)
    answers = {}
    for i, prompt in enumerate(found.prompt):
        answer = Answer(found.text[i], FINISH[found.finish[i]], int(found.length[i]))
        answers.setdefault(int(prompt), []).append(answer)
    place = {}  # equal questions are asked once
    return [answers[place.setdefault(sequence.tobytes(), len(place))] for sequence in sequences]


# ---- what is printed ------------------------------------------------------------------------------------------------


def said(answer):
    """With what ended it early."""
    notes = {"stop": "", "length": f"cut off after {answer.tokens} tokens", "context": "the model's context ends"}
    return Said(answer.text, notes[answer.finish])


def print_json(models, questions, answers):
    for q, question in enumerate(questions):
        for path, of_model in zip(models, answers):
            for s, answer in enumerate(of_model[q]):
                row = {"model": path, "question": question, "sample": s} | dataclasses.asdict(answer)
                print(json.dumps(row, ensure_ascii=False))


def run(args):
    models, words = split_words(args.words)
    for path in models:
        model_file(path)
    program.launcher(args)
    template = read_template(args.chat_template)
    questions = read_questions(words)
    answers = []
    for path in models:
        folder = tempfile.mkdtemp(prefix="catdpo-ask-")
        try:
            answers.append(ask(args, path, questions, template, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        print_json(models, questions, answers)
    else:
        rows = [(q, [list(map(said, of_model[i])) for of_model in answers]) for i, q in enumerate(questions)]
        show_answers(names_of(models), rows)
