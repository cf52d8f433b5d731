/* What checkpoints and metrics ask of a file system: whole files under their final names, seen by every rank. */
#define _GNU_SOURCE
#include "tiny.h"

#include "catdpo/core/timer.h"
#include "catdpo/files/model_file.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FORMAT "catdpo-selfcheck"

static const char *const storage_remedy =
    "checkpoints in this folder could be lost: put run.dir on another file system (the site's scratch; not an object "
    "store or a sync folder), and report this to whoever runs it";

/* ---- a model, written by one layout and read by another ---------------------------------------------------------- */

static bool write_model(const Tiny *t, const char *path, Error *err)
{
    const Optimizer *o = &t->optimizer;
    int64_t first = o->bounds[t->grid.replica], end = o->bounds[t->grid.replica + 1];
    const ShardedArray array = { t->model.weights + first, first, end };
    uint64_t *checksums = calloc((size_t)parts_count(&t->model.parameters), sizeof *checksums);
    H5File file;
    bool ok = error_agree(t->grid.world, checksums || error_fault(err, "out of memory for a check"), err) &&
              h5_create(&file, path, NULL, t->grid.world, err);
    if (ok) {
        tensors_checksums(&t->model, t->model.trained, &array, checksums);
        ok = h5_commit_if(h5_write_format(&file, FORMAT, 1, err) &&
                              tensors_create(&file, t->model.trained, "/model", checksums, err) &&
                              tensors_write(&file, &t->model, t->model.trained, "/model", &array, err),
                          &file, err);
    }
    free(checksums);
    return ok;
}

/* Every number as it was written? tensors_read verifies the checksums; the values are compared beside. */
static bool read_model(Tiny *t, const char *path, bool *equal, Error *err)
{
    int64_t n = t->model.parameters.local_floats;
    uint64_t *checksums = calloc((size_t)parts_count(&t->model.parameters), sizeof *checksums);
    float *values = calloc((size_t)n, sizeof *values);
    H5File file;
    bool ok = error_agree(t->grid.world, (checksums && values) || error_fault(err, "out of memory for a check"), err) &&
              h5_open(&file, path, t->grid.world, err);
    if (ok) {
        bool counted = t->grid.replica == 0;
        ok = h5_check_format(&file, FORMAT, 1, err) &&
             tensors_read(&file, &t->model, t->model.trained, "/model",
                          &(LoadedArray){ values, 0, n, 0, counted ? n : 0, false }, checksums, err);
        h5_close(&file);
    }
    int same = ok;
    for (int i = 0; ok && i < t->model.parameters.count; i++) {
        const Tensor *tensor = &t->model.parameters.tensor[i];
        same &= memcmp(values + tensor->offset, t->model.weights + tensor->offset,
                       sizeof *values * (size_t)tensor->local) == 0;
    }
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &same, 1, MPI_INT, MPI_LAND, t->grid.world));
    *equal = same;
    free(checksums);
    free(values);
    return ok;
}

static void check_model_file(SelfCheck *s, const char *path)
{
    Shape shapes[LAYOUTS];
    int layouts = selfcheck_layouts(s->ranks, shapes), groups = tiny_groups(shapes, layouts);
    Error err = { 0 };
    bool equal = true;
    int reads = 0;
    for (int from = 0; from < layouts && equal; from++) {
        Tiny t;
        bool ok = tiny_open(&t, s->world, shapes[from], groups, &err) && write_model(&t, path, &err);
        tiny_close(&t);
        for (int to = 0; ok && to < layouts; to++) {
            if (to == from && layouts > 1) continue;
            bool same = false;
            ok = tiny_open(&t, s->world, shapes[to], groups, &err) && read_model(&t, path, &same, &err);
            equal = equal && same, reads++;
            tiny_close(&t);
        }
        if (ok) continue;
        selfcheck_add(s, "checkpoint", CHECK_WRONG, storage_remedy, "%s", err.message);
        return;
    }
    selfcheck_add(s, "checkpoint", equal ? CHECK_OK : CHECK_WRONG, storage_remedy,
                  equal ? "written by %d layouts, read by others %d times: every number"
                        : "%d layouts, read %d times: numbers differ from those that were written",
                  layouts, reads);
}

/* ---- a disk that is full ----------------------------------------------------------------------------------------- */

/* Half of a file fits: the writer must hear of it, and the file that was there must stay as it was. */
static void check_full_disk(SelfCheck *s, const char *path)
{
    Shape shape = { s->ranks, 1, 1 };
    Tiny t;
    Error err = { 0 }, refused = { 0 };
    bool equal = false, ok = tiny_open(&t, s->world, shape, 3, &err) && write_model(&t, path, &err);
    if (ok) {
        struct rlimit old, half = { 0 };
        struct stat file = { 0 };
        struct sigaction ignore = { .sa_handler = SIG_IGN }, before;
        CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0 && sigaction(SIGXFSZ, &ignore, &before) == 0);
        stat(path, &file);
        half = (struct rlimit){ .rlim_cur = (rlim_t)file.st_size / 2, .rlim_max = old.rlim_max };
        CHECK_MPI(MPI_Barrier(s->world));
        CHECK(setrlimit(RLIMIT_FSIZE, &half) == 0);
        bool written = write_model(&t, path, &refused);
        CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0 && sigaction(SIGXFSZ, &before, NULL) == 0);
        ok = !written && read_model(&t, path, &equal, &err);
        if (written) error_fault(&err, "a file that did not fit was reported as written");
    }
    tiny_close(&t);
    selfcheck_add(s, "full disk", ok && equal ? CHECK_OK : CHECK_WRONG, storage_remedy, "%s",
                  ok && equal ? "a write that fails half-way is noticed, and the file before it stays whole"
                  : ok        ? "after a write that failed the file before it had other numbers"
                              : err.message);
}

/* ---- a name that is replaced while others read ------------------------------------------------------------------- */

enum { PAGE = 4096, PAGES = 16, REPLACEMENTS = 40 };

/* Writes PAGES pages that all hold `number` beside the name and renames it. */
static bool replace(const char *path, int64_t number)
{
    char temporary[FILE_PATH + 8], page[PAGE];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    for (size_t i = 0; i < PAGE; i += sizeof number) memcpy(page + i, &number, sizeof number);
    int file = open(temporary, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    bool ok = file >= 0;
    for (int i = 0; ok && i < PAGES; i++) ok = write(file, page, PAGE) == PAGE;
    ok = ok && fsync(file) == 0;
    return file >= 0 && close(file) == 0 && ok && rename(temporary, path) == 0;
}

/* What a reader finds under the name: the number that all pages hold; -1: there is no file; -2: a torn one. */
static int64_t look(const char *path)
{
    char pages[PAGES * PAGE];
    int64_t first, other;
    int file = open(path, O_RDONLY);
    if (file < 0) return -1;
    ssize_t got = 0, more;
    while (got < (ssize_t)sizeof pages && (more = read(file, pages + got, sizeof pages - (size_t)got)) > 0) got += more;
    close(file);
    if (got != sizeof pages) return -2;
    memcpy(&first, pages, sizeof first);
    for (size_t i = 0; i < sizeof pages; i += sizeof other) {
        memcpy(&other, pages + i, sizeof other);
        if (other != first) return -2;
    }
    return first;
}

/* A process that looks at the name until its parent ends it; exits with what was wrong (1: missing, 2: torn, 3: an
 * older number after a newer one). On rank 0's node, so that one rank is enough. */
static pid_t start_reader(const char *path)
{
    pid_t child = fork();
    if (child != 0) return child;
    pid_t parent = getppid();
    for (int64_t last = 0; getppid() == parent;) {
        int64_t number = look(path);
        if (number < 0) _exit(number == -1 ? 1 : 2);
        if (number < last) _exit(3);
        if (number == REPLACEMENTS) _exit(0);
        last = number;
    }
    _exit(0);
}

static void check_rename(SelfCheck *s, const char *path)
{
    static const char *const faults[] = { "", "the name was missing for a moment", "a reader found half a file",
                                          "a reader found an older file after a newer one" };
    int wrong = 0, failed = 0, late = 0;
    if (s->rank == 0) {
        failed = !replace(path, 1);
        pid_t reader = failed ? -1 : start_reader(path);
        for (int64_t i = 2; i <= REPLACEMENTS && !failed; i++) failed = !replace(path, i);
        int status = 0;
        if (reader > 0) {
            if (failed) kill(reader, SIGKILL);
            while (waitpid(reader, &status, 0) < 0 && errno == EINTR) {}
            if (WIFEXITED(status)) wrong = WEXITSTATUS(status);
        }
    }
    CHECK_MPI(MPI_Barrier(s->world));
    /* every rank, also on other nodes, has to see the last one now */
    double start = seconds_now();
    while (look(path) != REPLACEMENTS && seconds_now() - start < 5) usleep(20000);
    int mine[3] = { wrong, failed, look(path) != REPLACEMENTS }, all[3];
    double waited = seconds_now() - start;
    CHECK_MPI(MPI_Allreduce(mine, all, 3, MPI_INT, MPI_MAX, s->world));
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &waited, 1, MPI_DOUBLE, MPI_MAX, s->world));
    wrong = all[0], failed = all[1], late = all[2];
    selfcheck_add(s, "rename", wrong || failed || late ? CHECK_WRONG : CHECK_OK, storage_remedy, "%s",
                  failed          ? "a file could not be replaced"
                  : late          ? "a rank does not see a file 5 s after it got its name"
                  : wrong > 3     ? "the reader failed"
                  : wrong         ? faults[wrong]
                  : waited > 0.05 ? "atomic; other ranks see it after a moment"
                                  : "atomic, and every rank sees it");
}

/* ---- rate and locks ---------------------------------------------------------------------------------------------- */

/* Each rank writes and syncs so many bytes of a file of its own, reads them back; bytes/s of all together. */
static void check_rate(SelfCheck *s, const char *folder)
{
    enum { BYTES = 32 << 20, CALL = 4 << 20 };
    char path[FILE_PATH];
    snprintf(path, sizeof path, "%s/rate-%d", folder, s->rank);
    char *buffer = malloc(CALL);
    int problem = !buffer;
    for (size_t i = 0; buffer && i < CALL; i++) buffer[i] = (char)(i * 7 + (size_t)s->rank);
    CHECK_MPI(MPI_Barrier(s->world));
    double start = seconds_now();
    int file = problem ? -1 : open(path, O_CREAT | O_TRUNC | O_RDWR, 0644);
    problem = file < 0;
    for (int i = 0; !problem && i < BYTES / CALL; i++) problem = write(file, buffer, CALL) != CALL;
    problem = problem || fsync(file) != 0;
    CHECK_MPI(MPI_Barrier(s->world));
    double seconds = seconds_now() - start;
    if (file >= 0) {
        posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED); /* read what is on the disk, not what is in memory */
        for (int i = 0; !problem && i < BYTES / CALL; i++) {
            problem = pread(file, buffer, CALL, (off_t)i * CALL) != CALL ? 1 : 0;
            for (size_t j = 0; !problem && j < CALL; j++)
                if (buffer[j] != (char)(j * 7 + (size_t)s->rank)) problem = 2;
        }
        close(file);
    }
    unlink(path);
    free(buffer);
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &problem, 1, MPI_INT, MPI_MAX, s->world));
    s->rates.write = problem ? 0 : (double)BYTES * s->ranks / seconds;
    if (problem)
        selfcheck_add(s, "disk", CHECK_WRONG, storage_remedy, "%s (%d MB a rank)",
                      problem == 2 ? "what was read back is not what was written"
                                   : "a file could not be written and read back",
                      BYTES >> 20);
    else
        selfcheck_add(s, "disk", s->rates.write < 20e6 ? CHECK_SLOW : CHECK_OK,
                      "checkpoints will be slow here: choose a parallel file system for run.dir, or save less often "
                      "(checkpoint.minutes)",
                      "%.0f MB/s to the disk, %d ranks together", s->rates.write / 1e6, s->ranks);
}

static void check_locks(SelfCheck *s, const char *path)
{
    int found[2] = { 0, 0 };
    if (s->rank == 0) {
        int file = open(path, O_CREAT | O_RDWR, 0644);
        struct flock range = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
        found[0] = file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0;
        found[1] = file >= 0 && fcntl(file, F_SETLK, &range) == 0;
        if (file >= 0) close(file);
    }
    CHECK_MPI(MPI_Bcast(found, 2, MPI_INT, 0, s->world));
    selfcheck_add(s, "locks", CHECK_OK, NULL, "flock %s, fcntl %s%s", found[0] ? "yes" : "no", found[1] ? "yes" : "no",
                  found[0] && found[1] ? ""
                                       : "; catdpo does without (a run directory is owned by its folder writer-N and a "
                                         "heartbeat)");
}

void selfcheck_storage(SelfCheck *s, const char *folder)
{
    char own[FILE_PATH - 64], path[FILE_PATH], stamp[64];
    snprintf(stamp, sizeof stamp, "selfcheck-%lld-%d", (long long)(seconds_now() * 1e6), (int)getpid());
    CHECK_MPI(MPI_Bcast(stamp, sizeof stamp, MPI_CHAR, 0, s->world));
    snprintf(own, sizeof own, "%s/%s", folder, stamp);
    Error err = { 0 };
    bool made =
        s->rank != 0 || mkdir(own, 0755) == 0 ||
        error_usage(&err, "cannot make a folder in %s: %s; name one that you may write to", folder, strerror(errno));
    if (!error_agree(s->world, made, &err)) {
        selfcheck_add(s, "folder", CHECK_WRONG, "name a folder that exists and that you may write to", "%s",
                      err.message);
        return;
    }
    int seen = 0;
    for (double start = seconds_now(); !seen && seconds_now() - start < 5; usleep(10000)) seen = access(own, W_OK) == 0;
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &seen, 1, MPI_INT, MPI_LAND, s->world));
    if (!seen)
        selfcheck_add(s, "folder", CHECK_WRONG, "name a folder on a file system that all nodes share",
                      "%s is not the same folder on every node", folder);
    else {
        snprintf(path, sizeof path, "%s/model.h5", own);
        check_model_file(s, path);
        check_full_disk(s, path);
        if (s->rank == 0) unlink(path);
        snprintf(path, sizeof path, "%s/name", own);
        check_rename(s, path);
        check_locks(s, path);
        CHECK_MPI(MPI_Barrier(s->world));
        if (s->rank == 0) unlink(path);
        check_rate(s, own);
    }
    CHECK_MPI(MPI_Barrier(s->world));
    if (s->rank == 0 && rmdir(own) != 0 && seen)
        selfcheck_add(s, "folder", CHECK_OK, NULL, "%s was not left empty: remove it", own);
    CHECK_MPI(MPI_Bcast(&s->count, 1, MPI_INT, 0, s->world));
    CHECK_MPI(MPI_Bcast(s->finding, sizeof s->finding, MPI_BYTE, 0, s->world));
}
