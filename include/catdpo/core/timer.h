/* Time by phase. The caller names the phases (a table; for training it is in phase.h); the last one takes all time that
 * is spent in no phase. Phases exclude each other: starting one inside another pauses the outer one, so that the
 * seconds of all phases add up to the time since the last reset.
 *
 * Starting or stopping costs one reading of the clock. A NULL Timer is allowed in timer_start and timer_stop and
 * measures nothing.
 */
#ifndef CATDPO_CORE_TIMER_H
#define CATDPO_CORE_TIMER_H

#include <mpi.h>
#include <stdint.h>

typedef struct Timer Timer;

/* Seconds of a clock that never goes back. Not collective. */
double seconds_now(void);

/* A timer for phases 0 .. count - 1, count >= 1, reset. `names` is not copied and may not go away.
 * (POSIX has timer_create for itself.) NULL without memory. Not collective. */
Timer *timer_new(int count, const char *const names[]);
void timer_free(Timer *timer); /* NULL is harmless */

int timer_count(const Timer *timer);
const char *const *timer_names(const Timer *timer); /* [count] */

/* All phases to zero; those that are open stay open. Not collective. */
void timer_reset(Timer *timer);

/* Open a phase: the one that was running pauses. Not collective. */
void timer_start(Timer *timer, int phase);

/* Close the innermost open phase; the one around it goes on. Not collective. */
void timer_stop(Timer *timer);

/* Seconds of each phase since the reset, up to now, on this rank: seconds[count]; returns their sum. Not collective. */
double timer_read(Timer *timer, double seconds[]);

/* How often a phase was opened or closed since the timer was made, and the phase that runs now. For other threads too:
 * a timer that stands still tells of a process that does. */
int64_t timer_events(const Timer *timer);
int timer_running(const Timer *timer);

#endif
