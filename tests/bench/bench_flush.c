/* What a flush of metrics.h5 costs after few and after many steps: mpirun -n RANKS bench_flush [STEPS ...]
 *
 * Rows of 14 categories and 64 pairs are written up to each number of steps (1000 and 100000 unless named); then
 * 50-step flushes are timed, each from the first rank's entry to the last one's end. */
#include "catdpo/core/timer.h"
#include "../common/sample_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { K = 14, B = 64, P = 13, INTERVAL = 50, FILL = 1000, REPEATS = 21 };

static char category[K][CATEGORY_NAME];
static const uint8_t harm[K] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
static double reals[K + P + B];
static int64_t counts[K + B];

static void append(Metrics *m, int64_t step)
{
    StepMetrics row = sample_step(step, reals, counts);
    metrics_append(m, &row);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double processor_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static double flush(Metrics *m)
{
    Error err = { 0 };
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
    double start = seconds_now();
    if (!metrics_flush(m, &err)) fatal(__FILE__, __LINE__, "%s", err.message);
    double seconds = seconds_now() - start;
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD));
    return seconds;
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    static const char *const phases[P] = { "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m" };
    const char *folder = getenv("TMPDIR");
    char path[FILE_PATH];
    int rank, ranks;
    CHECK_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    CHECK_MPI(MPI_Comm_size(MPI_COMM_WORLD, &ranks));
    snprintf(path, sizeof path, "%s/bench-metrics.h5", folder ? folder : "/tmp");
    for (int k = 0; k < K; k++) snprintf(category[k], CATEGORY_NAME, "category %d", k);
    MetricsInfo info = sample_metrics(K, (const char(*)[CATEGORY_NAME])category, harm, B, P, phases);
    info.capacity = FILL;
    Error err = { 0 };
    Metrics *m = metrics_create(path, &info, MPI_COMM_WORLD, &err);
    if (!m) fatal(__FILE__, __LINE__, "%s", err.message);
    int64_t step = 0;
    for (int i = 1; i < (argc > 1 ? argc : 3); i++) {
        int64_t goal = argc > 1 ? atoll(argv[i]) : i == 1 ? 1000 : 100000;
        double seconds[REPEATS], busy;
        while (step < goal) {
            append(m, ++step);
            if (metrics_full(m) || step == goal) flush(m);
        }
        for (int r = -3; r < REPEATS; r++) { /* the first ones have what larger flushes left to the copies */
            for (int s = 0; s < INTERVAL; s++) append(m, ++step);
            if (r == 0) busy = processor_seconds();
            seconds[r < 0 ? 0 : r] = flush(m);
        }
        busy = (processor_seconds() - busy) / REPEATS;
        qsort(seconds, REPEATS, sizeof *seconds, by_size);
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        if (rank == 0)
            printf("%d ranks, %lld steps written: a flush of %d takes %.1f ms (median of %d; %.1f to %.1f), %.1f ms of "
                   "rank 0's processor; peak memory of rank 0 %.0f MB\n",
                   ranks, (long long)goal, INTERVAL, 1e3 * seconds[REPEATS / 2], REPEATS, 1e3 * seconds[0],
                   1e3 * seconds[REPEATS - 1], 1e3 * busy, (double)usage.ru_maxrss / 1e3);
    }
    metrics_free(m);
    if (rank == 0) unlink(path);
    MPI_Finalize();
    return 0;
}
