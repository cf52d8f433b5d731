/* What a run says while it goes: messages and a progress display on one stream, from one rank.
 *
 * Only the root speaks: every call is allowed on every rank and prints on rank 0 alone, so that callers need no `if`.
 * Nothing here is collective or fails. A clean run warns of nothing. stdout is left to results; the log belongs on
 * stderr.
 */
#ifndef CATDPO_CORE_LOG_H
#define CATDPO_CORE_LOG_H

#include "catdpo/core/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum { PROGRESS_AUTO, PROGRESS_BAR, PROGRESS_PLAIN, PROGRESS_OFF } ProgressMode;

typedef struct Log {
    FILE *stream; /* not owned */
    bool root;    /* this rank speaks */
    int terminal; /* file descriptor of the terminal that shows the stream, also through mpirun's pipe; -1: there is
                       none */
    int shown;    /* columns of a progress bar that stands on the last line and must be wiped first; 0: none */
} Log;

/* `rank` is the caller's in the communicator of the job. */
void log_open(Log *log, FILE *stream, int rank);
void log_close(Log *log);

/* One line, a newline is added. log_warn begins it with "warning: ", log_error with "catdpo: ". */
void log_info(Log *log, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_warn(Log *log, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_error(Log *log, const Error *err);

/* ---- progress of a long loop ---- */

/* What is shown beside the number of steps; each is left out where it is NAN or NULL. A narrow terminal shortens the
 * name and leaves out what does not fit. */
typedef struct ProgressFields {
    double loss; /* nats */
    double tokens_per_second;
    const char *worst; /* name of the category with the highest violation rate */
    double worst_rate; /* its violation rate */
    const char *note;  /* free text, for loops of other kinds */
} ProgressFields;

typedef struct Progress {
    Log *log;          /* not owned */
    ProgressMode mode; /* PROGRESS_BAR, _PLAIN or _OFF: what auto came to */
    const char *title; /* "train"; not owned */
    int64_t first;     /* steps that were done before the loop began */
    int64_t total;
    double began, last; /* seconds of seconds_now(): start, last display */
    int64_t last_done;  /* steps at the last display; -1: none yet */
} Progress;

/* A loop that goes from `done` (> 0 when resumed) to `total` steps. `mode` as configured: auto is a bar on a terminal
 * and plain lines elsewhere. */
void progress_begin(Progress *progress, Log *log, ProgressMode mode, const char *title, int64_t done, int64_t total);

/* `done` steps are done. A bar is drawn ten times a second at most; plain lines come at the first step, the last, each
 * twentieth of the way, and once a minute. The time left is reckoned from the steps so far. `fields` may be NULL. */
void progress_update(Progress *progress, int64_t done, const ProgressFields *fields);

/* The display ends as it stands, on a line of its own. */
void progress_end(Progress *progress);

/* The line of a display of `width` columns (a bar) or without a bar (width 0) into text; for progress_update and its
 * test. Returns its columns. */
int progress_line(const Progress *progress, int64_t done, double now, const ProgressFields *fields, int width,
                  char *text, size_t size);

#endif
