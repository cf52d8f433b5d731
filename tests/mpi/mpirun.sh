#!/bin/sh
# mpirun.sh RANKS PROGRAM [ARG...]: start a test under MPI, also as root, with more ranks than cores, on a machine of any size.
# The one place that knows launchers. From outside it takes
#   MPIRUN           the launcher of the MPI that the program was built with (mpirun); MPICH's by its name: mpiexec.mpich, mpiexec.hydra
#   CATDPO_PRELOAD   a library that the ranks load first (tests/run.sh --sanitize, --mpich)
#   CATDPO_APART     every rank ends by itself: one that fails does not end the others
#   CATDPO_GRACE     seconds between the signals by which Open MPI's mpirun ends its ranks
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
ranks=$1; shift
case ${MPIRUN:=mpirun} in
    *mpich* | *hydra*)
        set -- "$MPIRUN" ${CATDPO_APART:+-disable-auto-cleanup} -n "$ranks" ${CATDPO_PRELOAD:+env "LD_PRELOAD=$CATDPO_PRELOAD"} "$@" ;;
    *)
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
        export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_base_warn_component_unused=0
        # shared memory and TCP; looking for fabrics takes twice the time of a tiny run
        export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp
        [ -z "$CATDPO_APART" ] || export OMPI_MCA_orte_abort_on_non_zero_status=0
        [ -z "$CATDPO_GRACE" ] || export OMPI_MCA_odls_base_sigkill_timeout="$CATDPO_GRACE"
        set -- "$MPIRUN" -n "$ranks" ${CATDPO_PRELOAD:+-x "LD_PRELOAD=$CATDPO_PRELOAD"} "$@" ;;
esac
exec "$@"
