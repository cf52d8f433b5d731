#define _GNU_SOURCE
#include "catdpo/parallel/blas_check.h"

#include "catdpo/parallel/gemm.h"
#include "catdpo/core/timer.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void sgemm_(void);

static const char *openblas_core(void)
{
    union {
        void *object;
        const char *(*call)(void);
    } symbol = { dlsym(RTLD_DEFAULT, "openblas_get_corename") };
    return symbol.object ? symbol.call() : "";
}

static const char *openblas_config(void)
{
    union {
        void *object;
        const char *(*call)(void);
    } symbol = { dlsym(RTLD_DEFAULT, "openblas_get_config") };
    return symbol.object ? symbol.call() : "";
}

/* The kernels to ask for when OpenBLAS chose some that are far below this processor; NULL if its choice is right. */
static const char *better_core(const char *core)
{
#if defined __x86_64__
    static const char *const without_avx2[] = { "Prescott",   "Core2",       "Nehalem", "Westmere", "Penryn",
                                                "Dunnington", "Atom",        "Generic", "Opteron",  "Opteron_SSE3",
                                                "Barcelona",  "Sandybridge", NULL };
    static const char *const without_avx512[] = { "Haswell", "Zen", NULL };
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    for (const char *const *slow = without_avx2; *slow; slow++)
        if (strcasecmp(core, *slow) == 0 && avx2) return avx512 ? "SkylakeX" : "Haswell";
    for (const char *const *slow = without_avx512; *slow; slow++)
        if (strcasecmp(core, *slow) == 0 && avx512 &&
            !__builtin_cpu_is("amd")) /* AMD's own kernels are tuned without AVX-512 */
            return "SkylakeX";
#else
    (void)core;
#endif
    return NULL;
}

void blas_repair(char *argv[])
{
    const char *core = better_core(openblas_core());
    if (!core || getenv("OPENBLAS_CORETYPE")) return;
    setenv("OPENBLAS_CORETYPE", core, 1);
    execv("/proc/self/exe", argv); /* if this fails, blas_check names the remedy */
}

static void set_threads(int threads)
{
    static const char *const setters[] = { "openblas_set_num_threads", "MKL_Set_Num_Threads",
                                           "bli_thread_set_num_threads", "armpl_set_num_threads", NULL };
    for (const char *const *name = setters; *name; name++) {
        union {
            void *object;
            void (*call)(int);
        } symbol = { dlsym(RTLD_DEFAULT, *name) };
        if (symbol.object) symbol.call(threads);
    }
}

/* GF/s of this rank on matrices that fit its caches, best of a few rounds of some milliseconds. */
static double measure_sgemm(void)
{
    enum { SIZE = 512, ROUNDS = 4 };
    float *a = malloc(sizeof(float) * SIZE * SIZE * 3), *b = a + SIZE * SIZE, *c = b + SIZE * SIZE;
    CHECK(a);
    for (int i = 0; i < 3 * SIZE * SIZE; i++) a[i] = (float)(i % 13) / 13;
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds_now();
        gemm_local(PLAIN, PLAIN, SIZE, SIZE, SIZE, 1, a, SIZE, b, SIZE, 0, c, SIZE);
        double rate = 2e-9 * SIZE * SIZE * SIZE / (seconds_now() - start);
        if (round > 0 && rate > best) /* the first round warms up */
            best = rate;
    }
    free(a);
    return best;
}

double blas_rate(int threads)
{
    set_threads(threads);
    return measure_sgemm();
}

/* Cores in the union of the affinity masks of the node's ranks. Collective over node. */
static int count_cores(MPI_Comm node)
{
    cpu_set_t mask, all;
    if (sched_getaffinity(0, sizeof mask, &mask) != 0) return (int)sysconf(_SC_NPROCESSORS_ONLN);
    CHECK_MPI(MPI_Allreduce(&mask, &all, sizeof mask, MPI_BYTE, MPI_BOR, node));
    return CPU_COUNT(&all);
}

static void judge(BlasReport *report)
{
    char *out = report->warning;
    size_t room = sizeof report->warning;
    const char *better = better_core(report->core);
    if (report->node_ranks * report->threads > report->node_cores)
        snprintf(out, room,
                 "%d ranks x %d BLAS threads share %d cores: start fewer ranks, lower parallel.threads, or give the "
                 "job more "
                 "cores (SLURM: --cpus-per-task; mpirun: --bind-to none)",
                 report->node_ranks, report->threads, report->node_cores);
    else if (better)
        snprintf(out, room,
                 "OpenBLAS uses its %s kernels on a processor that can do more: start with OPENBLAS_CORETYPE=%s in the "
                 "environment",
                 report->core, better);
    else if (report->gflops / report->threads < 5)
        snprintf(out, room,
                 "sgemm reaches only %.1f GF/s a rank: this looks like the reference BLAS. Install an optimised one "
                 "(Debian: "
                 "apt-get install libopenblas0-pthread; a site: its MKL, LibSci or AOCL module)",
                 report->gflops);
}

BlasReport blas_check(MPI_Comm comm, int threads)
{
    BlasReport report = { .threads = threads };
    Dl_info info;
    union {
        void (*call)(void);
        void *object;
    } symbol = { sgemm_ };
    char resolved[4096];
    const char *file = dladdr(symbol.object, &info) && info.dli_fname ? info.dli_fname : "unknown";
    if (realpath(file, resolved)) file = resolved;
    snprintf(report.library, sizeof report.library, "%.150s%s%.90s", file, *openblas_config() ? ", " : "",
             openblas_config());
    snprintf(report.core, sizeof report.core, "%s", openblas_core());

    MPI_Comm node;
    CHECK_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
    CHECK_MPI(MPI_Comm_size(node, &report.node_ranks));
    report.node_cores = count_cores(node);
    MPI_Comm_free(&node);
    set_threads(threads);
    CHECK_MPI(MPI_Barrier(comm)); /* so that all ranks load the machine at once, as they will in training */
    double mine = measure_sgemm();
    CHECK_MPI(MPI_Allreduce(&mine, &report.gflops, 1, MPI_DOUBLE, MPI_MIN, comm));

    judge(&report);
    /* the rank with the worst ratio of threads to cores speaks for all */
    struct {
        double load;
        int rank;
    } load = { (double)report.node_ranks * threads / report.node_cores, 0 }, worst;
    CHECK_MPI(MPI_Comm_rank(comm, &load.rank));
    CHECK_MPI(MPI_Allreduce(&load, &worst, 1, MPI_DOUBLE_INT, MPI_MAXLOC, comm));
    CHECK_MPI(MPI_Bcast(&report, sizeof report, MPI_BYTE, worst.rank, comm));
    return report;
}
