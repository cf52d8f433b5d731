# shellcheck shell=bash
# ALCF Crux (CPU nodes of 2 x 64 cores; PBS). Not run there: after its documentation,
# https://docs.alcf.anl.gov/crux/queueing-and-running-jobs/running-jobs/ The same serves for Aurora and Polaris, whose nodes
# have GPUs that this program leaves idle, with system=, CATDPO_RANKS_PER_NODE (Aurora 96, Polaris 32) and modules of theirs.
#
#   . jobs/sites/alcf-crux.sh
#   bash jobs/train.pbs -A my_project -q workq-route -l select=2:system=crux -l place=scatter -l walltime=6:00:00 \
#       -l filesystems=home:eagle -- run.cfg
#
# Build: module load PrgEnv-gnu cray-hdf5-parallel; CC=cc bash jobs/install/install.sh PREFIX

module load PrgEnv-gnu cray-hdf5-parallel

# A node of PBS is one line of its node file here, and mpiexec is told how many ranks it gets.
: "${CATDPO_RANKS_PER_NODE:=128}"
: "${CATDPO_LAUNCHER:=mpiexec}"
: "${CATDPO_MPIEXEC_OPTIONS:=--ppn \$ranks_per_node --depth=\$threads --cpu-bind depth}"
export CATDPO_RANKS_PER_NODE
# shellcheck source=jobs/site.sh
. "${CATDPO_ROOT:-$(dirname "${BASH_SOURCE[0]}")/../..}/jobs/site.sh"
CATDPO_SITE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")
export CATDPO_SITE
