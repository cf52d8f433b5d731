# shellcheck shell=bash
# What the batch scripts share; sourced by them inside a job, after site.sh.
#
#   job_start               say where and how, choose the launcher, set threads
#   launch COMMAND...       catdpo COMMAND on all tasks of the job until it ends; its exit status in $code
#   job_end [resumable]     end the job as its program did; resumable: 85 means "start me again"
#
# What the batch system says and does is in slurm.sh or pbs.sh.
#
# Signals to this shell: USR1 (before the time limit, by #SBATCH --signal) lets the ranks write a checkpoint, and the
# job goes back to the queue; USR2 lets them write one, and the job ends; TERM comes from SLURM when it ends the job.

code=0 launcher_pid="" signalled="" stopped="" terminated="" lost=""

note() { printf '%s  job %s: %s\n' "$(date '+%F %T')" "$job" "$*"; }

# The batch system: job, restart, threads, nodes, node_list, cores, count_tasks, choose_launcher, find_lost_node, still_ours,
# go_back, job_over.
if [ -n "${PBS_JOBID:-}" ]; then
    # shellcheck source=jobs/pbs.sh
    . "$(dirname "${BASH_SOURCE[0]}")/pbs.sh"
else
    # shellcheck source=jobs/slurm.sh
    . "$(dirname "${BASH_SOURCE[0]}")/slurm.sh"
fi
tasks=$(count_tasks) ranks_per_node=$((($(count_tasks) + nodes - 1) / (nodes > 0 ? nodes : 1)))

job_start() {
    [ "$tasks" -gt 0 ] ||
        { note "$no_tasks"; exit 2; }
    export OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads MKL_NUM_THREADS=$threads
    CATDPO_LOG=$(readlink "/proc/$$/fd/1") && export CATDPO_LOG     # where the job's output goes, for status.json
    export SRUN_CPUS_PER_TASK=$threads      # since SLURM 22.05 srun does not take it from the job
    [ "$CATDPO_LAUNCHER" != auto ] || CATDPO_LAUNCHER=$(choose_launcher)
    local here=$((ranks_per_node * threads))
    note "start $((restart + 1)) on $node_list: $tasks ranks of $threads threads by $CATDPO_LAUNCHER"
    [ "$here" -le "$cores" ] ||
        note "warning: $here threads for the $cores cores of a node: start fewer ranks or threads"
    [ -x "$CATDPO_BINARY" ] ||
        { note "no $CATDPO_BINARY: build it (jobs/README.md), or name it in jobs/site.sh"; exit 2; }
    trap 'note "USR1: a checkpoint, then again"; pass_on' USR1
    trap 'note "USR2: a checkpoint, then the end"; stopped=1; pass_on' USR2
    trap 'note "TERM"; terminated=1 signalled=1' TERM   # the ranks have got it as well
}

# srun and mpirun pass USR1 on to their ranks.
pass_on() {
    signalled=1
    [ -z "$launcher_pid" ] || kill -USR1 "$launcher_pid" 2>/dev/null
}

# Every rank runs below this; rank 0 writes the program's own exit status to $1. The launcher may make another one of
# it, has none to give when it could not start anything, and has been seen to return 0 then.
# shellcheck disable=SC2016
rank='trap : TERM INT USR1 USR2
said=$1; shift
"$@"; code=$?
[ "${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-${PMI_RANK:-${PALS_RANKID:-${SLURM_PROCID:-0}}}}}" != 0 ] || echo $code >"$said"
exit $code'

launch() {
    local said=$PWD/.catdpo-$job-$restart own launcher=()
    rm -f "$said"
    case $CATDPO_LAUNCHER in
        # a rank that ends does not take the others with it at once: they are about to end with the same status
        srun) eval "launcher=(srun --ntasks=$tasks --kill-on-bad-exit=0 --wait=60 $CATDPO_SRUN_OPTIONS)" ;;
        mpirun) eval "launcher=(mpirun -n $tasks $CATDPO_MPIRUN_OPTIONS)" ;;
        mpiexec) eval "launcher=(mpiexec -n $tasks $CATDPO_MPIEXEC_OPTIONS)" ;;
        *) note "CATDPO_LAUNCHER=$CATDPO_LAUNCHER: it has to be srun, mpirun, mpiexec or auto"; code=2; return ;;
    esac
    "${launcher[@]}" sh -c "$rank" sh "$said" "$CATDPO_BINARY" "$@" &
    launcher_pid=$!
    while :; do
        signalled=""
        wait "$launcher_pid"
        code=$?
        [ -n "$signalled" ] && [ "$code" -gt 128 ] || break     # a signal ends wait, but not the launcher
    done
    launcher_pid=""
    if [ -s "$said" ]; then
        read -r own <"$said"
        [ "$own" -eq 0 ] || code=$own
    else
        [ "$code" -ne 0 ] || code=1
        note "$CATDPO_LAUNCHER ended with $code, the program itself never did"
        if [ -n "$terminated" ]; then lost="TERM came before a checkpoint"; else find_lost_node; fi
    fi
    rm -f "$said"
}

may_go_back() {
    still_ours || return 1
    [ "$restart" -ge "$CATDPO_RESTARTS" ] || return 0
    note "started $((restart + 1)) times and not done yet: not again (CATDPO_RESTARTS in jobs/site.sh)"
    return 1
}

job_end() {
    local again=$lost
    [ "$code" -ne 85 ] || [ "${1:-}" != resumable ] || again=85
    if [ -n "$again" ] && [ -z "$stopped" ] && may_go_back; then
        note "goes back to the queue"
        go_back
        note "could not go back to the queue: submit it again, it goes on from its last checkpoint"
    fi
    job_over
    note "ends with status $code"
    exit "$code"
}
