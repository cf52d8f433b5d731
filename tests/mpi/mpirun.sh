#!/bin/sh
# mpirun.sh RANKS PROGRAM [ARG...]: start a test under MPI, also as root, with more ranks than cores, on a machine of any size.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_base_warn_component_unused=0
# shared memory and TCP; looking for fabrics takes twice the time of a tiny run
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
ranks=$1; shift
# CATDPO_PRELOAD: a library that the ranks load first (tests/run.sh --sanitize)
exec "${MPIRUN:-mpirun}" -n "$ranks" ${CATDPO_PRELOAD:+-x "LD_PRELOAD=$CATDPO_PRELOAD"} "$@"
