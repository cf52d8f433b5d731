"""The description of an experiment: a TOML file, read and checked.

It says which prompts there are and how they are split, how pairs are made of the model's own answers, the settings that
all methods share, the candidates of each method (as many for each), the rule of choice, and what is done with what was
chosen. It is written before the runs and not changed after them.
"""

import dataclasses
import os
import tomllib

from catdpo_analysis.errors import UserError

PARTS = ("train", "probe", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Author:
    """The model under turns that stand before the question and make it refuse; `asked`: "harmful", "safe" or "all"."""

    name: str
    turns: tuple[dict, ...]
    asked: str


@dataclasses.dataclass(frozen=True)
class Method:
    """`candidates`: settings that are tried on the validation prompts; the best one is run with every seed."""

    name: str
    title: str
    candidates: tuple[dict, ...]


@dataclasses.dataclass(frozen=True)
class Variation:
    """One change of the chosen setting of a method, run with the first seeds, to see what the change does."""

    name: str
    title: str
    of: str  # method
    settings: dict


@dataclasses.dataclass(frozen=True)
class Outside:
    """Prompts of a file outside of the project, for tests only; passed over where the file is absent."""

    name: str
    file: str
    limit: int  # prompts of a category; 0: all


@dataclasses.dataclass(frozen=True)
class Experiment:
    path: str
    title: str
    prompts: str
    split: dict  # "harmful", "safe" -> part -> prompts of a category
    authors: tuple[Author, ...]
    pair_samples: int
    pair_temperature: float
    pair_tokens: int
    answer_tokens: int
    samples: int  # drawn answers to a test prompt, at temperature 1, beside the greedy one; 0: none
    settings: dict  # of catdpo, for every run
    checkpoints: tuple[int, ...]  # steps whose answers are looked at, the last one the end
    answered: float  # of the base model's share of safe prompts that are answered: least share to be chosen
    degenerate: float  # largest share of degenerate and empty answers to be chosen
    margin: float  # of non-inferiority, for macro safety and safe prompts answered
    main: str  # method that others are compared with
    seeds: tuple[int, ...]
    variation_seeds: int
    methods: tuple[Method, ...]
    variations: tuple[Variation, ...]
    outside: tuple[Outside, ...]

    @property
    def chooses(self):
        """Whether there is anything to choose on the validation prompts."""
        return len(self.checkpoints) * len(self.methods[0].candidates) > 1

    def method(self, name):
        return next(method for method in self.methods if method.name == name)


class _Table:
    """A table of the file; what is left over in the end was not meant for us."""

    def __init__(self, where, values):
        if not isinstance(values, dict):
            raise UserError(f"{where} is not a table")
        self.where, self.values = where, dict(values)

    def take(self, key, kind, check=lambda value: True, default=None):
        """The value of a key, of a type (a number may be an integer) and within what `check` accepts."""
        value = self.values.pop(key, default)
        if value is None:
            raise UserError(f"{self.where} has no {key}")
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (isinstance(value, kind) and (kind is not int or whole) or kind is float and whole) or not check(value):
            raise UserError(f"{self.where}: {key} = {value!r} is not what it can be")
        return value

    def table(self, key):
        return _Table(f"{self.where}: [{key}]", self.take(key, dict))

    def tables(self, key):
        return [
            _Table(f"{self.where}: [[{key}]] {i + 1}", item) for i, item in enumerate(self.take(key, list, default=[]))
        ]

    def done(self):
        if self.values:
            raise UserError(f"{self.where}: {', '.join(sorted(self.values))} is not known here")


def _settings(table, key, default=None):
    """Settings of catdpo: key -> text."""
    values = table.take(key, dict, default=default)
    for name, value in values.items():
        if "." not in name or not isinstance(value, (str, int, float, bool)):
            raise UserError(f'{table.where}: {key}: "{name}" is no setting of catdpo, such as "margin.eta" = 0.5')
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}


def _name(table):
    return table.take("name", str, lambda name: name.replace("-", "").replace("_", "").isalnum())


def _method(table):
    method = Method(
        _name(table), table.take("title", str), tuple(
            _settings(_Table(f"{table.where}: candidates", {"settings": item}), "settings")
            for item in table.take("candidates", list, bool)
        )
    )  # fmt: skip
    table.done()
    return method


def _variation(table, methods):
    found = Variation(_name(table), table.take("title", str), table.take("of", str), _settings(table, "settings"))
    if found.of not in {method.name for method in methods}:
        raise UserError(f"{table.where}: there is no method {found.of}")
    table.done()
    return found


def _outside(table):
    found = Outside(_name(table), table.take("file", str), table.take("limit", int, lambda n: n >= 0, 0))
    table.done()
    return found


def _split(table):
    found = {}
    for kind, least in (("harmful", 1), ("safe", 0)):
        part = table.table(kind)
        found[kind] = {
            name: part.take(name, int, lambda n: n >= least * (name in ("train", "test")), 0) for name in PARTS
        }
        part.done()
    table.done()
    return found


def _author(table):
    system, shown = table.take("system", str, default=""), table.take("examples", list, default=[])
    if any(not isinstance(turn, list) or len(turn) != 2 for turn in shown) or not (system or shown):
        raise UserError(f"{table.where} has a system message, or examples = [[question, answer], ...], or both")
    turns = [{"role": "system", "content": system}] if system else []
    for question, answer in shown:
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    found = Author(
        _name(table), tuple(turns), table.take("asked", str, lambda a: a in ("harmful", "safe", "all"), "all")
    )
    table.done()
    return found


def read_experiment(path):
    try:
        with open(path, "rb") as file:
            top = _Table(path, tomllib.load(file))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    above_0, share = lambda n: n > 0, lambda x: 0 <= x <= 1
    pairs, answers, choice, final = (top.table(name) for name in ("pairs", "answers", "choice", "final"))
    methods = tuple(_method(table) for table in top.tables("method"))
    found = Experiment(
        path=path,
        title=top.take("title", str),
        prompts=os.path.join(os.path.dirname(path), top.take("prompts", str)),
        split=_split(top.table("split")),
        authors=tuple(_author(table) for table in pairs.tables("author")),
        pair_samples=pairs.take("samples", int, above_0),
        pair_temperature=pairs.take("temperature", float, lambda t: t >= 0),
        pair_tokens=pairs.take("max_tokens", int, above_0),
        answer_tokens=answers.take("max_tokens", int, above_0),
        samples=answers.take("samples", int, lambda n: n >= 0),
        settings=_settings(top, "settings"),
        checkpoints=tuple(sorted(choice.take("steps", list, bool))),
        answered=choice.take("answered", float, share),
        degenerate=choice.take("degenerate", float, share),
        margin=final.take("noninferiority", float, share),
        main=final.take("main", str),
        seeds=tuple(final.take("seeds", list, bool)),
        variation_seeds=final.take("variation_seeds", int, above_0, 1),
        methods=methods,
        variations=tuple(_variation(table, methods) for table in top.tables("variation")),
        outside=tuple(_outside(table) for table in top.tables("outside")),
    )
    for table in (pairs, answers, choice, final, top):
        table.done()
    names = [item.name for item in (*found.methods, *found.variations)]
    if len(set(names)) < len(names) or found.main not in names:
        raise UserError(f"{path}: methods need names of their own, and final.main is one of them")
    if found.chooses and not found.split["harmful"]["validation"]:
        raise UserError(f"{path}: several candidates or steps need validation prompts to choose by: split.harmful")
    if len({len(method.candidates) for method in methods}) > 1:
        raise UserError(f"{path}: every method has as many candidates as the others, or the comparison is not fair")
    every = found.checkpoints[0]
    if any(step != every * (i + 1) for i, step in enumerate(found.checkpoints)):
        raise UserError(f"{path}: choice.steps are multiples of the first one, such as [30, 60]")
    return found
