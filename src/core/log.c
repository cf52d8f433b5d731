/* Messages and progress on one stream. A bar stands on the last line without a newline; whatever is printed next wipes
 * it first. */
#include "catdpo/core/log.h"

#include "catdpo/core/timer.h"
#include "catdpo/core/terminal.h"
#include "catdpo/core/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- messages ---- */

void log_open(Log *log, FILE *stream, int rank)
{
    *log = (Log){ .stream = stream, .root = rank == 0, .terminal = -1 };
    if (log->root) log->terminal = terminal_open(terminal_descriptor(stream));
}

static void wipe(Log *log)
{
    if (log->shown > 0) fprintf(log->stream, "\r%*s\r", log->shown, "");
    log->shown = 0;
}

void log_close(Log *log)
{
    wipe(log);
    if (log->terminal >= 0) close(log->terminal);
    log->terminal = -1;
}

static void say(Log *log, const char *prefix, const char *format, va_list arguments)
{
    if (!log->root) return;
    wipe(log);
    fputs(prefix, log->stream);
    vfprintf(log->stream, format, arguments);
    fputc('\n', log->stream);
    fflush(log->stream);
}

void log_info(Log *log, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(log, "", format, arguments);
    va_end(arguments);
}

void log_warn(Log *log, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(log, "warning: ", format, arguments);
    va_end(arguments);
}

static void say_text(Log *log, const char *prefix, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(log, prefix, format, arguments);
    va_end(arguments);
}

void log_error(Log *log, const Error *err)
{
    for (const char *line = err->message;; line++) { /* each fault on a line that can be searched for */
        int length = (int)strcspn(line, "\n");
        say_text(log, "catdpo: ", "%.*s", length, line);
        line += length;
        if (!*line) break;
    }
}

/* ---- progress ---- */

enum { LINE = 512, SMALLEST_BAR = 10, LARGEST_BAR = 40, LONGEST_NAME = 24, SHORTEST_NAME = 6 };

void progress_begin(Progress *progress, Log *log, ProgressMode mode, const char *title, int64_t done, int64_t total)
{
    if (mode == PROGRESS_AUTO) mode = log->terminal >= 0 ? PROGRESS_BAR : PROGRESS_PLAIN;
    if (!log->root) mode = PROGRESS_OFF;
    double now = seconds_now();
    *progress = (Progress){ .log = log,
                            .mode = mode,
                            .title = title,
                            .first = done,
                            .total = total,
                            .began = now,
                            .last = now,
                            .last_done = -1 };
}

static void write_duration(double seconds, char text[32])
{
    long s = seconds > 1e8 ? 100000000L : lrint(seconds);
    if (s < 3600)
        snprintf(text, 32, "%ld:%02ld", s / 60, s % 60);
    else
        snprintf(text, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

static void write_rate(double rate, char text[32])
{
    if (rate < 9999.5)
        snprintf(text, 32, "%.0f tok/s", rate);
    else if (rate < 999950)
        snprintf(text, 32, "%.1fk tok/s", rate / 1e3);
    else
        snprintf(text, 32, "%.2fM tok/s", rate / 1e6);
}

/* "worst Privacy 62% violated", with as much of the name, and the last word only, as `room` columns hold; empty if they
 * hold less than a few letters. */
static void write_worst(const ProgressFields *fields, int room, char *text, size_t size)
{
    static const char unit[] = " violated";
    text[0] = '\0';
    if (!fields->worst || isnan(fields->worst_rate)) return;
    char rate[16];
    snprintf(rate, sizeof rate, "%.0f%%", 100 * fields->worst_rate);
    int longest = room - (int)strlen("worst  ") - (int)strlen(rate), whole = text_columns(fields->worst);
    if (longest > LONGEST_NAME + (int)strlen(unit)) longest = LONGEST_NAME + (int)strlen(unit);
    int wanted = whole < LONGEST_NAME ? whole : LONGEST_NAME;
    bool with_unit = longest >= wanted + (int)strlen(unit);
    if (longest > LONGEST_NAME) longest = LONGEST_NAME;
    if (longest < SHORTEST_NAME && longest < whole) return;
    int bytes = text_bytes(fields->worst, longest);
    while (bytes > 0 && fields->worst[bytes - 1] == ' ') bytes--;
    snprintf(text, size, "worst %.*s %s%s", bytes, fields->worst, rate, with_unit ? unit : "");
}

int progress_line(const Progress *p, int64_t done, double now, const ProgressFields *fields, int width, char *text,
                  size_t size)
{
    static const ProgressFields nothing = { NAN, NAN, NULL, NAN, NULL };
    if (!fields) fields = &nothing;

    enum { WORST = 3, PARTS = 5 };
    char part[PARTS][LINE / 4] = { "", "", "", "", "" }, word[32]; /* in order of importance */
    if (done > p->first && done < p->total) {
        write_duration((now - p->began) / (double)(done - p->first) * (double)(p->total - done), word);
        snprintf(part[0], sizeof part[0], "%s left", word);
    } else if (done >= p->total) {
        write_duration(now - p->began, word);
        snprintf(part[0], sizeof part[0], "in %s", word);
    }
    if (!isnan(fields->loss)) snprintf(part[1], sizeof part[1], "loss %.4f", fields->loss);
    if (!isnan(fields->tokens_per_second)) write_rate(fields->tokens_per_second, part[2]);
    if (fields->note) snprintf(part[4], sizeof part[4], "%.*s", text_bytes(fields->note, LINE / 16), fields->note);

    char digits[32];
    int places = snprintf(digits, sizeof digits, "%lld", (long long)p->total);
    size_t used = (size_t)snprintf(text, size, "%s %*lld/%s", p->title, places, (long long)done, digits);
    int left = width > 0 ? width - 1 - text_columns(text)
                         : LINE;      /* the last column stays free: some terminals break the line there */
    for (int k = 0; k < PARTS; k++) { /* which parts fit */
        if (k == WORST) write_worst(fields, left - 2, part[k], sizeof part[k]);
        int needs = part[k][0] ? text_columns(part[k]) + 2 : 0;
        if (needs > left)
            part[k][0] = '\0';
        else
            left -= needs;
    }
    int bar = width > 0 && left >= SMALLEST_BAR + 3 ? (left - 3 < LARGEST_BAR ? left - 3 : LARGEST_BAR) : 0;
    if (bar > 0 && used < size) {
        int filled = p->total > 0 ? (int)((double)bar * (double)done / (double)p->total) : bar;
        char cells[LARGEST_BAR + 1];
        memset(cells, '.', (size_t)bar);
        memset(cells, '#', (size_t)(filled > bar ? bar : filled < 0 ? 0 : filled));
        used += (size_t)snprintf(text + used, size - used, " [%.*s]", bar, cells);
    }
    static const int shown_order[PARTS] = { 1, 2, 3, 4, 0 };
    for (int k = 0; k < PARTS; k++)
        if (part[shown_order[k]][0] && used < size)
            used += (size_t)snprintf(text + used, size - used, "  %s", part[shown_order[k]]);
    return text_columns(text);
}

static bool is_due(const Progress *p, int64_t done, double now)
{
    if (p->last_done < 0 || done >= p->total) return true;
    if (p->mode == PROGRESS_BAR) return now - p->last >= 0.1;
    bool far = (done - p->last_done) * 20 >= p->total;
    return now - p->last >= 60 || (far && now - p->last >= 1);
}

void progress_update(Progress *p, int64_t done, const ProgressFields *fields)
{
    double now = seconds_now();
    if (p->mode == PROGRESS_OFF || done == p->last_done || !is_due(p, done, now)) return;
    p->last = now;
    p->last_done = done;

    Log *log = p->log;
    char text[LINE];
    if (p->mode == PROGRESS_PLAIN) {
        progress_line(p, done, now, fields, 0, text, sizeof text);
        fprintf(log->stream, "%s\n", text);
    } else {
        int width = log->terminal >= 0 ? terminal_width(log->terminal) : 80;
        int now_shown = progress_line(p, done, now, fields, width, text, sizeof text);
        int rest = log->shown > now_shown ? log->shown - now_shown : 0; /* of the last display, to be covered */
        fprintf(log->stream, "\r%s%*s", text, rest, "");
        log->shown = now_shown;
    }
    fflush(log->stream);
}

void progress_end(Progress *p)
{
    if (p->mode == PROGRESS_BAR && p->log->shown > 0) {
        fputc('\n', p->log->stream);
        fflush(p->log->stream);
        p->log->shown = 0;
    }
    p->mode = PROGRESS_OFF;
}
