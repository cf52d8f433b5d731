# shellcheck shell=bash
# NERSC Perlmutter, CPU nodes (2 x 64 cores, 512 GB). Not run there: after its documentation,
# https://docs.nersc.gov/systems/perlmutter/running-jobs/ and https://docs.nersc.gov/jobs/policy/
#
#   export SBATCH_ACCOUNT=m0000
#   . jobs/sites/perlmutter.sh
#   sbatch --nodes=2 --ntasks-per-node=128 --time=12:00:00 jobs/train.sbatch run.cfg
#
# Build: module load PrgEnv-gnu cray-hdf5-parallel python; CC=cc bash jobs/install/install.sh PREFIX
# Cray's cc links Cray MPICH and LibSci, which has ScaLAPACK, by itself.

: "${SBATCH_CONSTRAINT:=cpu}"                   # CPU nodes; the others have GPUs
: "${SBATCH_QOS:=regular}"                      # whole nodes; preempt is cheaper, and jobs go on after it
: "${SBATCH_HINT:=nomultithread}"
export SBATCH_CONSTRAINT SBATCH_QOS SBATCH_HINT

module load PrgEnv-gnu cray-hdf5-parallel python

# srun starts Cray MPICH by its default (cray_shasta): no --mpi, and there is no mpirun
: "${CATDPO_LAUNCHER:=srun}"
: "${CATDPO_SRUN_OPTIONS:=--cpu-bind=cores}"
# Checkpoints on $SCRATCH: lfs setstripe -c 8 RUN/checkpoints
# shellcheck source=jobs/site.sh
. "${CATDPO_ROOT:-$(dirname "${BASH_SOURCE[0]}")/../..}/jobs/site.sh"
CATDPO_SITE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")
export CATDPO_SITE
