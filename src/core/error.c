/* Errors: filled where they happen, agreed by all ranks, printed once by whoever decides what to do. */
#include "catdpo/core/error.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The message stays on one line whatever the user's strings held, so that logs can be searched line by line. */
static void one_line(char *text)
{
    size_t length = strlen(text);
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == ' ')) text[--length] = '\0';
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = ' ';
}

static void fill(Error *err, int exit_status, const char *format, va_list arguments)
{
    if (err->exit_status != EXIT_DONE) return; /* what went wrong first explains the rest */
    err->exit_status = exit_status;
    int length = vsnprintf(err->message, ERROR_LINE, format, arguments);
    if (length >= ERROR_LINE) memcpy(err->message + ERROR_LINE - 4, "...", 4);
    one_line(err->message);
}

bool error_usage(Error *err, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fill(err, EXIT_USAGE, format, arguments);
    va_end(arguments);
    return false;
}

bool error_fault(Error *err, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fill(err, EXIT_FAULT, format, arguments);
    va_end(arguments);
    return false;
}

bool error_stopped(Error *err, bool for_good, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fill(err, for_good ? EXIT_STOPPED : EXIT_RESUBMIT, format, arguments);
    va_end(arguments);
    return false;
}

bool error_also(Error *err, const Error *fault)
{
    size_t used = strlen(err->message), more = strlen(fault->message);
    if (err->exit_status == EXIT_DONE)
        *err = *fault;
    else if (used + more + 2 <= sizeof err->message) {
        err->message[used] = '\n';
        memcpy(err->message + used + 1, fault->message, more + 1);
    }
    return false;
}

bool error_agree(MPI_Comm comm, bool ok, Error *err)
{
    int rank, speaker;
    if (comm == MPI_COMM_NULL) return ok;
    CHECK_MPI(MPI_Comm_rank(comm, &rank));
    int mine = ok ? INT_MAX : rank;
    CHECK_MPI(MPI_Allreduce(&mine, &speaker, 1, MPI_INT, MPI_MIN, comm));
    if (speaker == INT_MAX) return true;

    if (rank == speaker && err->exit_status == EXIT_DONE) error_fault(err, "rank %d failed without a message", rank);
    CHECK_MPI(MPI_Bcast(&err->exit_status, 1, MPI_INT, speaker, comm));
    CHECK_MPI(MPI_Bcast(err->message, (int)sizeof err->message, MPI_CHAR, speaker, comm));
    return false;
}

void fatal(const char *file, int line, const char *format, ...)
{
    int initialized = 0, finalized = 0, rank = 0, length = 0;
    char host[MPI_MAX_PROCESSOR_NAME] = "?";
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    bool mpi = initialized && !finalized;
    if (mpi) {
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        MPI_Get_processor_name(host, &length);
    }

    char text[2048]; /* one write, so that ranks do not mix their words */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fflush(stdout);
    if (mpi)
        fprintf(stderr, "\ncatdpo: internal error on rank %d (%s) at %s:%d: %s\n", rank, host, file, line, text);
    else
        fprintf(stderr, "\ncatdpo: internal error at %s:%d: %s\n", file, line, text);
    fflush(stderr);

    if (mpi) MPI_Abort(MPI_COMM_WORLD, EXIT_FAULT);
    abort();
}
