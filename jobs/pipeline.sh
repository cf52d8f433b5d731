#!/usr/bin/env bash
# From a model and preference data to an aligned model and its report, as a chain of jobs: see usage below.
set -u
# shellcheck source=jobs/site.sh
. "${CATDPO_SITE:-$(dirname "${BASH_SOURCE[0]}")/site.sh}" || exit 2

usage() {
    cat <<'END'
usage: bash jobs/pipeline.sh CONFIG MODEL FOLDER PAIRS... [OPTION...] [-- SBATCH OPTION...]

Submits import, prepare, evaluation before, training, evaluation after and report, with --answers also the answers of
the model before and after and their verdicts; each starts when the one before it is complete, and none after one that
failed. MODEL is a Hugging Face folder or a GGUF file, PAIRS are JSONL files. FOLDER
takes everything: model.h5, pairs.h5, run/ with the report, and logs/. What is there already is not made again, so after
a failure the same command goes on. CONFIG needs no model.path, data.path and run.dir.

  --prepare "..."  options of catdpo-analysis prepare, e.g. "--heldout 0.3 --max-length 1024"
  --sacpo BETA     train in two stages (SACPO, arXiv 2404.11049): DPO on which response is more helpful, in helpful/;
                   from its final checkpoint, which stays the reference, CONFIG's objective on which is safer, with
                   objective.beta = BETA, in run/. Evaluations are against MODEL, on prompts of neither stage. In the
                   paper CONFIG has objective.type = "dpo" and objective.beta = 0.1, and BETA goes from 0.1 down to
                   0.01. PAIRS need PKU-SafeRLHF's better_response_id and safer_response_id
  --soup Q         with --sacpo: P-SACPO, (1 - Q) helpful + Q safe, in soup.h5 and eval-soup.h5
  --answers WHAT   generate answers before and after training, by the settings generate.* of CONFIG: to the prompts of a
                   group of the pairs (heldout, probe) or of a JSONL file of prompts
  --judge "..."    options of catdpo-analysis judge (default: the refusal rules), e.g. "--judge command --program ./j.py"
  SBATCH OPTION    of training, evaluations and answers, e.g. -- --nodes=4 --ntasks-per-node=32 --time=12:00:00
END
}
refuse() { printf 'pipeline.sh: %s\n' "$1" >&2; exit 2; }
number() { [[ $2 =~ ^[0-9]*\.?[0-9]+([eE]-?[0-9]+)?$ ]] || refuse "$1 $2 is not a number"; }

case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -ge 4 ] || { usage >&2; exit 2; }
config=$1 model=$2 folder=${3%/}
shift 3
pairs=() options=() judge=() answers="" beta="" soup=""
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
        --prepare) [ $# -gt 1 ] || refuse "--prepare needs options in quotes"; read -r -a options <<<"$2"; shift ;;
        --sacpo) [ $# -gt 1 ] || refuse "--sacpo needs the second stage's beta"; number "$1" "$2"; beta=$2; shift ;;
        --soup) [ $# -gt 1 ] || refuse "--soup needs the safe model's share"; number "$1" "$2"; soup=$2; shift ;;
        --answers) [ $# -gt 1 ] || refuse "--answers needs heldout, probe or a file of prompts"; answers=$2; shift ;;
        --judge) [ $# -gt 1 ] || refuse "--judge needs options in quotes"; read -r -a judge <<<"$2"; shift ;;
        -*) refuse "unknown option $1; sbatch's own come after --" ;;
        *) [ -r "$1" ] || refuse "cannot read $1"; pairs+=("$1") ;;
    esac
    shift
done
[ $# -eq 0 ] || shift
[ ${#pairs[@]} -gt 0 ] || refuse "no preference data"
[ -r "$config" ] || refuse "cannot read $config"
[ -r "$model" ] || refuse "cannot read $model"
[ -z "$soup" ] || [ -n "$beta" ] || refuse "--soup averages the two stages of --sacpo"
case $beta,${options[*]-} in ?*,*--transform*) refuse "--sacpo says itself which --transform prepare gets" ;; esac
case $answers in
    "") [ ${#judge[@]} -eq 0 ] || refuse "--judge judges answers: it goes with --answers" ;;
    heldout | probe) ;;
    *) [ -r "$answers" ] || refuse "cannot read $answers: --answers takes heldout, probe or a file of prompts" ;;
esac
mkdir -p "$folder/logs" || exit 2

# chain STAGE SBATCH-OPTION... SCRIPT ARGUMENT...: submit a job that waits for the one before
last=""
chain() {
    last=$(sbatch --parsable --kill-on-invalid-dep=yes ${last:+"--dependency=afterok:$last"} \
        --job-name="$(basename "$folder")-$1" --output="$folder/logs/%x-%j.out" "${@:2}") || exit 1
    last=${last%%;*}
    printf '%-14s %s\n' "$1" "$last"
}

jobs=$CATDPO_ROOT/jobs run=$folder/run model_file=$folder/model.h5 pairs_file=$folder/pairs.h5 helpful=$folder/helpful
settings=(--set "model.path=$model_file" --set "reference.model=$model_file" --set "data.path=$pairs_file"
    --set "run.dir=$run")
sbatch_options=("$@")
# prepare STAGE FILE OPTION...
prepare() {
    [ -e "$2" ] || chain "$1" "$jobs/analysis.sbatch" prepare "${pairs[@]}" --model "$model_file" --out "$2" "${@:3}"
}
# train STAGE RUN START PAIRS [SETTING...]: from a model, which is the reference too
train() {
    local stage=$1 run=$2 start=$3 data=$4 setting sets=()
    for setting in "model.path=$start" "reference.model=$start" "data.path=$data" "run.dir=$run" "${@:5}"; do
        sets+=(--set "$setting")
    done
    [ -e "$run/checkpoints/final.h5" ] ||
        chain "$stage" ${sbatch_options[@]+"${sbatch_options[@]}"} "$jobs/train.sbatch" "$config" "${sets[@]}"
}
# evaluate STAGE MODEL FILE: on the held-out pairs of training, against the model that all began with
evaluate() {
    [ -e "$3" ] || chain "$1" ${sbatch_options[@]+"${sbatch_options[@]}"} "$jobs/eval.sbatch" "$config" \
        "${settings[@]}" --model "$2" --out "$3"
}
[ -e "$model_file" ] || chain import "$jobs/analysis.sbatch" import "$model" --out "$model_file"
if [ -z "$beta" ]; then
    prepare prepare "$pairs_file" ${options[@]+"${options[@]}"}
else
    others=()
    for ((i = 0; i < ${#options[@]}; i++)); do
        case ${options[i]} in
            --heldout | --probe) i=$((i + 1)) ;;        # the split is that of pairs.h5
            --heldout=* | --probe=*) ;;
            *) others+=("${options[i]}") ;;
        esac
    done
    prepare prepare "$pairs_file" --transform harmless ${options[@]+"${options[@]}"}
    prepare prepare2 "$folder/pairs-helpful.h5" --transform helpful --split-like "$pairs_file" \
        ${others[@]+"${others[@]}"}
fi
asked=()
case $answers in "" | heldout | probe) asked=(--split "$answers") ;; esac
if [ ${#asked[@]} -eq 0 ]; then
    asked=(--prompts "$folder/prompts.h5")
    [ -e "$folder/prompts.h5" ] || chain prompts "$jobs/analysis.sbatch" prepare "$answers" --model "$model_file" \
        --out "$folder/prompts.h5"
fi
# says WHEN MODEL: its answers, then their verdicts beside them in the run directory
says() {
    [ -n "$answers" ] && [ ! -e "$run/answers-$1.h5" ] || return 0
    chain "answers-$1" ${sbatch_options[@]+"${sbatch_options[@]}"} "$jobs/generate.sbatch" "$config" "${settings[@]}" \
        --model "$2" "${asked[@]}" --out "$folder/answers-$1.h5"
    chain "judge-$1" "$jobs/analysis.sbatch" judge "$folder/answers-$1.h5" ${judge[@]+"${judge[@]}"} \
        --out "$run/answers-$1.h5"
}
evaluate before "$model_file" "$run/eval-before.h5"
says before "$model_file"
if [ -z "$beta" ]; then
    train train "$run" "$model_file" "$pairs_file"
else
    train helpful "$helpful" "$model_file" "$folder/pairs-helpful.h5" objective.type=dpo objective.margins=false \
        margin.initial=0.0
    train train "$run" "$helpful/checkpoints/final.h5" "$pairs_file" "objective.beta=$beta"
fi
evaluate after "$run/checkpoints/final.h5" "$run/eval-after.h5"
says after "$run/checkpoints/final.h5"
if [ -n "$soup" ]; then
    rest=$(awk "BEGIN { printf \"%.12g\", 1 - $soup }")
    [ -e "$folder/soup.h5" ] || chain merge ${sbatch_options[@]+"${sbatch_options[@]}"} "$jobs/merge.sbatch" \
        "$helpful/checkpoints/final.h5" "$run/checkpoints/final.h5" --weights "$rest,$soup" --out "$folder/soup.h5"
    evaluate soup "$folder/soup.h5" "$folder/eval-soup.h5"
fi
chain report "$jobs/analysis.sbatch" report "$run"
