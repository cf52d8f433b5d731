#ifndef CATDPO_CORE_THREAD_H
#define CATDPO_CORE_THREAD_H

#include <pthread.h>

/* pthread_create with all signals blocked in the new thread: they are the main thread's business. */
int thread_start(pthread_t *thread, void *(*work)(void *), void *argument);

#endif
