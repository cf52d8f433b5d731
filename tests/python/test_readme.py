"""Promise: what the README says of the settings is what the program says."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CATDPO_BINARY", ROOT / "build" / "catdpo"))


@pytest.mark.skipif(not BINARY.exists(), reason="the program is not built")
def test_settings_are_generated():
    """The reference between the README's markers equals `catdpo --help-config=markdown`."""
    readme = (ROOT / "README.md").read_text()
    section = readme.split("catdpo --help-config=markdown -->\n")[1].split("<!-- end of settings -->")[0]
    said = subprocess.run([BINARY, "--help-config=markdown"], check=True, capture_output=True, text=True).stdout
    assert section.strip() == said.strip(), (
        "put the output of catdpo --help-config=markdown between the README's markers"
    )


def test_source_map_is_true():
    """Every folder that the source map names exists, and every folder of src is named."""
    readme = (ROOT / "README.md").read_text()
    section = readme.split("## Sources, in reading order")[1].split("\n## ")[0]
    for folder in sorted(p.name for p in (ROOT / "src").iterdir() if p.is_dir()):
        assert f"`src/{folder}`" in section
    for line in section.splitlines():
        if line.startswith("| `"):
            for name in line.split("|")[1].replace("`", "").split(","):
                assert (ROOT / name.strip()).exists(), name
