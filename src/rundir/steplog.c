/* log.jsonl: a line a step. */
#include "catdpo/rundir/steplog.h"

#include "catdpo/core/file.h"
#include "catdpo/core/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NUMBER = 32, FIXED = 4096, ESCAPED = 6 * CATEGORY_NAME };

struct StepLog {
    int descriptor;
    int categories;
    char (*name)[CATEGORY_NAME]; /* [K] */
    char *path, *line;
    FILE *text; /* writes into line */
    double first_loss, first_grad_norm;
};

/* ---- opening ----------------------------------------------------------------------------------------------------- */

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

/* A number of the line of the first step; NaN where there is none. */
static double number_in(const char *line, const char *name)
{
    const char *at = strstr(line, name);
    char *end;
    double value = at ? strtod(at + strlen(name), &end) : NAN;
    return at && end != at + strlen(name) ? value : NAN;
}

static void read_first(StepLog *log)
{
    char *line = NULL;
    size_t size = 0;
    FILE *in = fopen(log->path, "r");
    bool first = in && getline(&line, &size, in) > 0 && strncmp(line, "{\"step\":1,", 10) == 0;
    log->first_loss = first ? number_in(line, "\"loss\":") : NAN;
    log->first_grad_norm = first ? number_in(line, "\"grad_norm\":") : NAN;
    free(line);
    if (in) fclose(in);
}

StepLog *steplog_open(const char *path, const char *folder, int64_t keep, int category_count,
                      const char (*category_name)[CATEGORY_NAME], Error *err)
{
    StepLog *log = calloc(1, sizeof *log);
    size_t count = category_count > 0 ? (size_t)category_count : 1;
    size_t size = FIXED + 3 * count * (ESCAPED + NUMBER + 4);
    if (log) {
        *log = (StepLog){ .descriptor = -1,
                          .categories = category_count,
                          .path = strdup(path),
                          .name = calloc(count, sizeof *log->name),
                          .line = calloc(1, size) };
        log->text = log->line ? fmemopen(log->line, size, "w") : NULL;
    }
    if (!log || !log->path || !log->name || !log->text)
        error_fault(err, "%s: no memory left to write it", path);
    else
        log->descriptor = renew(path, folder, keep, err);
    if (!log || log->descriptor < 0) {
        steplog_close(log);
        return NULL;
    }
    memcpy(log->name, category_name, (size_t)category_count * sizeof *log->name);
    read_first(log);
    return log;
}

double steplog_first_loss(const StepLog *log) { return log->first_loss; }
double steplog_first_grad_norm(const StepLog *log) { return log->first_grad_norm; }

void steplog_close(StepLog *log)
{
    if (!log) return;
    if (log->descriptor >= 0) close(log->descriptor);
    if (log->text) fclose(log->text);
    free(log->path);
    free(log->name);
    free(log->line);
    free(log);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void write_categories(const StepLog *log, Json *j, const char *name, const double values[])
{
    json_object(j, name);
    for (int k = 0; k < log->categories; k++) json_number(j, log->name[k], values[k]);
    json_close(j);
}

/* The rates of the probe before the step, of the categories that it has. */
static void write_probe(const StepLog *log, Json *j, const StepMetrics *row)
{
    json_object(j, "probe_rate");
    for (int k = 0; k < log->categories; k++)
        if (row->probe_n[k] > 0) json_number(j, log->name[k], row->probe_violations[k] / row->probe_n[k]);
    json_close(j);
}

bool steplog_write(StepLog *log, const StepMetrics *row, double tokens_per_second, int64_t total_steps,
                   const char *warning, Error *err)
{
    rewind(log->text);
    Json j = json_begin(log->text);
    json_object(&j, NULL);
    json_integer(&j, "step", row->step);
    json_integer(&j, "total_steps", total_steps);
    json_number(&j, "epoch", row->epoch);
    json_number(&j, "loss", row->loss);
    json_number(&j, "grad_norm", row->grad_norm);
    json_number(&j, "learning_rate", row->learning_rate);
    json_number(&j, "tokens_per_second", tokens_per_second);
    json_number(&j, "rewards/margins", row->rewards_margins);
    json_number(&j, "rewards/accuracies", row->rewards_accuracies);
    json_number(&j, "seconds", row->step_seconds);
    if (warning) json_text(&j, "warning", warning);
    write_categories(log, &j, "margins", row->margin);
    write_categories(log, &j, "violation_rate", row->violation_rate);
    if (row->probe_n) write_probe(log, &j, row);
    json_close(&j);
    fputc('\n', log->text);
    CHECK(fflush(log->text) == 0 && !ferror(log->text));
    size_t length = (size_t)ftell(log->text);
    ssize_t written;
    do written = write(log->descriptor, log->line, length);
    while (written < 0 && errno == EINTR);
    if (written == (ssize_t)length) return true;
    return error_fault(err, "%s: cannot write: %s", log->path, written < 0 ? strerror(errno) : "no space left");
}

bool steplog_sync(StepLog *log, Error *err)
{
    return fsync(log->descriptor) == 0 || error_fault(err, "%s: cannot flush to disk: %s", log->path, strerror(errno));
}
