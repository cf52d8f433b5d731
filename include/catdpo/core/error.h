/* Errors: one message, agreed by all ranks, said once.
 *
 * Two tiers. Faults of the user or the environment (a bad config, a missing file, a full disk) fill an Error and travel
 * up as `false`; only a command decides what to do with them. Our own bugs and failures of MPI itself end the job at
 * once through the CHECK macros below.
 */
#ifndef CATDPO_CORE_ERROR_H
#define CATDPO_CORE_ERROR_H

#include <mpi.h>
#include <stdbool.h>

/* Exit statuses of the program; every rank ends with the same one. */
enum {
    EXIT_DONE = 0,
    EXIT_FAULT = 1,     /* something failed while running: I/O, numbers, memory */
    EXIT_USAGE = 2,     /* command line, config or input files are wrong: fix them before trying again */
    EXIT_RESUBMIT = 85, /* stopped by a signal or the time limit, after saving: submit the same again */
    EXIT_STOPPED =
        86, /* stopped by the file "stop" in the run directory, after saving: not to be started again by itself */
};

enum { ERROR_LINE = 1024 }; /* bytes of a line of a message at most */

typedef struct Error {
    int exit_status;              /* EXIT_DONE while nothing failed */
    char message[4 * ERROR_LINE]; /* what was wrong, where, and what to do; one line, or one for each of several faults
                           of the same kind (error_also); no trailing newline */
} Error;

/* Fill err (exit status and printf-style message) and return false, so that `return error_fault(err, ...)` reads well.
 * The first message wins: an Error that is already set is left as it is. Not collective. */
bool error_usage(Error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool error_fault(Error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same where nothing is wrong and the work was stopped on request: EXIT_RESUBMIT, or EXIT_STOPPED if `for_good`. */
bool error_stopped(Error *err, bool for_good, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A further fault beside those in err, as a line of its own; as many as fit. Returns false. Not collective. */
bool error_also(Error *err, const Error *fault);

/* Collective over comm. Returns true on every rank if `ok` is true on every rank. Otherwise false on every rank, and
 * every rank's err holds the message of the lowest rank that failed. MPI_COMM_NULL: this process alone. */
bool error_agree(MPI_Comm comm, bool ok, Error *err);

/* Our own bug or MPI's failure: print place, rank and text to stderr and MPI_Abort. Never returns. Not collective. */
void fatal(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4), noreturn));

/* MPI: every call returns MPI_SUCCESS or the job ends (communicators keep MPI_ERRORS_ARE_FATAL as well). */
#define CHECK_MPI(call)                                                                                                \
    do {                                                                                                               \
        int status_ = (call);                                                                                          \
        if (status_ != MPI_SUCCESS) fatal(__FILE__, __LINE__, "%s returned %d", #call, status_);                       \
    } while (0)

/* A condition that only a bug can break; always on. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) fatal(__FILE__, __LINE__, "check failed: %s", #condition);                                   \
    } while (0)

#endif
