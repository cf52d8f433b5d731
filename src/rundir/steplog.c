/* log.jsonl: a line a step. */
#include "catdpo/rundir/steplog.h"

#include "catdpo/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NUMBER = 32, FIXED = 1024, ESCAPED = 6 * CATEGORY_NAME };

struct StepLog {
    int descriptor;
    int categories;
    char (*name)[ESCAPED]; /* [K], as it stands in JSON, without quotes */
    char *path, *line;
    size_t size, used; /* of line */
};

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static void escape(const char *text, char *out)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            out += sprintf(out, "\\%c", *c);
        else if (*c < ' ' || *c == 127)
            out += sprintf(out, "\\u%04x", *c);
        else
            *out++ = (char)*c;
    }
    *out = '\0';
}

/* Where the line after step `keep` would begin: behind the last whole line of a step up to keep. */
static long find_end(FILE *in, int64_t keep)
{
    long end = 0;
    char *line = NULL;
    size_t size = 0;
    ssize_t length;
    while ((length = getline(&line, &size, in)) > 0 && line[length - 1] == '\n') {
        long long step;
        if (sscanf(line, "{\"step\":%lld", &step) != 1 || step > keep) break;
        end = ftell(in);
    }
    free(line);
    return end;
}

/* The first `size` bytes of one file at the end of another. */
static bool copy_start(FILE *in, int out, long size)
{
    char buffer[4096];
    rewind(in);
    while (size > 0) {
        size_t got = fread(buffer, 1, size < (long)sizeof buffer ? (size_t)size : sizeof buffer, in);
        if (got == 0 || write(out, buffer, got) != (ssize_t)got) return false;
        size -= (long)got;
    }
    return true;
}

/* A new file with the lines up to step `keep`, under the final name; its descriptor, or -1. */
static int renew(const char *path, const char *folder, int64_t keep, Error *err)
{
    char unfinished[2048];
    if (!file_temporary(path, folder, unfinished, sizeof unfinished, err)) return -1;
    FILE *in = keep > 0 ? fopen(path, "r") : NULL;
    if (keep > 0 && !in && errno != ENOENT) {
        error_fault(err, "%s: cannot read: %s", path, strerror(errno));
        return -1;
    }
    int out = open(unfinished, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
    bool ok = (out >= 0 && (!in || copy_start(in, out, find_end(in, keep)))) ||
              error_fault(err, "%s: cannot write: %s", path, strerror(errno));
    ok = ok && file_replace(unfinished, path, err);
    if (in) fclose(in);
    if (ok) return out;
    if (out >= 0) close(out);
    unlink(unfinished);
    return -1;
}

StepLog *steplog_open(const char *path, const char *folder, int64_t keep, int category_count,
                      const char (*category_name)[CATEGORY_NAME], Error *err)
{
    int descriptor = renew(path, folder, keep, err);
    if (descriptor < 0) return NULL;
    StepLog *log = calloc(1, sizeof *log);
    CHECK(log);
    log->descriptor = descriptor;
    log->categories = category_count;
    log->path = strdup(path);
    log->name = calloc(category_count > 0 ? category_count : 1, sizeof *log->name);
    log->size = FIXED + 2 * (size_t)category_count * (ESCAPED + NUMBER + 4);
    log->line = malloc(log->size);
    CHECK(log->path && log->name && log->line);
    for (int k = 0; k < category_count; k++) escape(category_name[k], log->name[k]);
    return log;
}

void steplog_close(StepLog *log)
{
    if (!log) return;
    close(log->descriptor);
    free(log->path);
    free(log->name);
    free(log->line);
    free(log);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void add(StepLog *log, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(StepLog *log, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(log->line + log->used, log->size - log->used, format, arguments);
    va_end(arguments);
    CHECK(length >= 0 && (size_t)length < log->size - log->used);
    log->used += (size_t)length;
}

static void add_number(StepLog *log, const char *name, double value)
{
    if (isfinite(value))
        add(log, "\"%s\":%.10g", name, value);
    else
        add(log, "\"%s\":null", name);
}

static void add_categories(StepLog *log, const char *name, const double values[])
{
    add(log, ",\"%s\":{", name);
    for (int k = 0; k < log->categories; k++) {
        if (k) add(log, ",");
        add_number(log, log->name[k], values[k]);
    }
    add(log, "}");
}

bool steplog_write(StepLog *log, const StepMetrics *row, double tokens_per_second, int64_t total_steps, Error *err)
{
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        { "epoch", row->epoch },
        { "loss", row->loss },
        { "grad_norm", row->grad_norm },
        { "learning_rate", row->learning_rate },
        { "tokens_per_second", tokens_per_second },
        { "rewards/margins", row->rewards_margins },
        { "rewards/accuracies", row->rewards_accuracies },
        { "seconds", row->step_seconds },
    };
    log->used = 0;
    add(log, "{\"step\":%" PRId64 ",\"total_steps\":%" PRId64, row->step, total_steps);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        add(log, ",");
        add_number(log, numbers[i].name, numbers[i].value);
    }
    add_categories(log, "margins", row->margin);
    add_categories(log, "violation_rate", row->violation_rate);
    add(log, "}\n");
    ssize_t written;
    do written = write(log->descriptor, log->line, log->used);
    while (written < 0 && errno == EINTR);
    if (written == (ssize_t)log->used) return true;
    return error_fault(err, "%s: cannot write: %s", log->path, written < 0 ? strerror(errno) : "no space left");
}

bool steplog_sync(StepLog *log, Error *err)
{
    return fsync(log->descriptor) == 0 || error_fault(err, "%s: cannot flush to disk: %s", log->path, strerror(errno));
}
