"""The link arguments of a site's own ScaLAPACK or BLAS, as people have them: for meson.build.

python3 link_arguments.py VALUE [openmpi|intelmpi]      one argument a line; an error is one line, exit status 1

VALUE is
  mkl                                Intel's MKL in $MKLROOT: an oneAPI installation or what the wheel `mkl` unpacks
  /opt/intel/oneapi/mkl/latest       the same by its folder, which need not be named again when Meson configures anew
  mkl-dynamic-lp64-seq               a name that pkg-config knows; for one of MKL's its ScaLAPACK and BLACS are added
  -L/opt/lib -lscalapack -Wl,...     arguments as for the compiler, in one string; $NAME is expanded
  -L/opt/lib,-lscalapack             the same between commas, and ['-L/opt/lib', '-lscalapack'], Meson's own list
  /opt/lib/libscalapack.so           a file

Every folder that is named gets an rpath, so that the program finds at run time what it was linked with.
"""

import ast
import glob
import os
import re
import shlex
import subprocess
import sys

SYSTEM = re.compile(r"/(usr/)?lib(32|64)?(/[^/]*-linux-gnu)?/?")
MKL = "mkl_scalapack_lp64", "mkl_blacs_{mpi}_lp64", "mkl_intel_lp64", "mkl_sequential", "mkl_core"


class Fault(Exception):
    pass


def split(value):
    """The arguments in a string: Meson's list, or with blanks as in a shell, or with commas."""
    value = value.strip()
    if value.startswith("["):
        try:
            return [str(item) for item in ast.literal_eval(value)]
        except (ValueError, SyntaxError):
            raise Fault(f"{value!r} is no list: write it as ['-L/opt/lib', '-lscalapack'] or in one string") from None
    arguments = []
    for word in shlex.split(os.path.expandvars(value)):
        if arguments and arguments[-1] in ("-L", "-l"):
            arguments[-1] += word
            continue
        passed = word.startswith("-Wl,")    # what follows belongs to the linker, commas and all
        for part in word.split(","):
            begins = part.startswith(("-l", "-L", "-f", "-p")) or part == "-Wl"
            passed = part == "-Wl" or passed and not begins
            if passed and part != "-Wl" and arguments and arguments[-1].startswith("-Wl"):
                arguments[-1] += "," + part
            elif part:
                arguments.append(part)
    return arguments


def library(folder, name):
    """How the linker is told: a wheel has libNAME.so.2 without the link that -lNAME needs. None: it is not there."""
    if os.path.exists(os.path.join(folder, f"lib{name}.so")):
        return f"-l{name}"
    found = sorted(glob.glob(os.path.join(glob.escape(folder), f"lib{name}.so.*")))
    return f"-l:{os.path.basename(found[-1])}" if found else None


def mkl(folder, names):
    """MKL's libraries do not name each other: they have to be linked even where nothing seems to need them."""
    found = [library(folder, name) for name in names]
    missing = [f"lib{name}.so" for name, argument in zip(names, found) if argument is None]
    if missing:
        raise Fault(f"{folder} has no {', '.join(missing)}")
    kept = ["-Wl,--push-state,--no-as-needed", f"-L{folder}", *found, "-Wl,--pop-state"]
    return [*kept, "-lpthread", "-lm", "-ldl"]


def mkl_root(root, mpi):
    folders = [os.path.join(root, *parts) for parts in (("lib",), ("lib", "intel64"), ())]
    for folder in folders:
        if library(folder, "mkl_core"):
            return mkl(folder, [name.format(mpi=mpi) for name in MKL])
    raise Fault(f"no MKL in {root}: name the folder whose lib/ holds libmkl_core.so, in MKLROOT or instead of mkl")


def by_pkg_config(name, mpi):
    if "ilp64" in name:
        raise Fault(f"{name} has integers of 64 bits: take the one with lp64")
    try:
        asked = subprocess.run(["pkg-config", "--libs", "--keep-system-libs", name], capture_output=True, text=True)
    except FileNotFoundError:
        raise Fault(f"there is no pkg-config to ask for {name}: give link arguments instead") from None
    if asked.returncode:
        raise Fault(f"pkg-config does not know {name}: {' '.join(asked.stderr.split())}")
    arguments = shlex.split(asked.stdout)
    if not name.startswith("mkl-") or any("scalapack" in argument for argument in arguments):
        return arguments
    folder = next(argument[2:] for argument in arguments if argument.startswith("-L"))
    parts = [library(folder, part.format(mpi=mpi)) for part in MKL[:2]]
    if None in parts:
        raise Fault(f"{folder} has no ScaLAPACK and BLACS of MKL for this MPI ({MKL[0]}, {MKL[1].format(mpi=mpi)})")
    return ["-Wl,--push-state,--no-as-needed", f"-L{folder}", *parts, *arguments, "-Wl,--pop-state"]


def versioned(arguments):
    """-lNAME where a folder has only libNAME.so.2, as a wheel does."""
    folders = [argument[2:] for argument in arguments if argument.startswith("-L")]

    def found(argument):
        name = argument[2:]
        if not argument.startswith("-l") or any(glob.glob(f"{glob.escape(f)}/lib{name}.[sa]*[oa]") for f in folders):
            return argument
        return next(filter(None, (library(folder, name) for folder in folders)), argument)

    return [found(argument) for argument in arguments]


def with_rpath(arguments):
    folders = []
    for argument in arguments:
        folder = argument[2:] if argument.startswith("-L") else ""
        if argument.startswith("/") and re.search(r"\.so(\.[0-9.]+)?$", argument):
            folder = os.path.dirname(argument)
        named = any(re.fullmatch(rf"-Wl,.*-rpath[,=]{re.escape(folder)}", other) for other in arguments)
        if folder and not named and folder not in folders and not SYSTEM.fullmatch(folder):
            folders.append(folder)
    return [*arguments, *(f"-Wl,-rpath,{os.path.abspath(folder)}" for folder in folders)]


def resolve(value, mpi="openmpi"):
    words = split(value)
    if words == ["mkl"]:
        arguments = mkl_root(os.environ.get("MKLROOT") or "/opt/intel/oneapi/mkl/latest", mpi)
    elif len(words) == 1 and os.path.isdir(words[0]):
        arguments = mkl_root(os.path.abspath(words[0]), mpi)
    elif len(words) == 1 and not words[0].startswith(("-", "/")):
        arguments = by_pkg_config(words[0], mpi)
    else:
        arguments = versioned(words)
    for argument in arguments:
        if "$" in argument:
            raise Fault(f"{argument!r}: the environment has no such variable")
        if not argument.startswith(("-", "/")):
            raise Fault(f"{argument!r} in {value!r} is no link argument: write -l{argument}, or the file with its path")
        if argument.startswith("/") and not os.path.exists(argument):
            raise Fault(f"there is no {argument}")
    return with_rpath(arguments)


if __name__ == "__main__":
    try:
        print("\n".join(resolve(*sys.argv[1:])))
    except Fault as fault:
        print(fault, file=sys.stderr)
        sys.exit(1)
