#include "catdpo/rundir/lifecycle.h"

#include "catdpo/core/stop.h"
#include "catdpo/core/timer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Seconds that are left by run.time_limit or by SLURM's word; infinite if nothing limits them. */
static double seconds_left(const Config *config)
{
    if (config->run.time_limit > 0) return 60 * config->run.time_limit;
    const char *end = getenv("SLURM_JOB_END_TIME");
    return end && *end ? difftime((time_t)strtoll(end, NULL, 10), time(NULL)) : INFINITY;
}

void lifecycle_begin(Lifecycle *l, const Config *config, MPI_Comm world)
{
    double now = seconds_now(), left = seconds_left(config);
    *l = (Lifecycle){ .world = world,
                      .deadline = now + left,
                      .slack = fmin(10, 0.05 * left),
                      .mark = now,
                      .last_checkpoint = now,
                      .steps = config->checkpoint.steps,
                      .interval = 60 * config->checkpoint.minutes,
                      .last_flush = now,
                      .flush_interval = 60 * config->metrics.flush_minutes };
    CHECK_MPI(MPI_Comm_rank(world, &l->rank));
}

void lifecycle_own(Lifecycle *l, const Writer *writer, Log *log)
{
    const char *restart = getenv("SLURM_RESTART_COUNT");
    l->writer = writer;
    snprintf(l->request, sizeof l->request, "%.*s/checkpoint.request", FILE_PATH - 32, writer_directory(writer));
    snprintf(l->stop, sizeof l->stop, "%.*s/stop", FILE_PATH - 32, writer_directory(writer));
    bool meant = restart && strtol(restart, NULL, 10) > 0;
    if (l->rank == 0 && !meant && unlink(l->stop) == 0)
        log_info(log, "stop     %s was there before this start: removed", l->stop);
}

static bool is_there(const char *path) { return *path && access(path, F_OK) == 0; }

/* One more piece of work and a checkpoint have to fit. */
static bool time_is_up(const Lifecycle *l, double now)
{
    return now + 2 * l->slowest_piece + 2 * l->slowest_checkpoint + l->slack > l->deadline;
}

enum { FAILED, SIGNAL, TIME, SAVE, FLUSH, STOP, QUESTIONS }; /* that are agreed on */

int lifecycle_bytes(void) { return QUESTIONS * (int)sizeof(int); }

bool lifecycle_agree(Lifecycle *l, bool ok, int64_t step, Verdict *verdict, Error *err)
{
    double now = seconds_now();
    l->slowest_piece = fmax(l->slowest_piece, now - l->mark);
    l->mark = now;
    ok = ok && !(l->writer && writer_lost(l->writer, false, err));
    int mine[QUESTIONS] = { [FAILED] = !ok, [SIGNAL] = stop_signal() }, all[QUESTIONS];
    if (l->rank == 0) {
        mine[TIME] = time_is_up(l, now);
        mine[SAVE] = (l->interval > 0 && now - l->last_checkpoint >= l->interval) || is_there(l->request);
        mine[FLUSH] = l->flush_interval > 0 && now - l->last_flush >= l->flush_interval;
        l->asked = l->asked || is_there(l->stop);
        mine[STOP] = l->asked;
    }
    CHECK_MPI(MPI_Allreduce(mine, all, QUESTIONS, MPI_INT, MPI_MAX, l->world));
    *verdict = (Verdict){ .stop = all[SIGNAL] || all[TIME] || all[STOP], .flush = all[FLUSH], .for_good = all[STOP] };
    verdict->checkpoint = verdict->stop || all[SAVE] || (step > 0 && l->steps > 0 && step % l->steps == 0);
    if (all[STOP])
        snprintf(verdict->why, sizeof verdict->why, "%.*s", (int)sizeof verdict->why - 1, l->stop);
    else
        snprintf(verdict->why, sizeof verdict->why, "%s", all[SIGNAL] ? stop_name(all[SIGNAL]) : "the time limit");
    if (l->asked) unlink(l->stop); /* the next start goes on */
    return !all[FAILED] || error_agree(l->world, ok, err);
}

void lifecycle_saved(Lifecycle *l, double seconds)
{
    l->slowest_checkpoint = fmax(l->slowest_checkpoint, seconds);
    l->checkpoint_seconds += seconds;
    l->last_checkpoint = l->last_flush = l->mark = seconds_now();
    if (l->rank == 0 && *l->request) unlink(l->request);
}

void lifecycle_flushed(Lifecycle *l) { l->last_flush = seconds_now(); }
