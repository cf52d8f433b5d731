#include "catdpo/rundir/status.h"

#include "catdpo/core/file.h"
#include "catdpo/core/json.h"
#include "catdpo/h5/h5.h"
#include "version.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 4096, LONGEST = 8192 }; /* bytes: taken from the disk at once; of the text at most */

static const char *name_of(int exit_status)
{
    switch (exit_status) {
    case STATUS_RUNNING: return "running";
    case EXIT_DONE: return "done";
    case EXIT_RESUBMIT:
    case EXIT_STOPPED: return "stopped";
    default: return "failed";
    }
}

static void text_if_any(Json *j, const char *key, const char *value)
{
    if (value && *value) json_text(j, key, value);
}

/* Padded with blanks to the room that was taken. Returns its length, or 0. */
static size_t describe(char text[LONGEST], const Writer *w, int exit_status, const char *reason, int64_t step,
                       int64_t total_steps)
{
    char host[256] = "", now[32];
    time_t seconds = time(NULL);
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime(&seconds));
    if (gethostname(host, sizeof host - 1) != 0) *host = '\0';
    FILE *out = fmemopen(text, LONGEST, "w");
    if (!out) return 0;
    Json j = json_begin(out);
    json_object(&j, NULL);
    json_text(&j, "status", name_of(exit_status));
    if (exit_status != STATUS_RUNNING) json_integer(&j, "exit_status", exit_status);
    text_if_any(&j, "reason", reason);
    if (step > 0) json_integer(&j, "step", step);
    if (total_steps > 0) json_integer(&j, "total_steps", total_steps);
    text_if_any(&j, "started", writer_started(w));
    json_text(&j, "time", now);
    text_if_any(&j, "host", host);
    text_if_any(&j, "job", getenv("SLURM_JOB_ID"));
    text_if_any(&j, "log", getenv("CATDPO_LOG"));
    json_text(&j, "version", CATDPO_VERSION);
    json_close(&j);
    while (ftell(out) < ROOM - 1) fputc(' ', out);
    fputc('\n', out);
    size_t length = (size_t)ftell(out);
    return fclose(out) == 0 && length < LONGEST ? length : 0;
}

/* Into a file that is rewritten in place, so that it takes no new room. */
static bool put(const char *path, const char *text, size_t length)
{
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0) return false;
    bool ok = write(file, text, length) == (ssize_t)length && ftruncate(file, (off_t)length) == 0 && fsync(file) == 0;
    return close(file) == 0 && ok;
}

bool status_write(const Writer *w, int exit_status, const char *reason, int64_t step, int64_t total_steps)
{
    Error ignored = { 0 };
    char text[LONGEST], spare[FILE_PATH + 32], path[FILE_PATH + 32];
    size_t length = describe(text, w, exit_status, reason, step, total_steps);
    snprintf(spare, sizeof spare, "%s/status.json", writer_folder(w));
    snprintf(path, sizeof path, "%s/status.json", writer_directory(w));
    if (length == 0 || !put(spare, text, length) || !file_replace(spare, path, &ignored)) return false;
    if (exit_status == STATUS_RUNNING) (void)put(spare, text, length); /* the room for what comes at the end */
    return true;
}
