# shellcheck shell=bash
# The site's settings, all of them; sourced by every script in this folder. Edit it here, or copy it anywhere and export
# CATDPO_SITE=.../site.sh; sites/ has those of some centres. Source it in the shell that you call sbatch from, too: sbatch takes SBATCH_... from there,
# and they win over the #SBATCH lines.
#
#   . jobs/site.sh
#   sbatch --nodes=4 --ntasks-per-node=32 jobs/train.sbatch run.cfg

# ---- what sbatch needs to know: take away the # where your site asks for it ------------------------------------------
#export SBATCH_ACCOUNT=my_project
#export SBATCH_PARTITION=cpu
#export SBATCH_QOS=normal
#export SBATCH_HINT=nomultithread       # one hardware thread a core
#export SBATCH_SIGNAL=B:USR1@600        # seconds before the limit: one step and one checkpoint; the scripts say 300

# ---- software: what the program was built with -----------------------------------------------------------------------
#module purge
#module load gcc/13.2 openmpi/5.0 openblas/0.3 scalapack/2.2 hdf5/1.14-mpi python/3.11

# ---- this file, the repository or the installed copy, and the programs -----------------------------------------------
CATDPO_SITE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")
: "${CATDPO_ROOT:=$(dirname "$(dirname "$CATDPO_SITE")")}"      # a copy elsewhere has to say where
if [ -e "$CATDPO_ROOT/programs" ]; then                         # installed
    CATDPO_PROGRAMS=$CATDPO_ROOT/$(cat "$CATDPO_ROOT/programs")
    : "${CATDPO_BINARY:=$CATDPO_PROGRAMS/catdpo}"
    : "${CATDPO_ANALYSIS:=$CATDPO_PROGRAMS/catdpo-analysis}"
fi
: "${CATDPO_BINARY:=$CATDPO_ROOT/build/catdpo}"
: "${CATDPO_ANALYSIS:=$CATDPO_ROOT/.venv/bin/catdpo-analysis}"

# ---- how ranks are started -------------------------------------------------------------------------------------------
: "${CATDPO_LAUNCHER:=auto}"            # srun, mpirun, mpiexec, or auto: srun where `srun --mpi=list` names pmix, else mpirun
: "${CATDPO_SRUN_OPTIONS:=--mpi=pmix --cpu-bind=cores}"
: "${CATDPO_MPIRUN_OPTIONS:=--bind-to core --map-by slot:PE=\$threads}"                          # Open MPI's
: "${CATDPO_MPIEXEC_OPTIONS:=}"         # of PALS (Cray): --ppn \$ranks_per_node --depth=\$threads --cpu-bind depth
: "${CATDPO_THREADS:=1}"                # PBS: threads of a rank; SLURM has --cpus-per-task
: "${CATDPO_RESTARTS:=20}"              # a job that was started again so often, and stops once more, ends as FAILED
: "${CATDPO_NODE_PATIENCE:=330}"        # seconds that SLURM may need to notice a lost node (SlurmdTimeout, usually 300)
#export OMPI_MCA_io=romio321            # if writing checkpoints fails or crawls (Open MPI 5: romio341)
#export HDF5_USE_FILE_LOCKING=FALSE     # Lustre mounted without flock

export CATDPO_SITE CATDPO_ROOT CATDPO_BINARY CATDPO_ANALYSIS
export CATDPO_LAUNCHER CATDPO_SRUN_OPTIONS CATDPO_MPIRUN_OPTIONS CATDPO_MPIEXEC_OPTIONS CATDPO_THREADS CATDPO_RESTARTS CATDPO_NODE_PATIENCE
