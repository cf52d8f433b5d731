#!/usr/bin/env bash
# Install what the tests need and build: bash tests/setup.sh [--only KIND]... [--sanitize | --mpich]. tests/run.sh does it by itself.
set -u
# shellcheck source=jobs/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../jobs/setup.sh"

kinds=(unit mpi python slurm fuzz lint)
wanted=() build=$root/build fuzz=$root/build-fuzz
options=() sanitize="" mpich=""

# wants KIND...: is one of them to be run?
wants() {
    local kind
    for kind; do [[ " ${wanted[*]} " != *" $kind "* ]] || return 0; done
    return 1
}

# What is run if nothing is named; the batch system and the fuzzer have an MPI of their own, or none.
want_defaults() {
    [ ${#wanted[@]} -eq 0 ] || return 0
    if [ -n "$mpich" ]; then wanted=(unit mpi python); else wanted=("${kinds[@]}"); fi
}

# take_argument ARGUMENT...: those that both scripts have; $taken of them are done with, none if it is another one.
take_argument() {
    local list kind
    taken=0
    case ${1:-} in
        --only=*) list=${1#*=} taken=1 ;;
        --only) list=${2:-} taken=2 ;;
        --sanitize) sanitize=1 taken=1; return ;;
        --mpich) mpich=1 taken=1; return ;;
        *) return ;;
    esac
    [ -n "$list" ] || fail "--only needs a kind of tests: ${kinds[*]}"
    for kind in ${list//,/ }; do
        [[ " ${kinds[*]} " == *" $kind "* ]] || fail "--only $kind: the kinds of tests are ${kinds[*]}"
        wanted+=("$kind")
    done
}

# setup_optional TITLE WHAT TEST PACKAGE...: install packages if `TEST` fails; what stays without them is said.
setup_optional() {
    local title=$1 what=$2 test=$3
    shift 3
    stage "$title"
    if $test; then
        skipped "$what"
    elif ! has apt-get || [ "$(id -u)" -ne 0 ]; then
        echo "   not there, and what needs it is skipped: $what (Debian's packages, as root: $*)"
    else
        echo "   installing: $*"
        install "$@" || true
        $test || echo "   apt-get could not, and what needs it is skipped: $what"
        stage_done
    fi
}

has_slurm() (PATH=$PATH:/usr/sbin:/sbin; has slurmctld && has slurmd && has munged)
# the symbolizer: leaks that are not ours are told by the function's name
has_fuzzer() {
    has llvm-symbolizer && echo 'int LLVMFuzzerTestOneInput(const char *d, long n) { return d && n > 9; }' |
        clang -fsanitize=fuzzer -x c - -o /dev/null 2>/dev/null
}
has_mpich() { has mpicc.mpich && has mpiexec.mpich && has_library hdf5-mpich && has_library scalapack-mpich; }
has_linters() { has clang-format && has cppcheck && has shellcheck; }

setup_tests() {
    want_defaults
    if [ -n "$sanitize" ]; then
        build=$root/build-sanitize
        options=(-Dbuildtype=debugoptimized "-Db_sanitize=address,undefined" -Db_lundef=false)
    elif [ -n "$mpich" ]; then
        build=$root/build-mpich
    fi
    setup_packages tests
    ! wants slurm || setup_optional "SLURM, for its tests" "slurmctld, slurmd, munged" has_slurm slurm-wlm munge
    ! wants lint || setup_optional "Linters" "clang-format, cppcheck, shellcheck" has_linters clang-format cppcheck shellcheck
    setup_python
    if [ -n "$mpich" ]; then
        setup_optional "MPICH" "MPICH with its HDF5 and ScaLAPACK" has_mpich libmpich-dev mpich libhdf5-mpich-dev libscalapack-mpich-dev
        has_mpich || fail "--mpich needs them"
        export CC=mpicc.mpich
    fi
    ! wants unit mpi python slurm || setup_build "$build" -Dtests=true "${options[@]}"
    # the targets have sanitizers of their own
    if wants fuzz && [ -z "$sanitize" ]; then
        setup_optional "Fuzzer" "clang's libFuzzer, llvm-symbolizer" has_fuzzer clang libclang-rt-dev llvm
        ! has_fuzzer || CC=clang setup_build "$fuzz" -Dfuzz=true -Dbuildtype=debug -Doptimization=1 \
            "-Db_sanitize=address,undefined" -Db_lundef=false
    fi
}

[ "${BASH_SOURCE[0]}" = "$0" ] || return 0
while [ $# -gt 0 ]; do
    take_argument "$@"
    [ "$taken" -gt 0 ] || { echo "usage: bash tests/setup.sh [--only KIND[,KIND]] [--sanitize | --mpich]; kinds: ${kinds[*]}" >&2; exit 2; }
    shift "$taken"
done
setup_tests
