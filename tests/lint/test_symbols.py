"""The layers again, from what the compiler made: which source uses functions and data of which other one, also where it
declares them itself and includes nothing. No use goes down the list of layers, and no two sources need each other."""

import glob
import os
import re
import subprocess

import pytest
from test_layers import ROOT, circle, layers

BINARY = os.environ.get("CATDPO_BINARY", os.path.join(ROOT, "build", "catdpo"))
OBJECTS = sorted(
    glob.glob(os.path.join(os.path.dirname(BINARY), "libcatdpo.a.p", "src_*.o"))
    + glob.glob(os.path.join(os.path.dirname(BINARY), "catdpo.p", "src_*.o"))
)
pytestmark = pytest.mark.skipif(not OBJECTS, reason=f"{BINARY} is not built: bash tests/run.sh builds it")


def unit_of(path):
    """.../src_h5_file.c.o -> h5/file; what follows the folder may have _ in its name."""
    return re.sub(r"^src_|\.c\.o$", "", os.path.basename(path)).replace("_", "/", 1)


def symbols():
    """unit -> (symbols that it defines for others, symbols that it takes from elsewhere)"""
    said = subprocess.run(["nm", "-A", "-P", *OBJECTS], check=True, capture_output=True, text=True).stdout
    found = {unit_of(path): (set(), set()) for path in OBJECTS}
    for line in said.splitlines():
        path, rest = line.split(": ", 1)
        name, kind = rest.split()[:2]
        if kind == "U":
            found[unit_of(path)][1].add(name)
        elif kind.isupper():
            found[unit_of(path)][0].add(name)
    return found


def uses(found):
    """unit -> {other unit: a symbol of it}"""
    owner = {name: unit for unit, (defined, _) in found.items() for name in defined}
    return {
        unit: {owner[name]: name for name in sorted(taken) if owner.get(name, unit) != unit}
        for unit, (_, taken) in found.items()
    }


def downward(graph, order):
    """A line for each use that goes down the list of layers."""
    layer = {unit: order.index(unit.split("/")[0]) for unit in graph}
    return [
        f"{unit} uses {name} of {other}"
        for unit, others in sorted(graph.items())
        for other, name in sorted(others.items())
        if layer[other] > layer[unit]
    ]


def test_sources_use_only_what_lies_above_them():
    graph = uses(symbols())
    assert len(graph) > 100 and sum(map(len, graph.values())) > 300  # nm was understood
    assert downward(graph, layers()) == []


def test_no_two_sources_need_each_other():
    assert circle(uses(symbols())) == []


def test_a_hidden_use_is_found():
    """A function that a source declares for itself, without including anything."""
    found = symbols()
    found["core/error"][1].add("command_plan")
    graph = uses(found)
    assert downward(graph, layers()) == ["core/error uses command_plan of commands/plan"]
    assert {"core/error", "commands/plan"} <= set(circle(graph))
