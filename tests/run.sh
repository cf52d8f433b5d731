#!/usr/bin/env bash
# Install what the tests need, build, and run them: bash tests/run.sh [--only KIND]... [--sanitize | --mpich] [--no-setup]
set -u
# shellcheck source=tests/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
    cat <<'EOF'
usage: bash tests/run.sh [--only KIND[,KIND]]... [--sanitize | --mpich] [--no-setup] [-h]

Installs missing system packages (apt, as root; otherwise says which), makes .venv, builds (all that is tests/setup.sh), and
runs the tests. The last line is "N passed, N failed"; the exit status is 0 only if nothing failed and something ran.

  --only KIND  unit (one process, Meson), mpi (2 to 6 ranks, Meson), python (analysis/ and the whole program, pytest),
               slurm (jobs/ on a SLURM cluster of its own), fuzz (each target for some seconds, in build-fuzz, by clang),
               lint (formatting, linters, layers); default: all of them
  --sanitize   build in build-sanitize with AddressSanitizer and UBSan and run the same tests on that, without fuzz
  --mpich      build in build-mpich with Debian's MPICH and run unit, mpi and python on that. Other launchers: MPIRUN (tests/mpi/mpirun.sh)
  --no-setup   install and build nothing
EOF
}

setup=1
while [ $# -gt 0 ]; do
    take_argument "$@"
    case $1 in
        -h | --help) usage; exit 0 ;;
        --no-setup) setup="" taken=1 ;;
    esac
    [ "$taken" -gt 0 ] || { usage >&2; exit 2; }
    shift "$taken"
done
if [ -n "$setup" ]; then setup_tests; fi
want_defaults
if [ -n "$sanitize" ]; then
    build=$root/build-sanitize
    # what MPI, BLAS and HDF5 keep until the end is not ours
    export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=0:verify_asan_link_order=0
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    export LSAN_OPTIONS=suppressions=$root/tests/lsan.supp:print_suppressions=0
    export CATDPO_PRELOAD=$build/keep_loaded.so
    cc -shared -fPIC -o "$CATDPO_PRELOAD" "$root/tests/keep_loaded.c" || fail "tests/keep_loaded.c does not compile"
fi
if [ -n "$mpich" ]; then
    build=$root/build-mpich
    export MPIRUN=mpiexec.mpich CATDPO_PRELOAD=$build/tests/mpi/yield.so
fi
export CATDPO_BINARY=$build/catdpo
mkdir -p "$build"
reports=()

# run_pytest NAME WHAT...: results in build/NAME.xml
run_pytest() {
    rm -f "$build/$1.xml"
    (cd "$root" && .venv/bin/python -m pytest -q -ra -p no:cacheprovider --junitxml "$build/$1.xml" "${@:2}")
}
# run_meson FOLDER NAME OPTION...: results in FOLDER/meson-logs/NAME.json
run_meson() {
    rm -f "$1/meson-logs/$2.json"
    reports+=("$1/meson-logs/$2.json")
    meson test -C "$1" --no-rebuild --print-errorlogs --logbase "$2" "${@:3}"
}

# What waits most of the time, for a scheduler or for runs to end, goes on beside the rest.
waiting=(tests/python/test_interrupt.py tests/python/test_kills.py tests/python/test_plan.py tests/python/test_resume.py)
beside=()
start_beside() {
    beside+=("$1")
    run_pytest "$@" >"$build/$1.log" 2>&1 &
}

if wants slurm; then start_beside slurm tests/slurm; fi
if wants lint; then
    stage "Formatting, linters, layers (pytest)"
    run_pytest lint tests/lint
    reports+=("$build/lint.xml")
    stage_done
fi
if wants unit mpi; then
    stage "Unit and MPI tests (Meson)"
    suites=()
    for kind in unit mpi; do if wants "$kind"; then suites+=(--suite "$kind"); fi; done
    run_meson "$build" testlog --timeout-multiplier 3 "${suites[@]}"
    stage_done
fi
if wants python; then
    start_beside runs "${waiting[@]}"
    stage "Tests in Python (pytest)"
    run_pytest python tests/python "${waiting[@]/#/--ignore=}"
    reports+=("$build/python.xml")
    stage_done
fi
if [ ${#beside[@]} -gt 0 ]; then
    stage "Interrupted and planned runs; batch jobs on a SLURM cluster of this machine (pytest)"
    wait
    for name in "${beside[@]}"; do
        cat "$build/$name.log"
        reports+=("$build/$name.xml")
    done
    stage_done
fi
if wants fuzz && [ -z "$sanitize" ] && has_fuzzer; then
    stage "Fuzz targets (libFuzzer)"
    run_meson "$fuzz" testlog --num-processes 2
    stage_done
fi

echo
exec "$root/.venv/bin/python" "$root/tests/count.py" "${reports[@]}"
