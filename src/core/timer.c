/* A stack of phases; whenever its top changes, the time since the last change goes to the phase that was on top. */
#include "catdpo/core/timer.h"

#include "catdpo/core/error.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DEPTH = 16 }; /* phases open at once */

struct Timer {
    int count;
    const char *const *names;
    double mark; /* when the running phase was last started, resumed or read */
    int depth;   /* phases open; the innermost runs */
    int stack[DEPTH];
    _Atomic int64_t events;
    _Atomic int running;
    double seconds[]; /* [count], without the part of the running phase since `mark` */
};

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

Timer *timer_new(int count, const char *const names[])
{
    CHECK(count >= 1);
    Timer *timer = calloc(1, sizeof *timer + sizeof *timer->seconds * (size_t)count);
    if (!timer) return NULL;
    timer->count = count;
    timer->names = names;
    atomic_init(&timer->running, count - 1);
    timer_reset(timer);
    return timer;
}

void timer_free(Timer *timer) { free(timer); }

int timer_count(const Timer *timer) { return timer->count; }
const char *const *timer_names(const Timer *timer) { return timer->names; }

static int innermost(const Timer *timer)
{
    return timer->depth > 0 ? timer->stack[timer->depth - 1] : timer->count - 1;
}

static void settle(Timer *timer)
{
    double now = seconds_now();
    timer->seconds[innermost(timer)] += now - timer->mark;
    timer->mark = now;
}

static void moved(Timer *timer)
{
    atomic_store_explicit(&timer->running, innermost(timer), memory_order_relaxed);
    atomic_fetch_add_explicit(&timer->events, 1, memory_order_relaxed);
}

int64_t timer_events(const Timer *timer) { return atomic_load_explicit(&timer->events, memory_order_relaxed); }
int timer_running(const Timer *timer) { return atomic_load_explicit(&timer->running, memory_order_relaxed); }

void timer_reset(Timer *timer)
{
    memset(timer->seconds, 0, sizeof *timer->seconds * (size_t)timer->count);
    timer->mark = seconds_now();
}

void timer_start(Timer *timer, int phase)
{
    if (!timer) return;
    CHECK(timer->depth < DEPTH && phase >= 0 && phase < timer->count);
    settle(timer);
    timer->stack[timer->depth++] = phase;
    moved(timer);
}

void timer_stop(Timer *timer)
{
    if (!timer) return;
    CHECK(timer->depth > 0);
    settle(timer);
    timer->depth--;
    moved(timer);
}

double timer_read(Timer *timer, double seconds[])
{
    settle(timer);
    double sum = 0;
    for (int p = 0; p < timer->count; p++) sum += seconds[p] = timer->seconds[p];
    return sum;
}
