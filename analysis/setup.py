"""Writes the commit into the package that is built; everything else is in pyproject.toml."""

import os
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from catdpo_analysis.text.version import checked_out_commit  # noqa: E402


class WithCommit(build_py):
    def run(self):
        super().run()
        if self.editable_mode:  # asks its checkout
            return
        with open(os.path.join(self.build_lib, "catdpo_analysis", "_commit.py"), "w") as file:
            file.write(f'COMMIT = "{checked_out_commit()}"\n')


setup(cmdclass={"build_py": WithCommit})
