#!/usr/bin/env bash
# One fuzz target for some seconds: run.sh PROGRAM SECONDS. It begins with the seeds made from the tree, the files of
# corpus/TARGET if there are any, and what earlier runs left beside the program; a finding is kept there as well, and
# fails the run.
set -eu
program=$1 seconds=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${program##*/fuzz_}
work=$(dirname "$program")/$target.work
root=/dev/shm
[ -w "$root" ] || root=${TMPDIR:-/tmp}
export TMPDIR
TMPDIR=$(mktemp -d "$root/catdpo-fuzz.XXXXXX")
trap 'rm -rf "$TMPDIR"' EXIT

mkdir -p "$work/corpus" "$work/findings"
python3 "$here/seeds.py" "$target" "$work/seeds"
known=()
[ ! -d "$here/corpus/$target" ] || known=("$here/corpus/$target")
limit=512
if [ "$target" = bytes ]; then  # what libhdf5 asks for, it gets or not, as on a machine of little memory
    limit=1048576
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}allocator_may_return_null=1:max_allocation_size_mb=2048
fi
"$program" -max_total_time="$seconds" -max_len=512 -len_control=0 -timeout=30 -rss_limit_mb=4096 \
    -malloc_limit_mb=$limit -error_exitcode=1 -verbosity=0 -print_final_stats=1 -artifact_prefix="$work/findings/" \
    "$work/corpus" "$work/seeds" "${known[@]}" </dev/null
