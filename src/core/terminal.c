/* Finding the terminal: the stream itself, or the stderr of the MPI launcher when the stream is a pipe to it (Linux's
 * /proc). */
#include "catdpo/core/terminal.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_launcher(const char *name)
{
    static const char *const names[] = { "mpirun",        "mpiexec",         "orterun", "prterun",
                                         "mpiexec.hydra", "hydra_pmi_proxy", "srun" };
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
