#!/usr/bin/env bash
# Install what the tests need, build, and run all of them: bash tests/run.sh [--sanitize]
set -u
. "$(dirname "${BASH_SOURCE[0]}")/../jobs/setup.sh"

usage() {
    cat <<'EOF'
usage: bash tests/run.sh [--sanitize] [-h]

Installs missing system packages (apt, as root; otherwise says which), makes .venv, builds, and runs the unit and MPI tests
(Meson), those of analysis/ and of the whole program, those of jobs/ on a SLURM cluster of their own (pytest), and each fuzz
target for some seconds (in build-fuzz, by clang). The last line is "N passed, N failed"; the exit status is 0 only if nothing
failed and something ran.

  --sanitize   build in build-sanitize with AddressSanitizer and UBSan and run the same tests on that
EOF
}

build=$root/build
options=()
for argument; do
    case $argument in
        --sanitize)
            build=$root/build-sanitize
            options=(-Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false)
            # what MPI, BLAS and HDF5 keep until the end is not ours
            export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=0:verify_asan_link_order=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
            export LSAN_OPTIONS=suppressions=$root/tests/lsan.supp:print_suppressions=0
            ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

setup_packages
setup_slurm
setup_python
setup_build "$build" "${options[@]}"
if [ "$build" != "$root/build" ]; then
    export CATDPO_PRELOAD=$build/keep_loaded.so
    cc -shared -fPIC -o "$CATDPO_PRELOAD" "$root/tests/keep_loaded.c" || fail "tests/keep_loaded.c does not compile"
fi
export CATDPO_BINARY=$build/catdpo

# run_pytest NAME WHAT...: results in build/NAME.xml
run_pytest() {
    rm -f "$build/$1.xml"
    (cd "$root" && .venv/bin/python -m pytest -q -ra -p no:cacheprovider --junitxml "$build/$1.xml" "${@:2}")
}
# What waits most of the time, for a scheduler or for runs to end, goes on beside the rest.
waiting=(tests/python/test_interrupt.py tests/python/test_kills.py tests/python/test_plan.py tests/python/test_resume.py)
run_pytest slurm tests/slurm >"$build/slurm.log" 2>&1 &

stage "Unit and MPI tests (Meson)"
rm -f "$build/meson-logs/testlog.json"
meson test -C "$build" --no-rebuild --print-errorlogs --timeout-multiplier 3
stage_done

run_pytest runs "${waiting[@]}" >"$build/runs.log" 2>&1 &
stage "Tests in Python (pytest)"
run_pytest python tests/lint tests/python "${waiting[@]/#/--ignore=}"
stage_done
stage "Interrupted and planned runs; batch jobs on a SLURM cluster of this machine (pytest)"
wait
cat "$build/runs.log" "$build/slurm.log"
stage_done

fuzz=$root/build-fuzz
rm -f "$fuzz/meson-logs/testlog.json"
if [ "$build" = "$root/build" ] && setup_fuzzer; then  # they have sanitizers of their own
    CC=clang setup_build "$fuzz" -Dfuzz=true -Dbuildtype=debug -Doptimization=1 -Db_sanitize=address,undefined -Db_lundef=false
    stage "Fuzz targets (libFuzzer)"
    meson test -C "$fuzz" --no-rebuild --print-errorlogs --num-processes 2
    stage_done
fi

echo
exec "$root/.venv/bin/python" "$root/tests/count.py" "$build/python.xml" "$build/runs.xml" "$build/slurm.xml" "$build/meson-logs/testlog.json" "$fuzz/meson-logs/testlog.json"
