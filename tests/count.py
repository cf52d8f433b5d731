"""count.py REPORT...: add up the suites; the last line is the total, the exit status 0 only if all is well. Every
report, an XML of pytest or a log of Meson, must be there and hold something."""
import json
import os
import sys
import xml.etree.ElementTree as ElementTree

PASSED, SKIPPED = ("OK", "EXPECTEDFAIL"), ("SKIP", "IGNORED")


def count_meson(path):
    results = [json.loads(line) for line in open(path)] if os.path.exists(path) else []
    if not results:
        return 0, [f"Meson (nothing of {path} ran)"], 0
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


suites = [count_pytest(path) if path.endswith(".xml") else count_meson(path) for path in sys.argv[1:]]
passed, failed, skipped = (sum((suite[i] for suite in suites), start) for i, start in enumerate((0, [], 0)))
if passed == 0 and not failed:
    failed.append("everything (nothing ran)")
if failed:
    print("failed: " + ", ".join(failed))
print(f"{passed} passed, {len(failed)} failed" + (f", {skipped} skipped" if skipped else ""))
sys.exit(1 if failed else 0)
