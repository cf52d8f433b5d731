/* Loaded before a program's own libraries: a machine with the fault that CATDPO_FAULT names.
 *
 *     product   psgemm returns one wrong number, on one rank, now and then
 *     rename    a file is replaced in two steps
 *     slow      sgemm does 5 GF/s
 *     lost      the last write to a file before it is synced or closed never arrives
 */
#undef _FILE_OFFSET_BITS /* both names of a call, as libraries use either */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FILES = 4096 };
static struct {
    off_t at;
    size_t bytes;
} last[FILES];

static int has(const char *fault)
{
    const char *asked = getenv("CATDPO_FAULT");
    return asked && strcmp(asked, fault) == 0;
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

void psgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha,
             const float *a, const int *ia, const int *ja, const int *da, const float *b, const int *ib, const int *jb,
             const int *db, const float *beta, float *c, const int *ic, const int *jc, const int *dc)
{
    static int calls;
    REAL(void, psgemm_, const char *, const char *, const int *, const int *, const int *, const float *, const float *,
         const int *, const int *, const int *, const float *, const int *, const int *, const int *, const float *,
         float *, const int *, const int *, const int *)
    (ta, tb, m, n, k, alpha, a, ia, ja, da, b, ib, jb, db, beta, c, ic, jc, dc);
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!rank) rank = getenv("PMI_RANK");
    if (has("product") && (!rank || *rank == '0') && ++calls % 7 == 0) c[0] += 1;
}

void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha,
            const float *a, const int *lda, const float *b, const int *ldb, const float *beta, float *c, const int *ldc)
{
    double microseconds = 2.0 * *m * *n * *k / 5e3; /* 5 GF/s */
    if (has("slow") && microseconds > 100) usleep((useconds_t)microseconds);
    REAL(void, sgemm_, const char *, const char *, const int *, const int *, const int *, const float *, const float *,
         const int *, const float *, const int *, const float *, float *, const int *)
    (ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

int rename(const char *from, const char *to)
{
    if (has("rename") && unlink(to) == 0) usleep(3000);
    return REAL(int, rename, const char *, const char *)(from, to);
}

/* ---- the last write ---- */

static void note(int file, off_t at, ssize_t bytes)
{
    if (file < 0 || file >= FILES || bytes <= 0) return;
    last[file].at = at;
    last[file].bytes = (size_t)bytes;
}

static void lose(int file)
{
    struct stat what;
    if (!has("lost") || file < 0 || file >= FILES || last[file].bytes == 0) return;
    if (fstat(file, &what) == 0 && S_ISREG(what.st_mode)) {
        char *zeros = calloc(1, last[file].bytes);
        if (zeros &&
            REAL(ssize_t, pwrite64, int, const void *, size_t, off_t)(file, zeros, last[file].bytes, last[file].at)) {}
        free(zeros);
    }
    last[file].bytes = 0;
}

ssize_t write(int file, const void *from, size_t bytes)
{
    off_t at = lseek(file, 0, SEEK_CUR);
    ssize_t done = REAL(ssize_t, write, int, const void *, size_t)(file, from, bytes);
    if (at >= 0) note(file, at, done);
    return done;
}
ssize_t pwrite64(int file, const void *from, size_t bytes, off_t at)
{
    ssize_t done = REAL(ssize_t, pwrite64, int, const void *, size_t, off_t)(file, from, bytes, at);
    note(file, at, done);
    return done;
}
ssize_t pwrite(int file, const void *from, size_t bytes, off_t at) { return pwrite64(file, from, bytes, at); }
ssize_t pwritev(int file, const struct iovec *from, int count, off_t at)
{
    ssize_t done = REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t)(file, from, count, at);
    note(file, at, done);
    return done;
}
ssize_t pwritev64(int file, const struct iovec *from, int count, off_t at) { return pwritev(file, from, count, at); }
int fsync(int file)
{
    lose(file);
    return REAL(int, fsync, int)(file);
}
int close(int file)
{
    lose(file);
    return REAL(int, close, int)(file);
}
