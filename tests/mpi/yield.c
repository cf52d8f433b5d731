/* Loaded before MPICH on UCX: a rank that waits gives its core to another one. Without it more ranks than cores take
 * turns by time slices, and a test lasts fifty times as long (tests/run.sh --mpich). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>

unsigned ucp_worker_progress(void *worker);

unsigned ucp_worker_progress(void *worker)
{
    static unsigned (*progress)(void *);
    if (!progress) *(void **)&progress = dlsym(RTLD_NEXT, "ucp_worker_progress");
    unsigned events = progress(worker);
    if (events == 0) sched_yield();
    return events;
}
