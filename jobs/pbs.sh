# shellcheck shell=bash disable=SC2034,SC2154
# What job.sh has to know of PBS (PBS Professional, OpenPBS). The job's words are in the file CATDPO_JOB (train.pbs).

job=${PBS_JOBID%%.*} restart=${CATDPO_RESTART:-0}
# PBS sets OMP_NUM_THREADS to all cores of a chunk where ompthreads= is not given
threads=${CATDPO_THREADS:-1}
nodes=$(sort -u "$PBS_NODEFILE" | wc -l) node_list=$(sort -u "$PBS_NODEFILE" | paste -s -d ,)
cores=$(nproc)
no_tasks="PBS names no node in $PBS_NODEFILE"

# A line of the node file is a rank where the job asked for mpiprocs=, else a node.
count_tasks() {
    local lines
    lines=$(wc -l <"$PBS_NODEFILE")
    if [ "$lines" -gt "$nodes" ]; then echo "$lines"; else echo $((nodes * ${CATDPO_RANKS_PER_NODE:-1})); fi
}

choose_launcher() { if command -v mpirun >/dev/null; then echo mpirun; else echo mpiexec; fi; }

find_lost_node() { :; }     # PBS itself starts a job again whose node is lost (-r y)

# not after qdel
still_ours() { [ -z "$terminated" ] || { note "PBS has ended it"; return 1; }; }

# submit OPTION...: one more job of the words in $CATDPO_JOB
submit() {
    qsub "$@" -v "CATDPO_SITE=$CATDPO_SITE,CATDPO_ROOT=$CATDPO_ROOT,CATDPO_JOB=$CATDPO_JOB,CATDPO_RESTART=$restart" \
        "$CATDPO_ROOT/jobs/train.pbs"
}

# A job of PBS cannot send itself back to the queue: the next one takes its place.
go_back() {
    restart=$((restart + 1))
    submit "${options[@]}" && exit 0
}

job_over() { rm -f "$CATDPO_JOB"; }

# h:mm:ss that are left of the job's walltime; nothing if nobody says it
time_left() {
    local wall part seconds=0
    [[ " ${options[*]} " =~ walltime=([0-9:]+) ]] && wall=${BASH_REMATCH[1]} ||
        wall=$(qstat -f "$PBS_JOBID" 2>/dev/null | sed -n 's/^ *Resource_List.walltime = //p')
    [ -n "$wall" ] || return 0
    for part in ${wall//:/ }; do seconds=$((seconds * 60 + 10#$part)); done
    seconds=$((seconds - SECONDS))
    [ "$seconds" -gt 0 ] || seconds=1
    printf '%d:%02d:%02d\n' $((seconds / 3600)) $((seconds / 60 % 60)) $((seconds % 60))
}
