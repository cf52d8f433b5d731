#!/usr/bin/env python3
"""measure_rank.py FOLDER PROGRAM [ARG...]: run a program and leave its peak memory in FOLDER (kB, one file a
process)."""
import os
import sys

folder, command = sys.argv[1], sys.argv[2:]
child = os.posix_spawnp(command[0], command, os.environ)
_, status, usage = os.wait4(child, 0)
with open(os.path.join(folder, f"{os.getpid()}.kb"), "w") as out:
    out.write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)
