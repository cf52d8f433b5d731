"""Version and commit of this package: 0.1.0+a7aee4a, as the trainer says it too."""

import functools
import os
import subprocess

from catdpo_analysis import __version__


@functools.cache
def version():
    """The commit was written down when the package was built (analysis/setup.py); a checkout is asked."""
    try:
        from catdpo_analysis._commit import COMMIT as commit
    except ImportError:
        commit = checked_out_commit()
    return __version__ + (f"+{commit}" if commit else "")


def creator():
    """Who wrote a file."""
    return f"catdpo-analysis {version()}"


def checked_out_commit():
    """That of the checkout that this file is part of; empty if there is none."""
    here = os.path.dirname(os.path.abspath(__file__))

    def git(*words):
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True)
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    if not git("ls-files", "--error-unmatch", os.path.basename(__file__)):  # a repository around an installed copy
        return ""
    return git("describe", "--always", "--dirty", "--exclude=*").replace("-", ".")
