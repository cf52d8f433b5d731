# shellcheck shell=bash
# LUMI-C (2 x 64 cores, 224 GB for jobs). Not run there: after its documentation,
# https://docs.lumi-supercomputer.eu/runjobs/scheduled-jobs/lumic-job/ and .../scheduled-jobs/partitions/
#
#   export SBATCH_ACCOUNT=project_462000000
#   . jobs/sites/lumi-c.sh
#   sbatch --nodes=2 --ntasks-per-node=128 --time=1-00:00:00 jobs/train.sbatch run.cfg
#
# Build: module load LUMI partition/C PrgEnv-gnu cray-hdf5-parallel cray-python; CC=cc bash jobs/install/install.sh PREFIX
# Cray's cc links Cray MPICH and LibSci, which has ScaLAPACK, by itself.

: "${SBATCH_PARTITION:=standard}"               # whole CPU nodes; small shares them and takes --mem-per-cpu=1750
if [ "$SBATCH_PARTITION" = standard ]; then
    : "${SBATCH_MEM_PER_NODE:=0}"               # all memory of a node, as --mem=0
    export SBATCH_MEM_PER_NODE
fi
: "${SBATCH_HINT:=nomultithread}"
export SBATCH_PARTITION SBATCH_HINT

module load LUMI partition/C PrgEnv-gnu cray-hdf5-parallel cray-python

# srun instead of mpirun, by its default kind of MPI
: "${CATDPO_LAUNCHER:=srun}"
: "${CATDPO_SRUN_OPTIONS:=--cpu-bind=cores}"
# shellcheck source=jobs/site.sh
. "${CATDPO_ROOT:-$(dirname "${BASH_SOURCE[0]}")/../..}/jobs/site.sh"
CATDPO_SITE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")
export CATDPO_SITE
