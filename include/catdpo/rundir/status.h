/* status.json in the run directory: how the run stands, or how it ended and why, for whoever looks later (watch,
 * report, compare, a script). One JSON object: status ("running", "done", "stopped", "failed"), exit_status (absent
 * while it runs), reason, step and total_steps (absent if not known), started, time, host, job, log (file of the job's
 * output), version; times are UTC.
 *
 * Only the copy that owns the directory writes it, whole, by rename. A copy that is killed leaves "running" behind, and
 * a heartbeat that stands still. */
#ifndef CATDPO_RUNDIR_STATUS_H
#define CATDPO_RUNDIR_STATUS_H

#include "catdpo/rundir/owner.h"

#include <stdint.h>

enum { STATUS_RUNNING = -1 }; /* in the place of an exit status */

/* On any one rank, also from another thread, not collective. A status that cannot be written is no fault of the run:
 * false then, and nothing else. The room for it is taken by the first call (of a rank), so that a disk that is full
 * does not keep the reason out. */
bool status_write(const Writer *writer, int exit_status, const char *reason, int64_t step, int64_t total_steps);

#endif
