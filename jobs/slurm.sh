# shellcheck shell=bash disable=SC2034
# What job.sh has to know of SLURM.

# an element of an array by its own name: the number of one of them is also that of the whole array
job=${SLURM_JOB_ID:?is a batch script: start it with sbatch}
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
restart=${SLURM_RESTART_COUNT:-0}
threads=${SLURM_CPUS_PER_TASK:-1} nodes=${SLURM_JOB_NUM_NODES:-1} node_list=${SLURM_JOB_NODELIST:-}
cores=${SLURM_CPUS_ON_NODE:-0}
no_tasks="SLURM does not say how many tasks: submit with --ntasks-per-node (or --ntasks)"

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

choose_launcher() {
    if srun --mpi=list 2>&1 | grep -qw pmix; then echo srun; else echo mpirun; fi
}

# A node of the job that does not answer (a * behind its state) or is down, in $lost. SLURM itself starts the job again,
# but has not noticed yet.
find_lost_node() {
    local limit=$((SECONDS + CATDPO_NODE_PATIENCE))
    note "waiting up to $CATDPO_NODE_PATIENCE s to see whether a node is lost"
    while [ -z "$lost" ] && [ -z "$terminated" ] && [ "$SECONDS" -lt "$limit" ]; do
        lost=$(sinfo --noheader --Node --nodes="$node_list" --format='%N is %T' 2>/dev/null |
            grep -E '\*|down|fail' | sort -u | paste -s -d ,)
        [ -n "$lost" ] || sleep 2
    done
    [ -z "$lost" ] || note "lost: $lost"
}

# Not if SLURM has ended the job (scancel, its time limit), and not if it has started another copy elsewhere, because it
# lost sight of the node of this one.
still_ours() {
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
}

go_back() {
    trap - TERM     # by which SLURM ends this script now
    scontrol requeue "$job" && sleep 120
}

job_over() { :; }
