/* Promise: the phase times and the peak memory that are shown are those of all ranks, and the same on every rank. */
#include "catdpo/memory.h"
#include "catdpo/timer.h"

#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    int rank, size;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);

    static const char *const names[] = {"early", "late", "other"};
    Timer *timer = timer_new(3, names);
    timer_start(timer, 0);
    usleep(20000 * (unsigned)(rank + 1));
    timer_stop(timer);
    timer_start(timer, 1);
    usleep(20000 * (unsigned)(size - rank));
    timer_stop(timer);
    double seconds[3], first[3], sum = timer_reduce(timer, seconds, MPI_COMM_WORLD), spent = 0.02 * (size + 1);
    CHECK(seconds[0] >= 0.02 * size && seconds[1] >= 0.02 * size); /* the last rank's and the first one's */
    CHECK(sum >= spent && sum <= seconds[0] + seconds[1] + seconds[2] + 1e-9);
    memcpy(first, seconds, sizeof first);
    CHECK_MPI(MPI_Bcast(first, 3, MPI_DOUBLE, 0, MPI_COMM_WORLD));
    CHECK(memcmp(first, seconds, sizeof first) == 0);
    timer_free(timer);

    double mine = (double)memory_peak(), all, largest;
    memory_peak_all(MPI_COMM_WORLD, &all, &largest);
    CHECK(largest >= mine && all >= largest && all <= largest * size);
    MPI_Finalize();
    return 0;
}
