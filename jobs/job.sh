# shellcheck shell=bash
# What the batch scripts share; sourced by them inside a job, after site.sh.
#
#   job_start               say where and how, choose the launcher, set threads
#   launch COMMAND...       catdpo COMMAND on all tasks of the job until it ends; its exit status in $code
#   job_end [resumable]     end the job as its program did; resumable: 85 means "start me again"
#
# Signals to this shell: USR1 (before the time limit, by #SBATCH --signal) lets the ranks write a checkpoint, and the
# job goes back to the queue; USR2 lets them write one, and the job ends; TERM comes from SLURM when it ends the job.

code=0 launcher_pid="" signalled="" stopped="" terminated="" lost=""
restart=${SLURM_RESTART_COUNT:-0}
# an element of an array by its own name: the number of one of them is also that of the whole array
job=${SLURM_JOB_ID:?is a batch script: start it with sbatch}
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
threads=${SLURM_CPUS_PER_TASK:-1} nodes=${SLURM_JOB_NUM_NODES:-1}

note() { printf '%s  job %s: %s\n' "$(date '+%F %T')" "$job" "$*"; }

# Tasks of the job. Some SLURMs set SLURM_NTASKS only where --ntasks was given, and the scripts ask for --ntasks-per-node.
count_tasks() {
    local part total=0
    local -a parts
    if [ -n "${SLURM_NTASKS:-}" ]; then
        total=$SLURM_NTASKS
    elif [ -n "${SLURM_NTASKS_PER_NODE:-}" ]; then
        total="$nodes*$SLURM_NTASKS_PER_NODE"
    elif [ -n "${SLURM_TASKS_PER_NODE:-}" ]; then     # 2(x2),3: two nodes with 2 tasks, one with 3
        IFS=, read -ra parts <<<"$SLURM_TASKS_PER_NODE"
        for part in "${parts[@]}"; do
            part=${part%)}
            total="$total+${part/(x/*}"
        done
    fi
    case $total in *[!0-9*+]*) total=0 ;; esac
    echo $((total))
}
tasks=$(count_tasks)

job_start() {
    [ "$tasks" -gt 0 ] ||
        { note "SLURM does not say how many tasks: submit with --ntasks-per-node (or --ntasks)"; exit 2; }
    export OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads MKL_NUM_THREADS=$threads
    CATDPO_LOG=$(readlink "/proc/$$/fd/1") && export CATDPO_LOG     # where the job's output goes, for status.json
    export SRUN_CPUS_PER_TASK=$threads      # since SLURM 22.05 srun does not take it from the job
    if [ "$CATDPO_LAUNCHER" = auto ]; then
        CATDPO_LAUNCHER=mpirun
        ! srun --mpi=list 2>&1 | grep -qw pmix || CATDPO_LAUNCHER=srun
    fi
    local here=$(((tasks + nodes - 1) / nodes * threads)) cores=${SLURM_CPUS_ON_NODE:-0}
    note "start $((restart + 1)) on $SLURM_JOB_NODELIST: $tasks ranks of $threads threads by $CATDPO_LAUNCHER"
    [ "$here" -le "$cores" ] ||
        note "warning: $here threads for the $cores cores of a node: lower --ntasks-per-node or --cpus-per-task"
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
[ "${OMPI_COMM_WORLD_RANK:-${PMIX_RANK:-${PMI_RANK:-${SLURM_PROCID:-0}}}}" != 0 ] || echo $code >"$said"
exit $code'

launch() {
    local said=$PWD/.catdpo-$SLURM_JOB_ID-$restart own launcher=()
    rm -f "$said"
    case $CATDPO_LAUNCHER in
        # a rank that ends does not take the others with it at once: they are about to end with the same status
        srun) eval "launcher=(srun --ntasks=$tasks --kill-on-bad-exit=0 --wait=60 $CATDPO_SRUN_OPTIONS)" ;;
        mpirun) eval "launcher=(mpirun -n $tasks $CATDPO_MPIRUN_OPTIONS)" ;;
        *) note "CATDPO_LAUNCHER=$CATDPO_LAUNCHER: it has to be srun, mpirun or auto"; code=2; return ;;
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

# A node of the job that does not answer (a * behind its state) or is down. SLURM itself starts the job again, but has
# not noticed yet.
find_lost_node() {
    local limit=$((SECONDS + CATDPO_NODE_PATIENCE))
    note "waiting up to $CATDPO_NODE_PATIENCE s to see whether a node is lost"
    while [ -z "$lost" ] && [ -z "$terminated" ] && [ "$SECONDS" -lt "$limit" ]; do
        lost=$(sinfo --noheader --Node --nodes="$SLURM_JOB_NODELIST" --format='%N is %T' 2>/dev/null |
            grep -E '\*|down|fail' | sort -u | paste -s -d ,)
        [ -n "$lost" ] || sleep 2
    done
    [ -z "$lost" ] || note "lost: $lost"
}

# Not if SLURM has ended the job (scancel, its time limit), and not if it has started another copy elsewhere, because it
# lost sight of the node of this one.
may_go_back() {
    local now
    now=$(scontrol show job -o "$job" 2>/dev/null)
    case $now in
        *" Restarts=$restart "*) ;;
        *" Restarts="*) note "another copy of this job has been started: this one ends"; return 1 ;;
    esac
    case $now in
        *" JobState=RUNNING "*) ;;
        *" JobState="*) note "SLURM has ended it"; return 1 ;;
    esac
    [ "$restart" -ge "$CATDPO_RESTARTS" ] || return 0
    note "started $((restart + 1)) times and not done yet: not again (CATDPO_RESTARTS in jobs/site.sh)"
    return 1
}

job_end() {
    local again=$lost
    [ "$code" -ne 85 ] || [ "${1:-}" != resumable ] || again=85
    if [ -n "$again" ] && [ -z "$stopped" ] && may_go_back; then
        note "goes back to the queue"
        trap - TERM     # by which SLURM ends this script now
        scontrol requeue "$job" && sleep 120
        note "could not go back to the queue: submit it again, it goes on from its last checkpoint"
    fi
    note "ends with status $code"
    exit "$code"
}
