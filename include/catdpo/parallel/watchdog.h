/* A rank that hangs holds up all the others for ever: MPI has no time limit. So every rank has a thread that looks at
 * the rank's Timer; when it has not moved for `seconds`, the rank that came least far is named, with host, phase, step
 * and time, and every process ends itself with EXIT_FAULT.
 *
 * The ranks of a node show each other how far they are in shared memory, so that a stopped process is seen from
 * outside; nodes tell each other in files in a folder that all see. MPI cannot be asked: the main threads are inside
 * it. */
#ifndef CATDPO_PARALLEL_WATCHDOG_H
#define CATDPO_PARALLEL_WATCHDOG_H

#include "catdpo/core/error.h"
#include "catdpo/core/timer.h"

#include <mpi.h>
#include <stdint.h>

typedef struct Watchdog Watchdog;

/* What is done last, by the one rank that says the message, in the watchdog's thread. */
typedef void WatchdogEnd(void *context, const char *message);

/* Watches `timer` (not owned). folder (NULL: none) is where nodes tell each other. seconds = 0: *watchdog is NULL and
 * nothing watched. end (NULL: nothing) with its context is called before the processes end. False without memory or a
 * thread, agreed. Collective over comm. */
bool watchdog_start(Watchdog **watchdog, const Timer *timer, double seconds, const char *folder, WatchdogEnd *end,
                    void *context, MPI_Comm comm, Error *err);

/* The step that is being worked on, for the message. NULL is harmless. Not collective. */
void watchdog_step(Watchdog *watchdog, int64_t step);

/* Collective over comm. NULL is harmless. */
void watchdog_end(Watchdog *watchdog);

#endif
