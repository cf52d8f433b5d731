#include "catdpo/core/stop.h"

#include "catdpo/core/error.h"

#include <signal.h>
#include <string.h>

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
