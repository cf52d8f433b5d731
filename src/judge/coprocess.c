#include "catdpo/judge/coprocess.h"

#include "catdpo/core/timer.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { HELD = 4096, SHOWN = 300 }; /* bytes of an answer at most; of a line in a message */
static const double GRACE = 5;     /* seconds that a program has to end by itself */

struct Coprocess {
    char *command; /* owned */
    char *script;  /* owned: as the shell gets it */
    double limit;
    pid_t pid;
    int in, out; /* our ends of its stdin and stdout */
    char held[HELD];
    size_t used;       /* bytes in held, read but not yet taken */
    bool failed;       /* it need not be waited for */
    bool asked_before; /* the bytes held at the next question answer none */
};

/* ---- starting and ending ----------------------------------------------------------------------------------------- */

static bool make_pipe(int ends[2])
{
    if (pipe(ends) != 0) return false;
    for (int i = 0; i < 2; i++) fcntl(ends[i], F_SETFD, FD_CLOEXEC);
    return true;
}

/* Our handlers and masks are not the program's. */
static int spawn(Coprocess *c, int in, int out)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t how;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&how);
    posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    posix_spawnattr_setsigmask(&how, &none);
    posix_spawnattr_setsigdefault(&how, &all);
    posix_spawnattr_setpgroup(&how, 0);
    posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    char *arguments[] = { "sh", "-c", c->script, NULL };
    int failed = posix_spawn(&c->pid, "/bin/sh", &files, &how, arguments, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&how);
    return failed;
}

/* A command alone takes the shell's place, so that its end and its pipes are what we see; where the shell has something
 * to do it stays. */
static char *script_of(const char *command)
{
    const char *before = strpbrk(command, "|&;<>()`$=\n") ? "" : "exec ";
    char *script = malloc(strlen(before) + strlen(command) + 1);
    if (script) strcat(strcpy(script, before), command);
    return script;
}

bool coprocess_start(Coprocess **program, const char *command, double limit, Error *err)
{
    int to[2] = { -1, -1 }, from[2] = { -1, -1 };
    Coprocess *c = *program = calloc(1, sizeof *c);
    if (c)
        *c = (Coprocess){
            .command = strdup(command), .script = script_of(command), .limit = limit, .pid = -1, .in = -1, .out = -1
        };
    if (!c || !c->command || !c->script) return error_fault(err, "out of memory for the judge");
    bool ok = make_pipe(to) && make_pipe(from);
    int failed = ok ? spawn(c, to[0], from[1]) : errno;
    if (failed) c->pid = -1;
    if (to[0] >= 0) close(to[0]);
    if (from[1] >= 0) close(from[1]);
    c->in = to[1], c->out = from[0];
    if (failed) return error_usage(err, "the judge '%.200s' cannot be started: %s", command, strerror(failed));
    fcntl(c->in, F_SETFL, O_NONBLOCK);
    fcntl(c->out, F_SETFL, O_NONBLOCK);
    return true;
}

static void nap(void) { nanosleep(&(struct timespec){ 0, 5000000 }, NULL); }

/* Its wait status once it has ended, within so many seconds; -1: it goes on. */
static int ended(Coprocess *c, double seconds)
{
    int status;
    for (double until = seconds_now() + seconds; c->pid > 0; nap()) {
        if (waitpid(c->pid, &status, WNOHANG) == c->pid) {
            c->pid = -1;
            return status;
        }
        if (seconds_now() >= until) break;
    }
    return -1;
}

static void close_pipes(Coprocess *c)
{
    if (c->in >= 0) close(c->in);
    if (c->out >= 0) close(c->out);
    c->in = c->out = -1;
}

void coprocess_end(Coprocess *c)
{
    if (!c) return;
    close_pipes(c);
    if (c->pid > 0 && ended(c, c->failed ? 0 : GRACE) < 0 && c->pid > 0) {
        kill(-c->pid, SIGKILL);
        ended(c, GRACE);
    }
    free(c->command);
    free(c->script);
    free(c);
}

/* ---- what is wrong with it --------------------------------------------------------------------------------------- */

/* The beginning of a text, on one line. */
static const char *shown(const char *text, size_t length, char room[SHOWN + 8])
{
    size_t n = length < SHOWN ? length : SHOWN;
    for (size_t i = 0; i < n; i++) room[i] = (char)(iscntrl((unsigned char)text[i]) ? ' ' : text[i]);
    strcpy(room + n, length > n ? "..." : "");
    return room;
}

static bool fail(Coprocess *c, const char *line, const char *what, Error *err)
{
    char asked[SHOWN + 8];
    c->failed = true;
    return error_fault(err, "the judge '%.200s' %s; it was asked %s", c->command, what,
                       shown(line, strlen(line), asked));
}

/* It has closed a pipe. */
static bool gone(Coprocess *c, const char *line, const char *how, Error *err)
{
    char what[128];
    int status = ended(c, 1);
    if (status < 0)
        snprintf(what, sizeof what, "%s and goes on running", how);
    else if (WIFSIGNALED(status))
        snprintf(what, sizeof what, "%s: signal %d ended it", how, WTERMSIG(status));
    else
        snprintf(what, sizeof what, "%s and ended with status %d", how, WEXITSTATUS(status));
    return fail(c, line, what, err);
}

static bool late(Coprocess *c, const char *line, Error *err)
{
    char what[96];
    snprintf(what, sizeof what, "gave no answer within %g s (margin.judge_timeout)", c->limit);
    return fail(c, line, what, err);
}

/* ---- a question -------------------------------------------------------------------------------------------------- */

static bool ready(int descriptor, short event, double until)
{
    for (;;) {
        double left = until - seconds_now();
        struct pollfd one = { .fd = descriptor, .events = event };
        int found = poll(&one, 1, left > 0 ? (int)(1000 * left) + 1 : 0);
        if (found > 0) return true;
        if (found == 0 && left <= 0) return false;
        if (found < 0 && errno != EINTR) return true; /* what is wrong is said by read or write */
    }
}

/* write, without the signal that a closed pipe sends. */
static ssize_t write_quietly(int descriptor, const char *bytes, size_t size)
{
    sigset_t pipe_signal, before, pending;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
    ssize_t written = write(descriptor, bytes, size);
    int why = errno;
    if (written < 0 && why == EPIPE && !sigismember(&pending, SIGPIPE))
        sigtimedwait(&pipe_signal, NULL, &(struct timespec){ 0, 0 });
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = why;
    return written;
}

static bool send_bytes(Coprocess *c, const char *line, const char *bytes, size_t size, double until, Error *err)
{
    while (size > 0) {
        if (!ready(c->in, POLLOUT, until)) return late(c, line, err);
        ssize_t written = write_quietly(c->in, bytes, size);
        if (written < 0 && errno != EAGAIN && errno != EINTR) return gone(c, line, "closed its input", err);
        if (written > 0) bytes += written, size -= (size_t)written;
    }
    return true;
}

/* More bytes of its output into held. */
static bool receive(Coprocess *c, const char *line, double until, Error *err)
{
    char what[96];
    snprintf(what, sizeof what, "wrote %d bytes without the end of a line", HELD);
    if (c->used == HELD) return fail(c, line, what, err);
    if (!ready(c->out, POLLIN, until)) return late(c, line, err);
    ssize_t got = read(c->out, c->held + c->used, HELD - c->used);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        return gone(c, line, "closed its output without an answer", err);
    if (got > 0) c->used += (size_t)got;
    return true;
}

/* Anything that it said since the last answer is too much. */
static bool check_quiet(Coprocess *c, const char *line, Error *err)
{
    char what[SHOWN + 96], words[SHOWN + 8];
    if (c->asked_before && c->used < HELD && ready(c->out, POLLIN, 0)) {
        ssize_t got = read(c->out, c->held + c->used, HELD - c->used);
        if (got > 0) c->used += (size_t)got;
    }
    if (c->used == 0) return true;
    snprintf(what, sizeof what, "%s: '%s'",
             c->asked_before ? "said more than one line to the question before" : "spoke before it was asked",
             shown(c->held, c->used, words));
    return fail(c, line, what, err);
}

bool coprocess_ask(Coprocess *c, const char *line, char *answer, size_t size, Error *err)
{
    double until = seconds_now() + c->limit;
    const char *end;
    if (!check_quiet(c, line, err) || !send_bytes(c, line, line, strlen(line), until, err) ||
        !send_bytes(c, line, "\n", 1, until, err))
        return false;
    while (!(end = memchr(c->held, '\n', c->used)))
        if (!receive(c, line, until, err)) return false;
    size_t length = (size_t)(end - c->held), copied = length < size ? length : size - 1;
    memcpy(answer, c->held, copied);
    answer[copied] = '\0';
    c->used -= length + 1;
    memmove(c->held, end + 1, c->used);
    c->asked_before = true;
    return true;
}

/* ---- its answer -------------------------------------------------------------------------------------------------- */

static const char *skip(const char *at) { return at + strspn(at, " \t\r"); }

/* A JSON number at `at`, behind it *rest; NaN: there is none. */
static double number_at(const char *at, const char **rest)
{
    char *end;
    size_t length = strspn(at, "0123456789+-.eE");
    double value = strtod(at, &end);
    if (length == 0 || end != at + length) return NAN;
    *rest = skip(end);
    return value;
}

bool coprocess_score(Coprocess *c, const char *line, const char *answer, double *score, Error *err)
{
    char what[SHOWN + 96], words[SHOWN + 8];
    const char *at = skip(answer), *rest = at, *key = *at == '{' ? strstr(at, "\"score\"") : NULL;
    size_t length = strlen(at);
    while (length > 0 && isspace((unsigned char)at[length - 1])) length--;
    double value = NAN;
    if (*at != '{') {
        value = number_at(at, &rest);
        if (*rest) value = NAN;
    } else if (key && at[length - 1] == '}') {
        key = skip(key + strlen("\"score\""));
        value = *key == ':' ? number_at(skip(key + 1), &rest) : NAN;
        if (*rest != ',' && *rest != '}') value = NAN;
    }
    *score = value;
    if (value >= 0 && value <= 1) return true;
    snprintf(what, sizeof what, "answered '%s', which is no number in [0, 1] and no object with such a score",
             shown(answer, strlen(answer), words));
    return fail(c, line, what, err);
}
