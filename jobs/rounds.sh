#!/usr/bin/env bash
# Online preference optimisation in rounds: answers of the model itself, judged, become its next pairs. See usage below.
set -u
# shellcheck source=jobs/site.sh
. "${CATDPO_SITE:-$(dirname "${BASH_SOURCE[0]}")/site.sh}" || exit 2

usage() {
    cat <<'END'
usage: bash jobs/rounds.sh CONFIG MODEL PROMPTS FOLDER [OPTION...] [-- SETTING...]

Each round generates answers of the model to PROMPTS (JSONL: prompt, category), judges them, makes preference pairs of
them and trains on these; after the last round the answers are generated and judged once more. MODEL is a model.h5.
FOLDER takes everything: prompts.h5 and round-1/, round-2/, ... with answers, pairs and run/. The same command goes on
after any interruption: what is complete is not made again. In a batch job: sbatch jobs/rounds.sbatch with the same
arguments; otherwise mpirun starts the ranks here.

  --rounds N         rounds (default 3)
  --steps N          steps of training a round (default 50)
  --samples N        answers to each prompt (default 4, at temperature 1)
  --system TEXT      answer the prompts under this system message too: those answers may be either side of a pair, while
                     its prompt stays without the message. For a model that is safe only when it is told to
  --reference KIND   fixed: always MODEL; margins and optimizer go on from round to round (default)
                     moving: the model that the round began with; margins start anew
  --mix FILE         other preference pairs, mixed in
  --share S          their share (default 0.25)
  --judge "OPTION.." of catdpo-analysis judge (default: the refusal rules), e.g. "--judge command --program ./mine.py"
  --pairs "OPTION.." of catdpo-analysis pairs-from, e.g. "--cut keep --per-prompt 2"
  --probe FILE       prompts (JSONL) that are never trained on, for margin.source = "generated" and schedule.until_safe
  --prepare "OPT.."  of catdpo-analysis prepare, e.g. "--max-length 1024"
  --stop "OPTION.."  limits, of catdpo-analysis rounds (default "--max-kl 50 --max-empty 0.3 --length 0.2 5")
  --ranks N          MPI ranks outside of a batch job (default 2)
  SETTING            of catdpo, for all rounds: GROUP.KEY=VALUE
END
}
refuse() { printf 'rounds.sh: %s\n' "$1" >&2; exit 2; }
stage() { printf '\n== Round %s: %s\n' "$round" "$1"; }

case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -ge 4 ] || { usage >&2; exit 2; }
config=$1 model=$2 prompts=$3 folder=${4%/}
shift 4
rounds=3 steps=50 samples=4 system="" reference=fixed mix="" share=0.25 probe="" ranks=2 settings=() pairing=() preparing=()
judge=(--judge refusal) limits=(--max-kl 50 --max-empty 0.3 --length 0.2 5)
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    [ $# -gt 1 ] || refuse "$1 needs a value"
    case $1 in
        --rounds) rounds=$2 ;;
        --steps) steps=$2 ;;
        --samples) samples=$2 ;;
        --system) system=$2 ;;
        --reference) reference=$2 ;;
        --mix) mix=$2 ;;
        --share) share=$2 ;;
        --judge) read -r -a judge <<<"$2" ;;
        --stop) read -r -a limits <<<"$2" ;;
        --pairs) read -r -a pairing <<<"$2" ;;
        --probe) probe=$2 ;;
        --prepare) read -r -a preparing <<<"$2" ;;
        --ranks) ranks=$2 ;;
        *) refuse "unknown option $1; settings of catdpo come after --" ;;
    esac
    shift 2
done
[ $# -eq 0 ] || shift
for setting; do settings+=(--set "$setting"); done
for number in "$rounds" "$steps" "$samples" "$ranks"; do
    case $number in "" | *[!0-9]* | 0) refuse "$number is not a number above 0" ;; esac
done
case $reference in fixed | moving) ;; *) refuse "--reference $reference: fixed or moving" ;; esac
for file in "$config" "$model" "$prompts" ${mix:+"$mix"} ${probe:+"$probe"}; do
    [ -r "$file" ] || refuse "cannot read $file"
done
[ -x "$CATDPO_BINARY" ] || refuse "no $CATDPO_BINARY: build it (jobs/README.md), or name it in jobs/site.sh"
mkdir -p "$folder" || exit 2

# A batch job has `launch` (jobs/job.sh), which sets $code.
on_ranks() {
    if [ -n "${CATDPO_IN_JOB:-}" ]; then
        launch "$@"
    else
        mpirun -n "$ranks" "$CATDPO_BINARY" "$@"
        code=$?
    fi
    [ "$code" -eq 0 ] || leave "$code"
}
leave() {
    [ "$1" -ne 85 ] || printf 'rounds.sh: stopped after saving; the same command goes on\n'
    code=$1
    if [ -n "${CATDPO_IN_JOB:-}" ]; then job_end resumable; fi
    exit "$1"
}
analyse() { "$CATDPO_ANALYSIS" "$@" || leave $?; }

# answers PROMPTS ANSWERS JUDGED [WHICH]: what the current model says to them, with and without verdicts.
answers() {
    [ ! -e "$here/$3.h5" ] || return 0
    stage "answers${4:-}"
    on_ranks generate "$config" --model "$current" --prompts "$1" --out "$here/$2.h5" \
        --set "run.dir=$here" --set "generate.samples=$samples" --set generate.temperature=1.0 "${settings[@]}"
    stage "verdicts${4:-}"
    cp "$here/$2.h5" "$here/$3.h5.part" || leave 1
    analyse judge "$here/$3.h5.part" "${judge[@]}"
    mv "$here/$3.h5.part" "$here/$3.h5" || leave 1
}

round=0 current=$model last=""
[ -e "$folder/prompts.h5" ] || { stage "prompts"; analyse prepare "$prompts" --model "$model" --out "$folder/prompts.h5"; }
[ -z "$system" ] || [ -e "$folder/prompted.h5" ] ||
    { stage "prompts under the system message"
    analyse prepare "$prompts" --system "$system" --model "$model" --out "$folder/prompted.h5"; }
while :; do
    round=$((round + 1)) here=$folder/round-$round run=$folder/round-$round/run
    mkdir -p "$here" || leave 2
    answers "$folder/prompts.h5" answers judged
    [ "$round" -le "$rounds" ] || break
    if [ ! -e "$here/pairs.jsonl" ]; then
        others=()
        if [ -n "$system" ]; then
            answers "$folder/prompted.h5" answers-prompted judged-prompted " under the system message"
            others=(--against "$here/judged-prompted.h5" --pairing mixed --names plain prompted)
        fi
        stage "pairs"
        analyse pairs-from "$here/judged.h5" --out "$here/pairs.jsonl" --ledger "$here/ledger.json" \
            ${others[@]+"${others[@]}"} ${mix:+--mix "$mix" --share "$share"} --seed "$round" ${pairing[@]+"${pairing[@]}"}
    fi
    "$CATDPO_ANALYSIS" rounds "$folder" "${limits[@]}" --json "$folder/rounds.json" >"$here/rounds.txt"
    case $? in
        0) ;;
        3) tail -n 1 "$here/rounds.txt"; break ;;
        *) leave 1 ;;
    esac
    # with the prompts, so that every category is there though it gave no pair
    [ -e "$here/pairs.h5" ] || { stage "data"; analyse prepare "$here/pairs.jsonl" "$prompts" --model "$model" \
        --out "$here/pairs.h5" --heldout 0 ${probe:+--probe-from "$probe"} ${preparing[@]+"${preparing[@]}"}; }
    if [ ! -e "$run/checkpoints/final.h5" ]; then
        stage "training"
        training=(train "$config" --set "run.dir=$run" --set "data.path=$here/pairs.h5" "${settings[@]}")
        if [ "$reference" = fixed ]; then
            training+=(--set "model.path=$model" --set "reference.model=$model" --set "schedule.steps=$((round * steps))")
        else
            training+=(--set "model.path=$current" --set "reference.model=$current" --set "schedule.steps=$steps")
        fi
        # what this round has written already, else the round before, else nothing
        if [ "$reference" = moving ] || [ -z "$last" ] || compgen -G "$run/checkpoints/*.h5" >/dev/null; then
            training+=(--resume)
        else
            training+=("--resume=$last")
        fi
        [ -z "$last" ] || [ "$reference" = moving ] || training+=("--allow=data,schedule")
        on_ranks "${training[@]}"
    fi
    last=$run/checkpoints/final.h5 current=$last
done
stage "what came of it"
"$CATDPO_ANALYSIS" rounds "$folder" "${limits[@]}" --json "$folder/rounds.json"
case $? in 0 | 3) leave 0 ;; *) leave 1 ;; esac
