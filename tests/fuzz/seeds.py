"""seeds.py TARGET FOLDER: a small seed corpus, made from the tree.

config: each group of the files of configs/, and some of its keys as --set. The others: recipes of one step, of every
kind and all over the file; bytes: edits of every format, with and without right checksums.
"""

import glob
import os
import random
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def config():
    for path in sorted(glob.glob(os.path.join(ROOT, "configs", "*.cfg"))):
        with open(path, "rb") as file:
            text = re.sub(rb"[ \t]*#.*", b"", file.read())
        for group in re.findall(rb"^\w+\s*[:=]\s*\{.*?^\};?", text, re.M | re.S):
            yield group + b"\n"
            name, *lines = group.split(b"\n")
            sets = [re.sub(rb"\s*[=:]\s*", b"=", line.strip().rstrip(b";"), count=1) for line in lines]
            yield b"".join(b"\0" + name.split()[0].rstrip(b":={") + b"." + line for line in sets[:4] if b"=" in line)
    yield b'@include "spoilt.cfg"\n'
    yield b'run: { dir = "~/a${HOME}$$/$PATH"; };\n@include "$HOME/none"\n\0model.path=~root/$HOME\0data.path=${NONE'
    yield b'run: { dir = "a" "b"; seed = 0x7fffffffffffffffL; };\n\0parallel.grid=[1, 2]\0margin.eta=1e-3'


def recipes(chance):
    for kind in range(8):
        for _ in range(4):
            yield bytes([kind, *(chance.randrange(256) for _ in range(12))])


def edits(chance):
    for choice in [*range(0, 12), *range(200, 206), 225, 250, 255]:
        yield bytes([choice, *(chance.randrange(256) for _ in range(18))])


def main(target, folder):
    chance = random.Random(target)
    os.makedirs(folder, exist_ok=True)
    seeds = config() if target == "config" else edits(chance) if target == "bytes" else recipes(chance)
    for number, seed in enumerate(seeds):
        with open(os.path.join(folder, f"seed-{number:03}"), "wb") as file:
            file.write(seed)


if __name__ == "__main__":
    main(*sys.argv[1:])
