"""The packages of analysis/: a module imports only modules of its own package and of those above it in the package's
list, no module imports itself over others, also not from within a function, and every package is in the list."""

import ast
import os
import sys

from test_layers import ROOT, circle

sys.path.insert(0, os.path.join(ROOT, "analysis"))

from catdpo_analysis import PACKAGES  # noqa: E402

NAME = "catdpo_analysis"


def modules(root=ROOT):
    """module -> text, for every module of the package."""
    found = {}
    top = os.path.join(root, "analysis", NAME)
    for folder, _, files in os.walk(top):
        for file in files:
            if file.endswith(".py"):
                path = os.path.join(folder, file)
                name = os.path.relpath(path, os.path.dirname(top))[:-3].replace(os.sep, ".").removesuffix(".__init__")
                with open(path, encoding="utf-8") as opened:
                    found[name] = opened.read()
    return found


def imports(name, text, known):
    """Modules of the package that this one imports, wherever in its text."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relative to itself"
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module
                for alias in node.names
            }
    return {target for target in found if target in known} - {name}


def graph(files):
    return {name: imports(name, text, files) for name, text in files.items()}


def place(name):
    """Where a module stands in the order: what lies outside the packages is above all, but for the command line."""
    parts = name.split(".")
    if len(parts) > 1 and parts[1] in PACKAGES:
        return PACKAGES.index(parts[1])
    return len(PACKAGES) if name in (f"{NAME}.cli", f"{NAME}.__main__") else -1


def forbidden(files):
    return [
        f"{name} imports {target}"
        for name, targets in sorted(graph(files).items())
        for target in sorted(targets)
        if place(target) > place(name)
    ]


def test_packages_import_only_those_above_them():
    assert forbidden(modules()) == []


def test_a_forbidden_import_is_found_also_in_a_function():
    files = modules()
    files[f"{NAME}.files.stats"] += f"\n\ndef late():\n    from {NAME}.report import summary\n"
    assert forbidden(files) == [f"{NAME}.files.stats imports {NAME}.report.summary"]


def test_no_module_imports_itself_over_others():
    assert circle(graph(modules())) == []


def test_a_circle_is_found():
    files = modules()
    files[f"{NAME}.text.streams"] += f"\nimport {NAME}.text.table\n"
    assert set(circle(graph(files))) == {f"{NAME}.text.streams", f"{NAME}.text.table"}


def test_every_package_has_its_place():
    folders = {name.split(".")[1] for name in modules() if name.count(".") > 1}
    assert folders == set(PACKAGES)
