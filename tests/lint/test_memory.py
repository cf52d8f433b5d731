"""Out of memory is an error that is said and agreed, never our own bug: CHECK asks for nothing that was allocated."""

import os
import re

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ALLOCATED = re.compile(r"([\w>.-]+(?:\[\w+\])?)\s*=\s*(?:\([^()]*\)\s*)?[^;]*\b(?:m|c|re)alloc\(|"
                       r"([\w>.-]+)\s*=[^;=]*\b(?:strn?dup|open_memstream|fmemopen|fopen)\(")
AFTER = 12  # lines in which it would be asked


def asked(text):
    """Numbers of the lines whose CHECK asks for what was allocated just before."""
    lines, found = text.split("\n"), []
    for number, line in enumerate(lines):
        match = ALLOCATED.search(line)
        if not match:
            continue
        name = (match.group(1) or match.group(2)).lstrip("*")
        wanted = re.compile(r"\bCHECK\([^;]*(?<![\w.>])" + re.escape(name) + r"(?![\w.\[]|->|\()")
        for later in range(number, min(number + AFTER, len(lines))):
            if wanted.search(lines[later]):
                found.append(later + 1)
    return found


def test_no_allocation_is_checked():
    found = []
    for folder, _, files in os.walk(os.path.join(ROOT, "src")):
        for name in files:
            if name.endswith(".c"):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    found += [f"{os.path.relpath(file.name, ROOT)}:{line}" for line in asked(file.read())]
    assert found == []


def test_a_check_is_found():
    assert asked("    Plan *plan = calloc(1, sizeof *plan);\n    CHECK(plan);\n") == [2]
    two = "    w->ticks = calloc(n, 8);\n    w->seen = calloc(n, 8);\n    CHECK(w->ticks && w->seen);\n"
    assert asked(two) == [3, 3]
    assert asked("    FILE *out = open_memstream(&text, &size);\n    CHECK(out);\n") == [2]
    assert asked("    char *a = malloc(8);\n    if (!a) return NULL;\n    CHECK(b);\n") == []
