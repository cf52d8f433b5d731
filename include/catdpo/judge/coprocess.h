/* A program that answers each line that it is sent with one line. It is started by /bin/sh, in a process group of its
 * own, so that Ctrl-C does not reach it; its stderr is ours. Nothing is collective. */
#ifndef CATDPO_JUDGE_COPROCESS_H
#define CATDPO_JUDGE_COPROCESS_H

#include "catdpo/core/error.h"

#include <stddef.h>

typedef struct Coprocess Coprocess;

/* limit: seconds for one answer. EXIT_USAGE if it cannot be started; a command that the shell does not find is found
 * out by the first question. */
bool coprocess_start(Coprocess **program, const char *command, double limit, Error *err);

/* Sends the line (without its end) and waits for the one that answers it, in answer[size] with its NUL. Everything else
 * is an error that says what was sent and what came: the program ends, closes a pipe, gives no answer in time, or has
 * said more than it was asked. Allocates nothing. */
bool coprocess_ask(Coprocess *program, const char *line, char *answer, size_t size, Error *err);

/* A number in [0, 1] alone on its line, or as {"score": number}; *score is then that number. */
bool coprocess_score(Coprocess *program, const char *line, const char *answer, double *score, Error *err);

/* Its input ends, and so should it; after a few seconds it is killed. NULL is harmless. */
void coprocess_end(Coprocess *program);

#endif
