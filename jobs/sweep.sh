#!/usr/bin/env bash
# Many runs of one config and their comparison: see usage below.
set -u
# shellcheck source=jobs/site.sh
. "${CATDPO_SITE:-$(dirname "${BASH_SOURCE[0]}")/site.sh}" || exit 2

usage() {
    cat <<'END'
usage: bash jobs/sweep.sh CONFIG LIST FOLDER [--at-once N] [SBATCH OPTION...]

Submits an array of jobs, one run a line of LIST, and a job that compares all of them when they have ended, however
they ended:

  # name       settings of this run, as after --set
  catdpo-1     objective.type=catdpo run.seed=1
  safedpo-1    objective.type=safedpo margin.initial=10 run.seed=1

Everything goes to FOLDER: a run directory of each name, reference.h5 (the log-probabilities of the reference, computed
once and before), eval-before.h5, logs/ and compare.html. Called again it goes on with the runs that are not complete.
configs/sweep.txt is an example of a list.

  --at-once N      at most so many runs at the same time
  SBATCH OPTION    of the evaluations and of each run, e.g. --nodes=2 --ntasks-per-node=32 --time=2:00:00
END
}
refuse() { printf 'sweep.sh: %s\n' "$1" >&2; exit 2; }

case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -ge 3 ] || { usage >&2; exit 2; }
config=$1 list=$2 folder=${3%/}
shift 3
at_once=""
if [ "${1:-}" = --at-once ]; then
    case ${2:-} in "" | *[!0-9]* | 0) refuse "--at-once needs a number" ;; esac
    at_once=%$2
    shift 2
fi
[ -r "$config" ] || refuse "cannot read $config"
[ -r "$list" ] || refuse "cannot read $list"

mkdir -p "$folder/logs" || exit 2
runs=$folder/sweep.txt
sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$list" >"$runs.new" || exit 2
mapfile -t names < <(awk '{ print $1 }' "$runs.new")
[ ${#names[@]} -gt 0 ] || refuse "$list has no runs"
for name in "${names[@]}"; do
    case $name in *=* | */* | .* | logs) refuse "$list: '$name' is not a name; a line is NAME KEY=VALUE ..." ;; esac
done
twice=$(printf '%s\n' "${names[@]}" | sort | uniq -d | head -n 1)
[ -z "$twice" ] || refuse "$list has two runs of the name $twice"
# a run directory belongs to the settings that it was started with
[ ! -e "$runs" ] || cmp -s "$runs" "$runs.new" ||
    refuse "$folder holds the sweep of another list, $runs: take that one, or another folder"
mv "$runs.new" "$runs"

# submit STAGE SBATCH-OPTION... SCRIPT ARGUMENT...: the job's id in $id
submit() {
    id=$(sbatch --parsable --kill-on-invalid-dep=yes --job-name="$(basename "$folder")-$1" "${@:2}") || exit 1
    id=${id%%;*}
    printf '%-10s %s\n' "$1" "$id"
}

jobs=$CATDPO_ROOT/jobs log=$folder/logs/%x-%j.out
before=(--set "run.dir=$folder" --set "reference.cache=$folder/reference.h5")
submit before "$@" --output="$log" "$jobs/eval.sbatch" "$config" "${before[@]}" --out "$folder/eval-before.h5"
submit reference "$@" --output="$log" --dependency="afterok:$id" \
    "$jobs/eval.sbatch" "$config" "${before[@]}" --split train --out "$folder/eval-before-train.h5"
reference=$id
submit runs "$@" --output="$folder/logs/%x-%A_%a.out" --dependency="afterok:$reference" \
    --array="0-$((${#names[@]} - 1))$at_once" "$jobs/sweep.sbatch" "$folder" "$config"
submit compare --output="$log" --dependency="afterok:$reference,afterany:$id" \
    "$jobs/analysis.sbatch" compare "${names[@]/#/$folder/}" --out "$folder/compare.html"
