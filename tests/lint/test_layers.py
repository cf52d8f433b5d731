"""The layers of the C sources: a folder includes only headers of itself and of the folders above it in meson.build's
list, no header includes itself over others, and include/catdpo mirrors src."""

import os
import re

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def layers(root=ROOT):
    """The folders of src in the order of the data flow."""
    with open(os.path.join(root, "meson.build"), encoding="utf-8") as file:
        text = file.read()
    names = re.search(r"^layers = \[(.*?)\]", text, re.MULTILINE | re.DOTALL).group(1)
    return re.findall(r"'(\w+)'", names)


def sources(root=ROOT):
    """path below src or include/catdpo -> text, for every .c and .h file."""
    found = {}
    for top in ("src", os.path.join("include", "catdpo")):
        for folder, _, files in os.walk(os.path.join(root, top)):
            for name in files:
                if name.endswith((".c", ".h")):
                    path = os.path.join(folder, name)
                    with open(path, encoding="utf-8") as file:
                        found[os.path.relpath(path, root)] = file.read()
    return found


def layer_of(path):
    """src/h5/file.c, include/catdpo/h5/h5.h -> h5"""
    return re.sub(r"^(src|include/catdpo)/", "", path).split("/")[0]


def includes_of(path, text):
    """Files of the project that this one includes."""
    for name in INCLUDE.findall(text):
        if name.startswith("catdpo/"):
            yield "include/" + name
        elif name != "version.h":  # made by the build
            yield os.path.normpath(os.path.join(os.path.dirname(path), name))


def forbidden(files, order):
    """A line for each include that goes down, or to a folder that is no layer."""
    lines = []
    for path, text in sorted(files.items()):
        for target in includes_of(path, text):
            if target not in files:
                lines.append(f"{path} includes {target}, which is not there")
            elif order.index(layer_of(target)) > order.index(layer_of(path)):
                lines.append(f"{path} includes {target}: {layer_of(path)} lies above {layer_of(target)}")
    return lines


def units(files):
    """A source, its header and its private header are one unit: h5/file.c -> h5/file. The units that each includes."""
    def unit(path):
        return re.sub(r"^(src|include/catdpo)/|_private$", "", os.path.splitext(path)[0])

    graph = {}
    for path, text in files.items():
        graph.setdefault(unit(path), set()).update(unit(target) for target in includes_of(path, text))
    return {name: targets - {name} for name, targets in graph.items()}


def circle(graph):
    """The names along one circle of the graph, or an empty list."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name):] + [name]
        if name in done:
            return []
        path.append(name)
        for target in sorted(graph.get(name, ())):
            found = visit(target)
            if found:
                return found
        done.add(path.pop())
        return []

    for name in sorted(graph):
        found = visit(name)
        if found:
            return found
    return []


def test_folders_include_only_folders_above_them():
    assert forbidden(sources(), layers()) == []


def test_a_forbidden_include_is_found():
    files = sources()
    files["src/core/error.c"] += '\n#include "catdpo/commands/cli.h"\n'
    assert forbidden(files, layers()) == [
        "src/core/error.c includes include/catdpo/commands/cli.h: core lies above commands"
    ]


def test_no_unit_includes_itself_over_others():
    assert circle(units(sources())) == []


def test_a_circle_is_found():
    files = sources()
    files["include/catdpo/core/error.h"] += '\n#include "catdpo/core/log.h"\n'
    assert set(circle(units(files))) == {"core/error", "core/log"}


def test_every_folder_is_a_layer_and_headers_mirror_sources():
    folders = {layer_of(path) for path in sources() if path.count("/") > 1}
    assert folders == set(layers())
