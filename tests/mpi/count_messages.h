/* What this rank has sent since it started: see count_messages.c. */
#ifndef CATDPO_TEST_COUNT_MESSAGES_H
#define CATDPO_TEST_COUNT_MESSAGES_H

#include <mpi.h>

double messages_bytes(void);
double messages_calls(void);

#endif
