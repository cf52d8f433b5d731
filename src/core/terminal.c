/* Finding the terminal: the stream itself, or the stderr of the MPI launcher when the stream is a pipe to it (Linux's
 * /proc). */
#define _GNU_SOURCE /* fopencookie */
#include "catdpo/core/terminal.h"

#include "catdpo/core/text.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_launcher(const char *name)
{
    static const char *const names[] = { "mpirun",          "mpiexec",       "orterun",      "prterun",
                                         "mpiexec.hydra",   "mpiexec.mpich", "mpirun.mpich", "mpirun.openmpi",
                                         "hydra_pmi_proxy", "srun" };
    for (size_t k = 0; k < sizeof names / sizeof *names; k++)
        if (strcmp(name, names[k]) == 0) return true;
    return false;
}

/* Name and parent of a process; false if unknown. */
static bool process(long id, char name[64], long *parent)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%ld/stat", id);
    FILE *file = fopen(path, "r");
    if (!file) return false;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    char *open = strchr(text, '('), *close = strrchr(text, ')'); /* "id (name) state parent ..." */
    if (!open || !close || close - open > 63) return false;
    *close = '\0';
    strcpy(name, open + 1);
    return sscanf(close + 1, " %*c %ld", parent) == 1;
}

int terminal_open(int descriptor)
{
    const char *kind = getenv("TERM");
    if (kind && strcmp(kind, "dumb") == 0) return -1;
    if (isatty(descriptor)) return fcntl(descriptor, F_DUPFD_CLOEXEC, 0);

    struct stat info;
    if (fstat(descriptor, &info) != 0 || !S_ISFIFO(info.st_mode)) return -1;
    char name[64], path[64];
    long id = getppid();
    for (int level = 0; level < 3; level++) {
        long parent;
        if (!process(id, name, &parent) || !is_launcher(name)) return -1;
        snprintf(path, sizeof path, "/proc/%ld/fd/2", id);
        int terminal = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
        if (terminal >= 0 && isatty(terminal)) return terminal;
        if (terminal >= 0) close(terminal);
        id = parent;
    }
    return -1;
}

int terminal_width(int terminal)
{
    struct winsize size;
    int columns = ioctl(terminal, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
    return columns == 0 ? 80 : columns < 20 ? 20 : columns;
}

/* ---- terminals that do not have every character ---- */

int terminal_descriptor(FILE *stream)
{
    int descriptor = fileno(stream);
    if (descriptor >= 0) return descriptor;
    return stream == stdout ? STDOUT_FILENO : stream == stderr ? STDERR_FILENO : -1;
}

#ifdef __GLIBC__ /* other libraries cannot put something in the place of stdout */

/* The character that is being written; the rest of it may come with the next write. */
typedef struct Plain {
    int descriptor, length;
    char character[8];
} Plain;

static bool put(int descriptor, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t done = write(descriptor, text, size);
        if (done < 0) return false;
        text += done;
        size -= (size_t)done;
    }
    return true;
}

static ssize_t write_plain(void *context, const char *text, size_t size)
{
    Plain *p = context;
    char out[512];
    size_t used = 0;
    for (size_t k = 0; k < size; k++) {
        if (p->length > 0 && (text[k] & 0xC0) != 0x80) p->length = 0; /* was none after all */
        p->character[p->length++] = text[k];
        p->character[p->length] = '\0';
        unsigned char first = (unsigned char)p->character[0];
        if (p->length < text_character(first)) continue;
        int columns = first < 0x80 ? 1 : text_columns(p->character);
        memcpy(out + used, first < 0x80 ? p->character : "??", (size_t)columns);
        used += (size_t)columns;
        p->length = 0;
        if (used + 2 <= sizeof out && k + 1 < size) continue;
        if (!put(p->descriptor, out, used)) return 0;
        used = 0;
    }
    return used == 0 || put(p->descriptor, out, used) ? (ssize_t)size : 0;
}

static bool asks_for_utf8(void)
{
    static const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG", NULL };
    const char *locale = NULL;
    for (int k = 0; names[k] && !(locale && *locale); k++) locale = getenv(names[k]);
    for (; locale && *locale; locale++)
        if (strncasecmp(locale, "utf-8", 5) == 0 || strncasecmp(locale, "utf8", 4) == 0) return true;
    return false;
}

static FILE *plain_stream(FILE *stream, int descriptor, int mode)
{
    Plain *p = calloc(1, sizeof *p);
    if (!p) return stream;
    p->descriptor = descriptor;
    FILE *plain = fopencookie(p, "w", (cookie_io_functions_t){ .write = write_plain });
    if (plain) setvbuf(plain, NULL, mode, BUFSIZ);
    return plain ? plain : stream;
}

void terminal_make_plain(void)
{
    if (asks_for_utf8()) return;
    int terminal = terminal_open(STDERR_FILENO); /* perhaps behind the launcher */
    if (isatty(STDOUT_FILENO)) stdout = plain_stream(stdout, STDOUT_FILENO, _IOLBF);
    if (terminal >= 0 || isatty(STDERR_FILENO)) stderr = plain_stream(stderr, STDERR_FILENO, _IOLBF);
    if (terminal >= 0) close(terminal);
}

#else

void terminal_make_plain(void) {}

#endif
