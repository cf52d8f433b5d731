/* What may interrupt a long loop: signals, the time limit, the file "stop" in the run directory, a failure on some
 * rank, the loss of the run directory, and checkpoints that are due. All ranks agree on it between two pieces of work,
 * with one small MPI_Allreduce. */
#ifndef CATDPO_RUNDIR_LIFECYCLE_H
#define CATDPO_RUNDIR_LIFECYCLE_H

#include "catdpo/config/config.h"
#include "catdpo/h5/h5.h"
#include "catdpo/rundir/owner.h"

typedef struct Lifecycle {
    MPI_Comm world; /* not owned */
    int rank;
    const Writer *writer; /* not owned; NULL: nothing to lose */
    double deadline;      /* of seconds_now(); infinite: none. As the other times, only rank 0's counts */
    double slack;         /* seconds to spare before the deadline */
    double mark;          /* when the last piece of work ended */
    double slowest_piece, slowest_checkpoint; /* seconds, so far */
    double last_checkpoint;                   /* of seconds_now() */
    double checkpoint_seconds;                /* lost to checkpoints, in sum */
    int64_t steps;                            /* between checkpoints; 0: not by steps */
    double interval;                          /* seconds between checkpoints; 0: not by time */
    double last_flush, flush_interval;        /* the same for the metrics */
    char request[FILE_PATH];                  /* a file whose existence asks for a checkpoint; "": none */
    char stop[FILE_PATH];                     /* and one that asks for a checkpoint and the end, */
    bool asked;                               /* which was there. Rank 0's counts */
} Lifecycle;

/* What to do after a piece of work. */
typedef struct Verdict {
    bool checkpoint; /* save now */
    bool flush;      /* write the metrics now */
    bool stop;       /* and end */
    bool for_good;   /* with EXIT_STOPPED, else EXIT_RESUBMIT */
    char why[128];   /* "SIGTERM", "the time limit", "runs/first/stop" */
} Verdict;

/* The clock of run.time_limit starts here. Not collective. */
void lifecycle_begin(Lifecycle *l, const Config *config, MPI_Comm world);

/* The directory that `writer` owns may ask for checkpoints and the end; its loss is found out. A file "stop" that is
 * there already is removed, with a line in the log, unless it came while the same SLURM job waited to be started again.
 * Not collective. */
void lifecycle_own(Lifecycle *l, const Writer *writer, Log *log);

/* After a piece of work, `step` steps done in all (0: not a step). ok is this rank's: false if any rank failed or lost
 * the directory, with its message. Collective over world. */
bool lifecycle_agree(Lifecycle *l, bool ok, int64_t step, Verdict *verdict, Error *err);

/* Bytes that lifecycle_agree sums up over the ranks. */
int lifecycle_bytes(void);

/* A checkpoint was written in so many seconds, behind the metrics. Not collective. */
void lifecycle_saved(Lifecycle *l, double seconds);
/* The metrics were written. Not collective. */
void lifecycle_flushed(Lifecycle *l);

#endif
