#!/usr/bin/env bash
# Build and install both programs below a folder, as an ordinary user: see usage below.
set -u
# shellcheck source=jobs/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

usage() {
    cat <<'END'
usage: bash jobs/install/install.sh PREFIX [MESON OPTION...]

On a login node, with the modules of a compiler, MPI, ScaLAPACK, parallel HDF5 and Python 3.11 loaded. Needs no root; what is
missing is named. PREFIX gets bin/catdpo, bin/catdpo-analysis (in a Python environment of its own, lib/catdpo), scripts,
manual pages, completion and a module. Builds in build-install; tests are neither built nor run.

  MESON OPTION     such as -Dscalapack=mkl or -Dsite=/apps/etc/catdpo-site.sh; see meson_options.txt

From the network come Python packages, Meson and Ninja (PyPI), and libconfig where there is none. pip's own variables
serve a machine without one: PIP_NO_INDEX=1 PIP_FIND_LINKS=folder.
END
}
case ${1:-} in
    -h | --help) usage; exit 0 ;;
    "" | -*) usage >&2; exit 2 ;;
esac
prefix=$1
shift
mkdir -p "$prefix" || exit 2
prefix=$(cd "$prefix" && pwd)
# also for what setup_packages need not look for
CATDPO_MESON_OPTIONS="${CATDPO_MESON_OPTIONS:-}$([ $# -eq 0 ] || printf ' %q' "$@")"
environment=$prefix/lib/catdpo build=$root/build-install log=$root/build-install.log

setup_packages

stage "Python environment with catdpo-analysis ($environment)"
python3 -m venv --clear "$environment" || fail "python3 -m venv does not work: load a Python module"
{ "$environment/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$root/analysis" &&
    build_tools "$environment"; } >"$log" 2>&1 ||
    { tail -n 15 "$log" >&2; fail "pip could not install catdpo-analysis; see $log for what is wanted"; }
mkdir -p "$prefix/bin"
ln -sfn ../lib/catdpo/bin/catdpo-analysis "$prefix/bin/catdpo-analysis" || exit 1
stage_done

rm -rf "$build"
setup_build "$build" --prefix="$prefix" -Dtests=false

stage "Installation"
meson install -C "$build" --no-rebuild --quiet >"$log" 2>&1 || { cat "$log" >&2; fail "meson install ended with an error"; }
rm -rf "$build" "$log"
"$prefix/bin/catdpo" --version && "$prefix/bin/catdpo-analysis" --version || fail "what was installed does not start"
stage_done

printf '\nmodule use %s/share/modulefiles; module load catdpo       (or export PATH=%s/bin:$PATH)\n' "$prefix" "$prefix"
printf 'The first minute here: mpirun -n 4 catdpo selfcheck FOLDER, on the file system that runs will be on.\n'
