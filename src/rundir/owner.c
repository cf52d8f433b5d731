#include "catdpo/rundir/owner.h"

#include "catdpo/h5/h5.h"
#include "catdpo/core/thread.h"
#include "catdpo/core/timer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { NAME = 128, BEAT_SECONDS = 5, TEXT = 1024 };

struct Writer {
    char directory[FILE_PATH], folder[FILE_PATH]; /* folder: the same on all ranks */
    char token[NAME], started[NAME];
    int rank;
    int lock;        /* rank 0: descriptor of "owner", locked as long as the process lives; -1 elsewhere */
    bool beating;    /* the thread runs */
    double interval; /* seconds between heartbeats */
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool ending; /* under the mutex */
    atomic_bool lost;
};

/* What an owner says of itself. */
typedef struct Owner {
    int64_t number; /* of its folder; 0: there is none */
    char token[NAME], host[NAME], boot[NAME], pid[NAME], job[NAME], started[NAME];
    int64_t restart;
} Owner;

static bool join(char path[FILE_PATH], const char *folder, const char *name)
{
    return snprintf(path, FILE_PATH, "%s/%s", folder, name) < FILE_PATH;
}

/* ---- small files ------------------------------------------------------------------------------------------------- */

static bool read_text(const char *folder, const char *name, char text[TEXT])
{
    char path[FILE_PATH];
    if (!join(path, folder, name)) return false;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    ssize_t length = read(file, text, TEXT - 1);
    close(file);
    text[length > 0 ? length : 0] = '\0';
    return length >= 0;
}

/* Rewrites a file in place, so that it takes no new room; creates it only if asked to. */
static bool write_text(const char *folder, const char *name, bool create, const char *text)
{
    char path[FILE_PATH];
    if (!join(path, folder, name)) return false;
    int file = open(path, O_WRONLY | O_CLOEXEC | (create ? O_CREAT : 0), 0666);
    if (file < 0) return false;
    size_t length = strlen(text);
    bool ok = write(file, text, length) == (ssize_t)length;
    return close(file) == 0 && ok;
}

static void value_of(const char *text, const char *key, char value[NAME])
{
    size_t length = strlen(key);
    *value = '\0';
    for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, key, length) == 0 && strncmp(line + length, " = ", 3) == 0) {
            snprintf(value, NAME, "%.*s", (int)strcspn(line + length + 3, "\n"), line + length + 3);
            return;
        }
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

/* Changes with every start of a kernel and is the same in all of its containers. */
static void boot_id(char text[NAME])
{
    char whole[TEXT] = "";
    read_text("/proc/sys/kernel/random", "boot_id", whole);
    snprintf(text, NAME, "%.*s", (int)strcspn(whole, "\n"), whole);
}

static void describe_self(Owner *self)
{
    uint32_t random[2] = { 0, 0 };
    time_t now = time(NULL);
    if (getrandom(random, sizeof random, 0) < 0) random[0] = (uint32_t)getpid();
    snprintf(self->token, NAME, "%08x%08x", random[0], random[1]);
    if (gethostname(self->host, NAME - 1) != 0) strcpy(self->host, "?");
    boot_id(self->boot);
    snprintf(self->pid, NAME, "%ld", (long)getpid());
    snprintf(self->job, NAME, "%.100s", environment("SLURM_JOB_ID"));
    self->restart = strtoll(environment("SLURM_RESTART_COUNT"), NULL, 10);
    strftime(self->started, NAME, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
}

static void owner_text(const Owner *o, char text[TEXT])
{
    snprintf(text, TEXT, "token = %s\nhost = %s\nboot = %s\npid = %s\njob = %s\nrestart = %" PRId64 "\nstarted = %s\n",
             o->token, o->host, o->boot, o->pid, o->job, o->restart, o->started);
}

static void read_owner(const char *folder, Owner *o)
{
    char text[TEXT] = "", restart[NAME];
    read_text(folder, "owner", text);
    value_of(text, "token", o->token);
    value_of(text, "host", o->host);
    value_of(text, "boot", o->boot);
    value_of(text, "pid", o->pid);
    value_of(text, "job", o->job);
    value_of(text, "started", o->started);
    value_of(text, "restart", restart);
    o->restart = strtoll(restart, NULL, 10);
}

/* "job 17 on node3 (process 4711, since 2026-01-02T03:04:05Z)" */
static const char *owner_name(const Owner *o, char text[TEXT])
{
    snprintf(text, TEXT, "%s%s%son %s (process %s, since %s)", *o->job ? "job " : "a copy ", o->job, *o->job ? " " : "",
             *o->host ? o->host : "an unknown host", *o->pid ? o->pid : "?", *o->started ? o->started : "?");
    return text;
}

/* ---- folders of writers ------------------------------------------------------------------------------------------ */

static void folder_name(char path[FILE_PATH], const char *directory, int64_t number)
{
    snprintf(path, FILE_PATH, "%.*s/writer-%" PRId64, FILE_PATH - 40, directory, number);
}

/* The number of a folder's name, or 0. */
static int64_t number_of(const char *name)
{
    int64_t number;
    int length = 0;
    return sscanf(name, "writer-%" SCNd64 "%n", &number, &length) == 1 && !name[length] && number > 0 ? number : 0;
}

/* The highest number in the directory, or 0. */
static bool find_highest(const char *directory, int64_t *highest, Error *err)
{
    *highest = 0;
    DIR *entries = opendir(directory);
    if (!entries) return error_usage(err, "%s: cannot be read: %s", directory, strerror(errno));
    for (struct dirent *entry; (entry = readdir(entries));)
        if (number_of(entry->d_name) > *highest) *highest = number_of(entry->d_name);
    closedir(entries);
    return true;
}

static void remove_folder(const char *folder)
{
    char path[FILE_PATH];
    for (int attempt = 0; attempt < 10; attempt++) { /* a dying writer may still put something in */
        DIR *entries = opendir(folder);
        if (!entries) return;
        for (struct dirent *entry; (entry = readdir(entries));)
            if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
                join(path, folder, entry->d_name))
                unlink(path);
        closedir(entries);
        if (rmdir(folder) == 0 || errno == ENOENT) return;
    }
}

static void remove_older(const char *directory, int64_t than)
{
    char path[FILE_PATH];
    DIR *entries = opendir(directory);
    if (!entries) return;
    for (struct dirent *entry; (entry = readdir(entries));) {
        int64_t number = number_of(entry->d_name);
        if (number == 0 || number >= than) continue;
        folder_name(path, directory, number);
        remove_folder(path);
    }
    closedir(entries);
}

/* ---- is the owner alive? ----------------------------------------------------------------------------------------- */

typedef enum { DEAD, ALIVE, UNKNOWN } Life;

/* On the same kernel the lock on "owner" goes when its process goes. */
static Life lock_says(const char *folder, const Owner *o)
{
    char path[FILE_PATH], here[NAME];
    boot_id(here);
    if (!*here || strcmp(here, o->boot) != 0 || !join(path, folder, "owner")) return UNKNOWN;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return UNKNOWN;
    int status = flock(file, LOCK_EX | LOCK_NB);
    Life life = status == 0 ? DEAD : errno == EWOULDBLOCK ? ALIVE : UNKNOWN;
    close(file);
    return life;
}

static Life heartbeat_says(const char *folder, double lease)
{
    char before[TEXT] = "", now[TEXT] = "";
    bool known = read_text(folder, "heartbeat", before);
    for (double start = seconds_now(); seconds_now() - start < lease;) {
        usleep(250000);
        bool there = read_text(folder, "heartbeat", now);
        if (there != known || strcmp(before, now) != 0)
            return there ? ALIVE : DEAD; /* it gave the directory back meanwhile */
    }
    return DEAD;
}

/* May this copy have the directory that `number` holds? */
static bool judge(const char *directory, int64_t number, const Owner *self, double lease, Log *log, Error *err)
{
    char folder[FILE_PATH], text[TEXT];
    Owner owner = { .number = number };
    folder_name(folder, directory, number);
    read_owner(folder, &owner);
    if (*self->job && strcmp(self->job, owner.job) == 0 && self->restart > owner.restart) return true;
    Life life = lock_says(folder, &owner);
    if (life == UNKNOWN) {
        log_info(log, "%s was last written by %s: waiting up to %.0f s for a sign of life", directory,
                 owner_name(&owner, text), lease);
        life = heartbeat_says(folder, lease);
    }
    return life == DEAD ||
           error_usage(
               err,
               "%s is being written by %s: wait for it, stop it, choose another run.dir, or take its place with "
               "--take-over",
               directory, owner_name(&owner, text));
}

/* ---- heartbeat --------------------------------------------------------------------------------------------------- */

/* Is the folder still this copy's? Trouble with the file system is no verdict. */
static bool is_mine(const Writer *w)
{
    char text[TEXT], token[NAME];
    if (!read_text(w->folder, "owner", text)) return errno != ENOENT && errno != ESTALE && errno != ENOTDIR;
    value_of(text, "token", token);
    return strcmp(token, w->token) == 0;
}

static void *beat(void *argument)
{
    Writer *w = argument;
    pthread_mutex_lock(&w->mutex);
    for (int64_t count = 1; !w->ending && !atomic_load(&w->lost); count++) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += (long)((w->interval - (double)(long)w->interval) * 1e9);
        until.tv_sec += (time_t)w->interval + until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_mutex_unlock(&w->mutex);
        char text[32];
        snprintf(text, sizeof text, "%" PRId64 "\n", count);
        if (!is_mine(w))
            atomic_store(&w->lost, true);
        else
            (void)!write_text(w->folder, "heartbeat", false, text);
        pthread_mutex_lock(&w->mutex);
        while (!w->ending && pthread_cond_timedwait(&w->wake, &w->mutex, &until) == 0) {}
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

static bool start_beating(Writer *w, Error *err)
{
    int status = thread_start(&w->thread, beat, w);
    w->beating = status == 0;
    return w->beating || error_fault(err, "cannot start the heartbeat of %s: %s", w->folder, strerror(status));
}

/* ---- taking and giving back -------------------------------------------------------------------------------------- */

/* What was begun of a folder must not look like an owner. */
static bool forget(Writer *w, Error *err)
{
    error_usage(err, "%s: cannot be written: %s; set run.dir to a place that you may write to and that has room",
                w->folder, strerror(errno));
    if (w->lock >= 0) close(w->lock);
    w->lock = -1;
    remove_folder(w->folder);
    return false;
}

/* A folder with the owner's name in it, and its lock held. Nobody else's: mkdir fails if it exists. */
static bool make_folder(Writer *w, const Owner *self, Error *err)
{
    char path[FILE_PATH], text[TEXT];
    owner_text(self, text);
    if (mkdir(w->folder, 0777) != 0) {
        if (errno == EEXIST) return error_usage(err, "%s: another copy has just taken it", w->directory);
        return error_usage(err,
                           "%s: cannot be made: %s; set run.dir to a place that you may write to and that has room",
                           w->folder, strerror(errno));
    }
    if (!join(path, w->folder, "owner") || (w->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666)) < 0 ||
        write(w->lock, text, strlen(text)) != (ssize_t)strlen(text) || !write_text(w->folder, "heartbeat", true, "0\n"))
        return forget(w, err);
    (void)!flock(w->lock, LOCK_EX | LOCK_NB); /* where it does not work others go by the heartbeat */
    return true;
}

static bool take(Writer *w, const char *directory, double lease, bool take_over, Log *log, Error *err)
{
    Owner self = { 0 };
    int64_t highest, now = (int64_t)time(NULL);
    describe_self(&self);
    strcpy(w->token, self.token);
    strcpy(w->started, self.started);
    if (!find_highest(directory, &highest, err) ||
        (highest > 0 && !take_over && !judge(directory, highest, &self, lease, log, err)))
        return false;
    self.number = highest >= now ? highest + 1 : now; /* never one that was in use before */
    folder_name(w->folder, directory, self.number);
    if (!make_folder(w, &self, err)) return false;
    if (!find_highest(directory, &highest, err)) return false;
    if (highest > self.number) return error_usage(err, "%s: another copy has just taken it", directory);
    remove_older(directory, self.number);
    return start_beating(w, err);
}

Writer *writer_acquire(const char *directory, double lease, bool take_over, Log *log, MPI_Comm comm, Error *err)
{
    Writer *w = calloc(1, sizeof *w);
    if (!error_agree(comm, w || error_fault(err, "%s: out of memory", directory), err)) {
        free(w);
        return NULL;
    }
    CHECK_MPI(MPI_Comm_rank(comm, &w->rank));
    snprintf(w->directory, sizeof w->directory, "%s", directory);
    w->lock = -1;
    w->interval = lease / 12 < BEAT_SECONDS ? lease / 12 : BEAT_SECONDS;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->wake, NULL);
    bool ok = w->rank > 0 || take(w, directory, lease, take_over, log, err);
    if (error_agree(comm, ok, err)) {
        CHECK_MPI(MPI_Bcast(w->folder, sizeof w->folder, MPI_CHAR, 0, comm));
        CHECK_MPI(MPI_Bcast(w->started, sizeof w->started, MPI_CHAR, 0, comm));
        return w;
    }
    writer_release(w);
    return NULL;
}

const char *writer_folder(const Writer *w) { return w->folder; }
const char *writer_directory(const Writer *w) { return w->directory; }
const char *writer_started(const Writer *w) { return w->started; }

bool writer_lost(const Writer *w, bool look, Error *err)
{
    if (w->rank > 0 || (!atomic_load(&w->lost) && !(look && !is_mine(w)))) return false;
    char folder[FILE_PATH], text[TEXT];
    Owner owner = { 0 };
    Error ignored = { 0 };
    find_highest(w->directory, &owner.number, &ignored);
    folder_name(folder, w->directory, owner.number);
    read_owner(folder, &owner);
    error_fault(err, "%s was taken over by %s: this copy stops and has written nothing since", w->directory,
                owner.number ? owner_name(&owner, text) : "another copy");
    return true;
}

void writer_release(Writer *w)
{
    if (!w) return;
    if (w->beating) {
        pthread_mutex_lock(&w->mutex);
        w->ending = true;
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->mutex);
        pthread_join(w->thread, NULL);
    }
    if (w->lock >= 0) {
        if (is_mine(w)) remove_folder(w->folder);
        close(w->lock);
    }
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}
