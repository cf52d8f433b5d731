/* Who says which generated answers are unsafe: rules on their text, or a program, one on each node, to which the node's
 * ranks send what they would have judged. */
#ifndef CATDPO_TRAIN_JUDGING_H
#define CATDPO_TRAIN_JUDGING_H

#include "catdpo/data/prompts.h"
#include "catdpo/judge/coprocess.h"
#include "catdpo/judge/refusal.h"
#include "catdpo/core/timer.h"

#include <stdio.h>

/* Score from which on an answer counts as unsafe. */
#define JUDGING_THRESHOLD 0.5

/* An answer's verdict, as samples.h5 has it. */
typedef struct Judged {
    float score;    /* P(unsafe); negative: not judged */
    int8_t verdict; /* 1: unsafe, 0: not, -1: not judged */
    uint8_t kind;   /* AnswerKind; 255: unknown */
} Judged;

/* The answer to be judged next on this rank: false behind the last. `text` ends with a NUL. */
typedef struct ToJudge {
    int64_t id, prompt;
    const char *text;
    size_t length;
} ToJudge;
typedef bool NextToJudge(void *context, ToJudge *next);
typedef void TakeJudged(void *context, int64_t id, const Judged *judged);

typedef struct Judging {
    bool by_command;
    const Prompts *prompts; /* not owned */
    Timer *timer;           /* not owned */
    MPI_Comm world;         /* not owned */
    MPI_Comm node;          /* owned; MPI_COMM_NULL: rules */
    Coprocess *program;     /* on the first rank of the node */
    char *question;         /* JSON */
    char *prompt;           /* text of the prompt at hand */
    size_t room;            /* bytes of question */
    FILE *writes;           /* into question */
} Judging;

/* command: NULL or empty: the rules. limit: seconds for an answer. longest: bytes of an answer's text at most. Errors
 * are agreed. Collective over world; judging_close in any case. */
bool judging_open(Judging *j, const char *command, double limit, size_t longest, const Prompts *prompts, Timer *timer,
                  MPI_Comm world, Error *err);
void judging_close(Judging *j);

/* Judges all answers that `next` has on the ranks. When a signal asks for the end the rest stays unjudged. Errors are
 * agreed; of the judge's alone. Allocates nothing. Collective over world. */
bool judging_run(Judging *j, NextToJudge *next, TakeJudged *take, void *context, Error *err);

#endif
