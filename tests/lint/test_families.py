"""What the C and the Python side say of models is the same: the attributes of /model, the families, and a fixture for
each family that has layers of its own."""

import dataclasses
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "analysis"))

from catdpo_analysis.models.architecture import Architecture  # noqa: E402
from catdpo_analysis.models.families import FAMILIES  # noqa: E402


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def test_attributes_are_listed_alike():
    kinds = {"TEXT": str, "CHOICE": str, "COUNT": int, "FLAG": int, "NUMBER": float}
    listed = re.findall(r'^\s*FIELD\("(\w+)", (\w+),', read("src", "model", "architecture.c"), re.MULTILINE)
    assert {name: kinds[kind] for name, kind in listed} == {f.name: f.type for f in dataclasses.fields(Architecture)}


def test_families_are_known_to_both_sides():
    folder = os.path.join(ROOT, "src", "model", "families")
    found = {}
    for name in os.listdir(folder):
        for family in re.findall(r'^const Family \w+ = \{\s*(?:\.name = )?"(\w+)"', read(folder, name), re.MULTILINE):
            found[family] = name
    assert set(found) == set(FAMILIES)
    for family, name in found.items():
        assert type(FAMILIES[family]).__module__.endswith("." + os.path.splitext(name)[0])
