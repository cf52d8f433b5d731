# shellcheck shell=bash
# A SLURM cluster whose srun starts ranks by PMIx (`srun --mpi=list` names it), with Open MPI or another MPI built for that.
# Put in what your site asks for, or copy the file and name the copy in CATDPO_SITE.
#
#   . jobs/sites/pmix.sh
#   sbatch --nodes=4 --ntasks-per-node=32 jobs/train.sbatch run.cfg
#
# After https://slurm.schedmd.com/mpi_guide.html and https://slurm.schedmd.com/sbatch.html; tried on the cluster that the
# tests start (tests/slurm), SLURM 22.05.

#export SBATCH_ACCOUNT=my_project
: "${SBATCH_EXCLUSIVE:=exclusive}"              # whole nodes: no other jobs between the ranks
: "${SBATCH_HINT:=nomultithread}"               # one hardware thread a core
export SBATCH_EXCLUSIVE SBATCH_HINT
#export SBATCH_MEM_PER_NODE=0                   # all memory of a node, as --mem=0
#export SBATCH_CONSTRAINT=cpu                   # kind of node, where a partition has several
#export SBATCH_PARTITION=cpu                    # one without GPUs: they would be paid for and idle

: "${CATDPO_LAUNCHER:=srun}"
: "${CATDPO_SRUN_OPTIONS:=--mpi=pmix --cpu-bind=cores}"
# shellcheck source=jobs/site.sh
. "${CATDPO_ROOT:-$(dirname "${BASH_SOURCE[0]}")/../..}/jobs/site.sh"
CATDPO_SITE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")
export CATDPO_SITE
