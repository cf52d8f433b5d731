"""The refusal rules as a C table: make_rules.py refusal.json rules.c (src/judge/meson.build)."""

import hashlib
import json
import sys


def c_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)


def phrases(name: str, these: list[str]) -> str:
    lines = "".join(f"    {c_text(phrase)},\n" for phrase in these)
    return f"static const char *const {name}[] = {{\n{lines}}};\n"


with open(sys.argv[1], "rb") as file:
    data = file.read()
made = json.loads(data)
repeated = made["degenerate"]
with open(sys.argv[2], "w", encoding="utf-8") as out:
    out.write('#include "catdpo/judge/rules.h"\n\n')
    out.write(phrases("refusal", made["refusal"]) + phrases("not_refusal", made["not_refusal"]))
    out.write(
        f"const RefusalRules refusal_rules = {{\n"
        f"    .digest = {c_text(hashlib.sha256(data).hexdigest())},\n"
        f"    .window = {made['window']},\n"
        f"    .refusal = {{ refusal, {len(made['refusal'])} }},\n"
        f"    .not_refusal = {{ not_refusal, {len(made['not_refusal'])} }},\n"
        f"    .degenerate_window = {repeated['window']},\n"
        f"    .gram = {repeated['gram']},\n"
        f"    .least_words = {repeated['least_words']},\n"
        f"    .distinct_share = {repeated['distinct_share']!r},\n"
        f"    .run = {repeated['run']},\n"
        f"}};\n"
    )
