#define _GNU_SOURCE
#include "catdpo/parallel/blas_check.h"

#include "catdpo/parallel/gemm.h"
#include "catdpo/core/timer.h"

#if defined __x86_64__
#include <cpuid.h>
#endif
#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void sgemm_(void);

/* A function of the BLAS that is linked, which only one kind of BLAS has; call is NULL if this one has it not. Some
 * take pointers or numbers, which is the caller's to know. */
typedef union Symbol {
    void *object;
    const char *(*text)(void);
    int (*number)(void);
    void (*set)(int);
    void (*version)(char *text, int size);
    void (*versions)(int *major, int *minor, int *patch, const char **tag);
    const char *(*name)(int id);
} Symbol;

/* The file that sgemm_ comes from. */
static const char *blas_file(void)
{
    Dl_info info;
    union {
        void (*call)(void);
        void *object;
    } symbol = { sgemm_ };
    return dladdr(symbol.object, &info) && info.dli_fname ? info.dli_fname : "unknown";
}

/* In the library that sgemm_ comes from and what it needs: a LAPACK may have loaded another BLAS beside it. */
static Symbol find(const char *name)
{
    void *library = dlopen(blas_file(), RTLD_LAZY | RTLD_NOLOAD);
    Symbol symbol = { dlsym(library ? library : RTLD_DEFAULT, name) };
    if (library) dlclose(library); /* stays loaded: it was before */
    return symbol;
}

static const char *openblas_core(void)
{
    Symbol core = find("openblas_get_corename");
    return core.object ? core.text() : "";
}

/* ---- what it is ---- */

enum { NAME = 160 };

/* "Intel(R) oneAPI Math Kernel Library Version 2026.2-Product Build ..." */
static bool name_mkl(char name[NAME])
{
    Symbol get = find("MKL_Get_Version_String");
    if (!get.object) return false;
    char text[256] = "";
    get.version(text, sizeof text - 1);
    const char *version = strstr(text, "Version ");
    if (version) version += strlen("Version ");
    snprintf(name, NAME, "Intel MKL %.*s", version ? (int)strcspn(version, " -,") : 40, version ? version : text);
    return true;
}

/* BLIS says "1.0" of itself and AMD's "AOCL-BLIS 4.2"; its kernels are named after the processor. */
static bool name_blis(char name[NAME])
{
    Symbol version = find("bli_info_get_version_str"), id = find("bli_arch_query_id"), text = find("bli_arch_string");
    if (!version.object) return false;
    const char *said = version.text();
    snprintf(name, NAME, "%s%.60s%s%.30s", strcasestr(said, "AOCL") ? "" : "BLIS ", said,
             id.object && text.object ? " " : "", id.object && text.object ? text.name(id.number()) : "");
    return true;
}

static bool name_armpl(char name[NAME])
{
    Symbol version = find("armplversion");
    int major = 0, minor = 0, patch = 0;
    const char *tag = NULL;
    if (!version.object) return false;
    version.versions(&major, &minor, &patch, &tag);
    snprintf(name, NAME, "Arm Performance Libraries %d.%d.%d", major, minor, patch);
    return true;
}

/* Name and version as the library tells them, "" if nothing is known but its file. Cray's tells its name only. */
static void name_library(const char *file, char name[NAME])
{
    Symbol config = find("openblas_get_config");
    *name = '\0';
    if (config.object)
        snprintf(name, NAME, "%.150s", config.text());
    else if (!name_mkl(name) && !name_blis(name) && !name_armpl(name) && strstr(file, "libsci"))
        snprintf(name, NAME, "Cray LibSci");
}

#if defined __x86_64__
/* AMD's Zen 4 takes AVX-512 in two halves: family 0x19, of which Zen 3 has no AVX-512. */
static bool is_zen4(bool avx512)
{
    unsigned a, b, c, d;
    return avx512 && __builtin_cpu_is("amd") && __get_cpuid(1, &a, &b, &c, &d) &&
           (a >> 8 & 15) + (a >> 20 & 255) == 0x19;
}
#endif

/* The kernels to ask for when OpenBLAS chose some that are below this processor; NULL if its choice is right. */
static const char *better_core(const char *core)
{
#if defined __x86_64__
    static const char *const without_avx2[] = { "Prescott",   "Core2",       "Nehalem", "Westmere", "Penryn",
                                                "Dunnington", "Atom",        "Generic", "Opteron",  "Opteron_SSE3",
                                                "Barcelona",  "Sandybridge", NULL };
    static const char *const without_avx512[] = { "Haswell", "Zen", NULL };
    static const char *const with_avx512[] = { "SkylakeX", "Cooperlake", "SapphireRapids", NULL };
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    for (const char *const *slow = without_avx2; *slow; slow++)
        if (strcasecmp(core, *slow) == 0 && avx2) return is_zen4(avx512) ? "Zen" : avx512 ? "SkylakeX" : "Haswell";
    for (const char *const *slow = without_avx512; *slow; slow++)
        if (strcasecmp(core, *slow) == 0 && avx512 &&
            !__builtin_cpu_is("amd")) /* AMD's own kernels are tuned without AVX-512 */
            return "SkylakeX";
    /* there they lose 7 % on wide products, and 22 % on those of 32 columns, for they pack their operands slowly */
    for (const char *const *slow = with_avx512; *slow; slow++)
        if (strcasecmp(core, *slow) == 0 && is_zen4(avx512)) return "Zen";
#else
    (void)core;
#endif
    return NULL;
}

void blas_repair(char *argv[])
{
    /* Intel's MKL adds up in an order that depends on where a matrix lies in memory, unless it is told not to */
    setenv("MKL_CBWR", "AUTO,STRICT", 0);
    const char *core = better_core(openblas_core());
    if (!core || getenv("OPENBLAS_CORETYPE")) return;
    setenv("OPENBLAS_CORETYPE", core, 1);
    execv("/proc/self/exe", argv); /* if this fails, blas_check names the remedy */
}

/* False if it has no more than one and does as it likes. */
static bool set_threads(int threads)
{
    static const char *const functions[][2] = { { "openblas_set_num_threads", "openblas_get_num_threads" },
                                                { "MKL_Set_Num_Threads", "MKL_Get_Max_Threads" },
                                                { "bli_thread_set_num_threads", "bli_thread_get_num_threads" },
                                                { "armpl_set_num_threads", "armpl_get_num_threads" } };
    bool ok = true;
    for (size_t k = 0; k < sizeof functions / sizeof *functions; k++) {
        Symbol set = { dlsym(RTLD_DEFAULT, functions[k][0]) }, get = find(functions[k][1]);
        if (set.object) set.set(threads);
        if (get.object && threads > 1) ok = ok && get.number() > 1;
    }
    return ok;
}

/* GF/s of this rank on matrices that fit its caches, best of a few rounds of some milliseconds. */
static double measure_sgemm(void)
{
    enum { SIZE = 512, ROUNDS = 4 };
    float *a = malloc(sizeof(float) * SIZE * SIZE * 3);
    if (!a) return 0;
    float *b = a + SIZE * SIZE, *c = b + SIZE * SIZE;
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

static void judge(BlasReport *report, bool threaded)
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
    else if (!threaded)
        snprintf(out, room,
                 "parallel.threads = %d has no effect: this BLAS was built or linked without threads. Set it to 1 and "
                 "start more ranks, or link another (Intel's: -Dscalapack=mkl-dynamic-lp64-gomp)",
                 report->threads);
    else if (better)
        snprintf(out, room,
                 "OpenBLAS uses its %s kernels on a processor that others fit better: start with OPENBLAS_CORETYPE=%s "
                 "in the environment",
                 report->core, better);
    else if (report->gflops > 0 && report->gflops / report->threads < 5)
        snprintf(out, room,
                 "sgemm reaches only %.1f GF/s a rank: this looks like the reference BLAS. Install an optimised one "
                 "(Debian: "
                 "apt-get install libopenblas0-pthread; a site: its MKL, LibSci or AOCL module)",
                 report->gflops);
}

BlasReport blas_check(MPI_Comm comm, int threads)
{
    BlasReport report = { .threads = threads };
    char resolved[4096], name[NAME];
    const char *file = blas_file();
    if (realpath(file, resolved)) file = resolved;
    name_library(file, name);
    size_t length = strlen(file); /* its end tells more than its beginning */
    snprintf(report.library, sizeof report.library, "%.150s%s%.100s", name, *name ? ", " : "",
             file + (length > 100 ? length - 100 : 0));
    snprintf(report.core, sizeof report.core, "%s", openblas_core());

    MPI_Comm node;
    CHECK_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
    CHECK_MPI(MPI_Comm_size(node, &report.node_ranks));
    report.node_cores = count_cores(node);
    MPI_Comm_free(&node);
    bool threaded = set_threads(threads);
    CHECK_MPI(MPI_Barrier(comm)); /* so that all ranks load the machine at once, as they will in training */
    double mine = measure_sgemm();
    CHECK_MPI(MPI_Allreduce(&mine, &report.gflops, 1, MPI_DOUBLE, MPI_MIN, comm));

    judge(&report, threaded);
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
