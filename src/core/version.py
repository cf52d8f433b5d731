"""version.py VERSION: the version with the commit of the sources, as VERSION+a7aee4a or VERSION+a7aee4a.dirty; VERSION
alone where they are no checkout, such as an unpacked archive."""

import os
import subprocess
import sys


def git(*words):
    try:
        done = subprocess.run(["git", *words], cwd=os.path.dirname(os.path.abspath(__file__)), capture_output=True)
    except OSError:
        return ""
    return done.stdout.decode().strip() if done.returncode == 0 else ""


# a repository around an unpacked archive is another one
own = git("ls-files", "--error-unmatch", os.path.basename(__file__))
commit = git("describe", "--always", "--dirty", "--exclude=*") if own else ""
print(sys.argv[1] + ("+" + commit.replace("-", ".") if commit else ""))
