#include "catdpo/core/stop.h"

#include "catdpo/core/error.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What a handler may touch has to be global. */
static volatile sig_atomic_t arrived;

static void note(int signal_number)
{
    if (signal_number == SIGINT && arrived == SIGINT) {
        signal(SIGINT, SIG_DFL);
        raise(SIGINT);
    }
    if (!arrived) arrived = signal_number;
}

void stop_catch(void)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGUSR1, SIGUSR2 };
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = note;
    action.sa_flags = SA_RESTART | SA_NODEFER; /* a raised second SIGINT must not wait for the handler's end */
    for (int i = 0; i < 4; i++) CHECK(sigaction(signals[i], &action, NULL) == 0);
}

int stop_signal(void) { return arrived; }

const char *stop_name(int signal_number)
{
    switch (signal_number) {
    case SIGTERM: return "SIGTERM";
    case SIGINT: return "SIGINT";
    case SIGUSR1: return "SIGUSR1";
    case SIGUSR2: return "SIGUSR2";
    default: return "a signal";
    }
}

/* The name of a process, and its parent; 0 if it is not to be seen. */
static long parent_of(long process, char name[32])
{
    char path[64];
    long parent = 0;
    snprintf(path, sizeof path, "/proc/%ld/stat", process);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    int found = fscanf(file, "%*d (%31[^)]) %*c %ld", name, &parent);
    fclose(file);
    return found == 2 ? parent : 0;
}

long stop_launcher(void)
{
    enum { STEPS = 4 }; /* a shell or a profiler may stand between */
    static const char *const names[] = { "mpirun",        "mpiexec",      "mpirun.openmpi", "mpiexec.hydra",
                                         "mpiexec.mpich", "mpirun.mpich", "orterun",        "prterun" };
    char name[32];
    long process = getppid();
    for (int i = 0; i < STEPS && process > 1; i++) {
        long parent = parent_of(process, name);
        for (size_t k = 0; parent && k < sizeof names / sizeof *names; k++)
            if (strcmp(name, names[k]) == 0) return process;
        process = parent;
    }
    return 0;
}
