"""A real SLURM cluster on one machine, for tests: munged, slurmctld and nodes in namespaces of their own, everything
below one folder.

    cluster = Cluster(folder); cluster.start(nodes=4); ...; cluster.stop()

    python tests/slurm/cluster.py start FOLDER [--nodes 4]      by hand; then: export SLURM_CONF=FOLDER/etc/slurm.conf
    python tests/slurm/cluster.py status FOLDER
    python tests/slurm/cluster.py stop FOLDER

What was started is known by pid and start time, and nothing else is ever ended. The processes of a node lie in its own
pid namespace and go with it.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

PORTS = 16  # of a cluster, at most: its controller and a node each
CPUS = 16  # that a node claims to have: more than the jobs of the tests take together
PROGRAMS = ["munged", "mungekey", "slurmctld", "slurmd", "sbatch", "mpirun", "unshare", "setpriv"]
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where daemons lie
NAMESPACES = [
    "unshare",
    "--uts",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation",
    "private",
]
MPI_SETTINGS = "/etc/openmpi/openmpi-mca-params.conf"
DONE = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}


SETTINGS = {
    "hosts": "127.0.0.1 localhost\n{hosts}",
    "openmpi.conf": """btl_tcp_if_include = lo
oob_tcp_if_include = lo
hwloc_base_binding_policy = none
mpi_yield_when_idle = 1
rmaps_base_oversubscribe = 1
btl_base_warn_component_unused = 0
""",
    # a folder of its own for each job on a node: two that start at once there would both make Open MPI's common one
    "taskprolog.sh": """#!/bin/sh
own={folder}/tmp/$SLURMD_NODENAME/$SLURM_JOB_ID
mkdir -p "$own"
echo export OMPI_MCA_orte_tmpdir_base="$own"
echo export OMPI_ALLOW_RUN_AS_ROOT=1
echo export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
""",
    # PID 1 of a node: as on a real one it outlives slurmd and collects what slurmd leaves
    "node.sh": """#!/bin/sh
set -e
hostname "$1"
mount -t tmpfs tmpfs /dev/shm
mount --bind {folder}/etc/hosts /etc/hosts
[ ! -e {mpi} ] || mount --bind {folder}/etc/openmpi.conf {mpi}
slurmd -D -b -f {conf} -N "$1" &
while :; do sleep 1; done
""",
    "slurm.conf": """ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
TmpFS={folder}/tmp/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/etc/taskprolog.sh
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core,CR_LLN
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_min_interval=0,sched_interval=2
MpiDefault=pmix
ReturnToService=2
SlurmdTimeout=5
MessageTimeout=4
TCPTimeout=1
KillWait=3
MinJobAge=3600
{addresses}PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
""",
}


def why_not():
    """Why no cluster can be started here, in a few words; None if one can."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge, openmpi-bin)"
    if os.geteuid() != 0:
        return "namespaces of a node's own need root"
    probe = subprocess.run([*NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True, text=True)
    return None if probe.returncode == 0 else f"no namespaces here: {probe.stderr.strip()}"


def start_time(pid):
    """Of a process, in clock ticks since the machine started; None if there is none or only its corpse."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def namespace_of(pid):
    return os.readlink(f"/proc/{pid}/ns/pid")


def take_ports(count):
    """The first of `count` ports in a row that nobody listens on, and a socket that keeps other clusters away from them
    while it is open: a cluster that is being started does not listen yet."""
    for first in range(17800, 30000, PORTS):
        opened, claim = [], socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0catdpo-slurm-ports-{first}")
        except OSError:
            claim.close()
            continue
        try:
            for port in range(first, first + count):
                opened.append(socket.socket())
                opened[-1].bind(("", port))
            return first, claim
        except OSError:
            claim.close()
        finally:
            for each in opened:
                each.close()
    raise RuntimeError("no free ports for slurmctld and the nodes")


class Cluster:
    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        self.conf = self.path("etc/slurm.conf")
        self.environment = dict(os.environ, PATH=PATH, SLURM_CONF=self.conf)
        self.own = []  # processes that this Python process has to reap
        self.claim = None  # of our ports

    def path(self, name):
        return os.path.join(self.folder, name)

    # ---- what runs --------------------------------------------------------------------------------------------------

    def _records(self):
        """{name: (pid, start time)} of what was started and not stopped since."""
        try:
            with open(self.path("run/processes")) as file:
                return {name: (int(pid), int(began)) for name, pid, began in (line.split() for line in file)}
        except FileNotFoundError:
            return {}

    def _record(self, records):
        with open(self.path("run/processes.tmp"), "w") as file:
            file.writelines(f"{name} {pid} {began}\n" for name, (pid, began) in records.items())
        os.replace(file.name, self.path("run/processes"))

    def _launch(self, name, command, tied):
        """Start a daemon; `tied`: it ends with this process, whatever becomes of it."""
        with open(self.path(f"log/{name}.out"), "ab") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command] if tied else command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
                env=self.environment,
            )
        self.own.append(process)
        self._record(self._records() | {name: (process.pid, start_time(process.pid) or 0)})

    def alive(self, name):
        pid, began = self._records().get(name, (0, 0))
        return bool(pid) and start_time(pid) == began

    def end(self, name, sig=signal.SIGTERM, patience=5.0):
        """End one of our processes: by `sig`, after `patience` seconds by SIGKILL."""
        records = self._records()
        pid, _ = records.get(name, (0, 0))
        limit = time.monotonic() + patience
        while self.alive(name):
            os.kill(pid, sig)
            while self.alive(name) and time.monotonic() < limit:
                time.sleep(0.02)
            sig = signal.SIGKILL
            limit = time.monotonic() + 1
        records.pop(name, None)
        self._record(records)
        for process in self.own:
            process.poll()  # no corpses

    # ---- the cluster ------------------------------------------------------------------------------------------------

    def start(self, nodes=4, tied=False):
        if any(self.alive(name) for name in self._records()):
            raise RuntimeError(f"a cluster runs in {self.folder} already: stop it first")
        for name in ("etc", "log", "run", "state", "spool", "tmp"):
            os.makedirs(self.path(name), exist_ok=True)
        os.chmod(self.folder, 0o755)
        self.nodes = [f"node{i + 1}" for i in range(nodes)]
        self.tied = tied
        self._write_settings()
        self.run("mungekey", "--create", f"--keyfile={self.path('etc/munge.key')}")
        self._launch(
            "munged",
            [
                "munged",
                "-F",
                "--force",
                f"--key-file={self.path('etc/munge.key')}",
                f"--socket={self.path('run/munge.socket')}",
                f"--pid-file={self.path('run/munged.pid')}",
                f"--seed-file={self.path('run/munge.seed')}",
                f"--log-file={self.path('log/munged.log')}",
            ],
            tied,
        )
        self._until(lambda: os.path.exists(self.path("run/munge.socket")), 10, "munged does not start")
        self._launch("slurmctld", ["slurmctld", "-D", "-f", self.conf], tied)
        for node in self.nodes:
            self.boot(node)
        self.wait_for_nodes(self.nodes)

    def _write_settings(self):
        port, self.claim = take_ports(len(self.nodes) + 1)
        nodes = list(enumerate(self.nodes, start=1))
        address = "NodeName={1} NodeAddr=127.0.1.{0} Port={2} CPUs={3} RealMemory=2000 State=UNKNOWN\n"
        words = {
            "folder": self.folder,
            "conf": self.conf,
            "host": socket.gethostname().split(".")[0],
            "port": port,
            "mpi": MPI_SETTINGS,
            "addresses": "".join(address.format(i, node, port + i, CPUS) for i, node in nodes),
            "names": ",".join(self.nodes),
            "hosts": "".join(f"127.0.1.{i} {node}\n" for i, node in nodes),
        }
        for name, text in SETTINGS.items():
            with open(self.path(f"etc/{name}"), "w") as file:
                file.write(text.format(**words))
            os.chmod(file.name, 0o755 if name.endswith(".sh") else 0o644)

    def boot(self, node):
        """Start a node that is down, with nothing of its former life."""
        for name in (f"spool/{node}", f"tmp/{node}"):
            shutil.rmtree(self.path(name), ignore_errors=True)
            os.makedirs(self.path(name))
        self._launch(node, [*NAMESPACES, self.path("etc/node.sh"), node], self.tied)

    def crash(self, node):
        """The whole node is gone at once, with every process on it."""
        self.end(node, signal.SIGKILL)

    def processes(self, node, name):
        """Pids of the processes on a node that were started under this name."""
        outer, _ = self._records()[node]
        own = {namespace_of(pid) for pid in children(outer)}
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    program = file.read().split("\0")[0]
                if os.path.basename(program) == name and namespace_of(pid) in own:
                    found.append(int(pid))
            except OSError:
                pass  # it has just ended
        return found

    def kill_slurmd(self, node):
        """Only slurmd dies: SLURM believes the node to be lost while the jobs on it live on."""
        daemon = min(self.processes(node, "slurmd"))
        os.kill(daemon, signal.SIGKILL)

    def stop(self):
        """Nodes first, so that none of their processes outlives the cluster."""
        names = list(self._records())
        for name in sorted(names, key=lambda name: (not name.startswith("node"), name == "munged")):
            self.end(name, signal.SIGKILL if name.startswith("node") else signal.SIGTERM)
        if self.claim:
            self.claim.close()

    # ---- asking SLURM -----------------------------------------------------------------------------------------------

    def tail(self, lines=12):
        """The ends of all logs, for a message."""
        text = ""
        for name in sorted(os.listdir(self.path("log"))):
            with open(self.path(f"log/{name}"), errors="replace") as file:
                last = file.readlines()[-lines:]
            text += f"--- {name}\n{''.join(last)}" if last else ""
        return text

    def _until(self, holds, seconds, complaint):
        limit = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > limit:
                raise RuntimeError(f"{complaint}\n{self.tail()}")
            time.sleep(0.05)

    def run(self, *command, check=True, folder=None, **environment):
        """A command as a user on the login node types it, in `folder`: what it printed."""
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=folder,
            env=self.environment | {name: str(value) for name, value in environment.items()},
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def node_states(self):
        """{node: state}; a * behind the state: it does not answer."""
        return dict(line.split() for line in self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False).splitlines())

    def wait_for_nodes(self, nodes, states=("idle", "mixed", "allocated"), seconds=30):
        self._until(
            lambda: all(self.node_states().get(node) in states for node in nodes),
            seconds,
            f"nodes {nodes} are not {states}",
        )

    def jobs(self, job):
        """What SLURM says of a job, one dict for each element of an array."""
        text = self.run("scontrol", "show", "job", "-o", job)
        return [dict(re.findall(r"(\w[\w/:]*)=(\S*)", line)) for line in text.splitlines() if line.startswith("JobId=")]

    def job(self, job):
        found = self.jobs(job)
        assert len(found) == 1, found
        return found[0]

    def wait(self, job, states=DONE, seconds=60):
        """Until every element of a job is in one of `states`: as jobs()."""
        limit = time.monotonic() + seconds
        while True:
            found = self.jobs(job)
            if all(each["JobState"] in states for each in found):
                return found
            if time.monotonic() > limit:
                now = [each["JobState"] for each in found]
                raise RuntimeError(f"job {job} is {now} after {seconds} s, not {sorted(states)}\n{self.tail()}")
            time.sleep(0.2)

    def status(self):
        """Printed for a person: which processes run, then nodes and jobs."""
        records = self._records()
        text = "".join(
            f"{name:10}  pid {pid:<8}  {'runs' if self.alive(name) else 'has ended'}\n"
            for name, (pid, _) in records.items()
        )
        if self.alive("slurmctld"):
            text += self.run("sinfo", "-N", "-l") + "\n" + self.run("squeue", "-t", "all") + "\n"
        return text or f"no cluster in {self.folder}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["start", "status", "stop"])
    parser.add_argument("folder")
    parser.add_argument("--nodes", type=int, default=4, choices=range(1, 9), metavar="1..8")
    arguments = parser.parse_args()
    cluster = Cluster(arguments.folder)
    if arguments.action == "start":
        reason = why_not()
        if reason:
            sys.exit(f"no cluster can be started here: {reason}")
        cluster.start(arguments.nodes)
        print(f"export SLURM_CONF={cluster.conf}")
    elif arguments.action == "stop":
        cluster.stop()
    else:
        print(cluster.status(), end="")


if __name__ == "__main__":
    main()
