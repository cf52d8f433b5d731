"""count.py PYTEST_XML... MESON_TESTLOG...: add up the suites; the last line is the total, the exit status 0 only if all is well. Every
report of pytest must be there, and the first Meson log must hold something; the others may be missing."""
import json
import os
import sys
import xml.etree.ElementTree as ElementTree

PASSED, SKIPPED = ("OK", "EXPECTEDFAIL"), ("SKIP", "IGNORED")


def count_meson(path):
    results = [json.loads(line) for line in open(path)] if os.path.exists(path) else []
    bad = [r["name"] for r in results if r["result"] not in PASSED + SKIPPED]
    return sum(r["result"] in PASSED for r in results), bad, sum(r["result"] in SKIPPED for r in results)


def count_pytest(path):
    if not os.path.exists(path):
        return 0, [f"pytest (it left no {os.path.basename(path)})"], 0
    cases = list(ElementTree.parse(path).iter("testcase"))
    has = lambda case, *tags: any(case.find(tag) is not None for tag in tags)
    bad = [f"{c.get('classname')}.{c.get('name')}" for c in cases if has(c, "failure", "error")]
    skipped = sum(has(c, "skipped") and not has(c, "failure", "error") for c in cases)
    return len(cases) - len(bad) - skipped, bad, skipped


reports = [path for path in sys.argv[1:] if path.endswith(".xml")]
suites = [count_meson(path) for path in sys.argv[1:] if path not in reports] + [count_pytest(path) for path in reports]
passed, failed, skipped = (sum((suite[i] for suite in suites), start) for i, start in enumerate((0, [], 0)))
if suites[0][0] == 0:
    failed.append("the Meson suite (nothing of it ran)")
if failed:
    print("failed: " + ", ".join(failed))
print(f"{passed} passed, {len(failed)} failed" + (f", {skipped} skipped" if skipped else ""))
sys.exit(1 if failed else 0)
