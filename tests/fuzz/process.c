/* One process of a fuzz target: MPI of one rank, a folder in memory, and what a verdict must be. */
#define _GNU_SOURCE
#include "fuzz.h"

#include "catdpo/core/phase.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_FILE = 64 << 20, CHILD_SECONDS = 10 };

static char folder[FILE_PATH];
static Grid grid;
static Timer *timer;

/* A child's death is not the fuzzer's. */
static void end_quietly(void) { _exit(FUZZ_CHILD_KILLED); }

/* ---- the sanitizers ---- */

/* A size that a file makes up is refused by malloc, as elsewhere; what the target allows at most is -malloc_limit_mb.
 */
const char *__asan_default_options(void)
{
    return "detect_stack_use_after_return=0:allocator_may_return_null=1:quarantine_size_mb=16:malloc_context_size=8";
}

const char *__ubsan_default_options(void) { return "halt_on_error=1:print_stacktrace=1"; }

/* What libraries keep or lose; nothing of the program's own. */
const char *__lsan_default_suppressions(void)
{
    return "leak:libmpi.so\nleak:libopen-pal.so\nleak:libopen-rte.so\nleak:libpmix.so\nleak:mca_\nleak:libhdf5\nleak:"
           "libhwloc\nleak:libevent\n"
           "leak:libconfig_yylex\nleak:strbuf_append\n"; /* libconfig 1.5: the string it was reading when it gave up */
}

const char *__lsan_default_options(void) { return "print_suppressions=0"; }

/* ---- the process ---- */

/* A CHECK that failed is a finding. */
int MPI_Abort(MPI_Comm comm, int status)
{
    (void)comm, (void)status;
    abort();
}

/* MPI is not finalized: what it unloads then looks like leaks. */
static void end(void)
{
    DIR *list = opendir(folder);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        char path[FILE_PATH];
        unlink(fuzz_path(path, entry->d_name));
    }
    if (list) closedir(list);
    rmdir(folder);
}

void fuzz_start(void)
{
    /* a process of its own: no daemon beside it, no network, and signals belong to the fuzzer */
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    setenv("OMPI_MCA_btl", "self", 0);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
    __lsan_disable(); /* parts of MPI are loaded, keep memory and are unloaded again */
    CHECK_MPI(MPI_Init(NULL, NULL));
    __lsan_enable();
    for (const int *s = (int[]){ SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL, 0 }; *s; s++) signal(*s, SIG_DFL);
    CHECK(H5dont_atexit() >= 0 && H5open() >= 0); /* what it left open would be its end */
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);

    const struct rlimit most = { MOST_FILE, MOST_FILE };
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &most) == 0);

    const char *root = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.200s/catdpo-fuzz-XXXXXX", root ? root : "/dev/shm");
    CHECK(mkdtemp(folder));
    atexit(end);

    Error err = { 0 };
    CHECK(freopen("/dev/null", "w", stdout)); /* what catdpo check says */
    fuzz_must(grid_create(&grid, MPI_COMM_SELF, 1, 1, 1, &err), &err);
    timer = timer_new(PHASES, phase_name);
}

const char *fuzz_path(char path[FILE_PATH], const char *name)
{
    snprintf(path, FILE_PATH, "%.300s/%.100s", folder, name);
    return path;
}

void fuzz_write(const char *path, const void *bytes, size_t size)
{
    unlink(path); /* HDF5 knows a file that it still has open by its inode */
    FILE *out = fopen(path, "wb");
    CHECK(out && fwrite(bytes, 1, size, out) == size && fclose(out) == 0);
}

uint8_t *fuzz_bytes(const char *path, size_t *size)
{
    FILE *in = fopen(path, "rb");
    struct stat status;
    CHECK(in && fstat(fileno(in), &status) == 0);
    *size = (size_t)status.st_size;
    uint8_t *bytes = malloc(*size + 1);
    CHECK(bytes && fread(bytes, 1, *size, in) == *size && fclose(in) == 0);
    return bytes;
}

void fuzz_verdict(bool ok, const Error *err)
{
    CHECK(ok == (err->exit_status == EXIT_DONE) && ok == (err->message[0] == '\0'));
    for (const char *c = err->message; *c; c++) { /* several faults are a line each */
        bool next_fault = *c == '\n' && c > err->message && (unsigned char)c[1] > ' ';
        CHECK(next_fault || ((unsigned char)*c >= ' ' && *c != 127));
    }
    fuzz_all_closed();
}

void fuzz_all_closed(void)
{
    CHECK(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL & ~(unsigned)H5F_OBJ_FILE) == 0);
    hid_t file[8];
    ssize_t left = H5Fget_obj_ids(H5F_OBJ_ALL, H5F_OBJ_FILE, 8, file);
    for (ssize_t i = 0; i < left; i++) CHECK(H5Fclose(file[i]) < 0); /* one that HDF5 cannot be made to close */
}

void fuzz_must(bool ok, const Error *err)
{
    if (!ok) fatal(__FILE__, __LINE__, "%s", err->message);
}

int fuzz_child(void (*work)(void *context), void *context)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        int nowhere = open("/dev/null", O_WRONLY);
        dup2(nowhere, STDERR_FILENO);
        for (const int *s = (int[]){ SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL, SIGALRM, 0 }; *s; s++)
            signal(*s, SIG_DFL);
        setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL); /* the fuzzer's clock */
        __sanitizer_set_death_callback(end_quietly);
        alarm(CHILD_SECONDS);
        work(context);
        _exit(0);
    }
    while (waitpid(child, &status, 0) < 0) CHECK(errno == EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : FUZZ_CHILD_KILLED;
}

Grid *fuzz_grid(void) { return &grid; }

bool fuzz_transformer(Transformer *t, const Architecture *a, Error *err)
{
    const TransformerLimits limits = { .max_width = 2, .max_chunk = 2, .max_sequences = 2, .longest = 2 };
    return transformer_create(t, a, &grid, &limits, timer, err);
}
