#include "catdpo/parallel/watchdog.h"

#include "catdpo/core/thread.h"

#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FOLDER = 1024, NAME = 64 };

/* What a rank shows of itself to the others of its node. */
typedef struct Sign {
    _Atomic int64_t ticks;        /* of the thread: they go on as long as the process runs */
    _Atomic int64_t step, events; /* how far the work is */
    _Atomic int phase;
    int rank; /* in comm */
    char host[NAME];
} Sign;

struct Watchdog {
    const Timer *timer;
    double seconds;
    char folder[FOLDER]; /* "": none */
    WatchdogEnd *end;
    void *context;
    MPI_Comm node;
    MPI_Win window;
    Sign *sign;      /* [ranks] of the node; shared */
    int64_t *ticks;  /* [ranks] seen at the last look */
    double *seen;    /* [ranks] when they last changed */
    int ranks, mine; /* of the node */
    _Atomic int64_t step;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool started; /* the thread */
    bool ending;  /* under the mutex */
};

/* The rank that came least far, as somebody reports it. */
typedef struct Laggard {
    int64_t step, events;
    int rank, phase, runs;
    char host[NAME];
} Laggard;

static bool is_behind(const Laggard *a, const Laggard *b)
{
    if (a->runs != b->runs) return a->runs < b->runs; /* a process that does not run explains everything */
    if (a->step != b->step) return a->step < b->step;
    if (a->events != b->events) return a->events < b->events;
    return a->rank < b->rank;
}

/* ---- one look ---------------------------------------------------------------------------------------------------- */

static void show(Watchdog *w)
{
    Sign *s = &w->sign[w->mine];
    atomic_store(&s->step, atomic_load(&w->step));
    atomic_store(&s->events, timer_events(w->timer));
    atomic_store(&s->phase, timer_running(w->timer));
    atomic_fetch_add(&s->ticks, 1);
}

static void look(Watchdog *w, double now)
{
    for (int i = 0; i < w->ranks; i++) {
        int64_t ticks = atomic_load(&w->sign[i].ticks);
        if (ticks != w->ticks[i]) w->seen[i] = now;
        w->ticks[i] = ticks;
    }
}

static Laggard read_sign(const Watchdog *w, int i, double now)
{
    Sign *s = &w->sign[i];
    Laggard l = { .step = atomic_load(&s->step),
                  .events = atomic_load(&s->events),
                  .phase = atomic_load(&s->phase),
                  .rank = s->rank,
                  .runs = now - w->seen[i] < w->seconds / 2 };
    memcpy(l.host, s->host, sizeof l.host);
    return l;
}

/* ---- what is said ------------------------------------------------------------------------------------------------ */

static void write_report(const Watchdog *w, int speaker, const Laggard *l)
{
    char path[FOLDER + NAME];
    snprintf(path, sizeof path, "%s/stalled.%d", w->folder, speaker);
    FILE *file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "%d %d %d %" PRId64 " %" PRId64 " %s\n", l->rank, l->runs, l->phase, l->step, l->events, l->host);
    fclose(file);
}

/* The laggard of all nodes, and the speaker of the lowest rank. */
static void read_reports(const Watchdog *w, int *speaker, Laggard *least)
{
    DIR *entries = opendir(w->folder);
    if (!entries) return;
    for (struct dirent *entry; (entry = readdir(entries));) {
        char path[FOLDER + 300];
        int rank;
        Laggard l = { 0 };
        if (sscanf(entry->d_name, "stalled.%d", &rank) != 1) continue;
        snprintf(path, sizeof path, "%s/%s", w->folder, entry->d_name);
        FILE *file = fopen(path, "r");
        bool whole = file && fscanf(file, "%d %d %d %" SCNd64 " %" SCNd64 " %63s", &l.rank, &l.runs, &l.phase, &l.step,
                                    &l.events, l.host) == 6;
        if (file) fclose(file);
        if (whole && is_behind(&l, least)) *least = l;
        if (whole && rank < *speaker) *speaker = rank;
    }
    closedir(entries);
}

static void pause_seconds(double seconds)
{
    struct timespec time = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };
    nanosleep(&time, NULL);
}

static void end_job(Watchdog *w, double silence)
{
    double now = seconds_now(), grace = w->seconds / 4 < 5 ? w->seconds / 4 : 5;
    look(w, now);
    Laggard least = read_sign(w, 0, now);
    int speaker = w->mine, me = w->sign[w->mine].rank;
    for (int i = 1; i < w->ranks; i++) {
        Laggard l = read_sign(w, i, now);
        if (is_behind(&l, &least)) least = l;
    }
    for (int i = w->mine - 1; i >= 0; i--)
        if (read_sign(w, i, now).runs) speaker = i;
    if (speaker == w->mine) { /* one a node */
        int first = me;
        if (*w->folder) {
            write_report(w, me, &least);
            pause_seconds(grace);
            read_reports(w, &first, &least);
        }
        const char *phase =
            least.phase >= 0 && least.phase < timer_count(w->timer) ? timer_names(w->timer)[least.phase] : "?";
        char message[512];
        snprintf(message, sizeof message,
                 "rank %d on %s %s: for %.0f s nothing has moved since phase %s of step %" PRId64
                 "; the job ends. Look at that node (memory, disk, network); run.watchdog sets the patience",
                 least.rank, least.host, least.runs ? "does not answer" : "does not run (stopped or lost)", silence,
                 phase, least.step);
        if (first == me) fprintf(stderr, "catdpo: %s\n", message);
        fflush(stderr);
        if (first == me && w->end) w->end(w->context, message);
    } else
        pause_seconds(2 * grace);
    pause_seconds(grace / 2); /* for the message to come through before a launcher ends everything */
    _exit(EXIT_FAULT);
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static void *watch(void *argument)
{
    Watchdog *w = argument;
    double interval = w->seconds / 10 < 1 ? w->seconds / 10 : 1, moved = seconds_now();
    int64_t events = -1;
    pthread_mutex_lock(&w->mutex);
    while (!w->ending) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += (long)(interval * 1e9) % 1000000000;
        until.tv_sec += (time_t)interval + until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&w->wake, &w->mutex, &until);
        if (w->ending) break;
        double now = seconds_now();
        show(w);
        look(w, now);
        if (timer_events(w->timer) != events) moved = now;
        events = timer_events(w->timer);
        if (now - moved > w->seconds) end_job(w, now - moved);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

/* The memory that all ranks of a node see, and what this one says in it. */
static void share_signs(Watchdog *w, MPI_Comm comm)
{
    MPI_Aint size;
    int unit, length;
    Sign *mine;
    char host[MPI_MAX_PROCESSOR_NAME + 1] = "";
    CHECK_MPI(MPI_Win_allocate_shared(w->mine == 0 ? (MPI_Aint)sizeof(Sign) * w->ranks : 0, 1, MPI_INFO_NULL, w->node,
                                      &mine, &w->window));
    CHECK_MPI(MPI_Win_shared_query(w->window, 0, &size, &unit, &w->sign));
    mine = &w->sign[w->mine];
    memset((void *)mine, 0, sizeof *mine);
    CHECK_MPI(MPI_Comm_rank(comm, &mine->rank));
    CHECK_MPI(MPI_Get_processor_name(host, &length));
    snprintf(mine->host, NAME, "%.*s", NAME - 1, host);
    for (int i = 0; i < w->ranks; i++) w->seen[i] = seconds_now();
    CHECK_MPI(MPI_Barrier(w->node));
}

static bool start_thread(Watchdog *w, Error *err)
{
    int status = thread_start(&w->thread, watch, w);
    w->started = status == 0;
    return w->started || error_fault(err, "the watchdog's thread cannot be started: %s", strerror(status));
}

bool watchdog_start(Watchdog **watchdog, const Timer *timer, double seconds, const char *folder, WatchdogEnd *end,
                    void *context, MPI_Comm comm, Error *err)
{
    static const char no_memory[] = "out of memory for the watchdog";
    *watchdog = NULL;
    if (seconds <= 0) return true;
    Watchdog *w = calloc(1, sizeof *w);
    if (!error_agree(comm, w || error_fault(err, no_memory), err)) {
        free(w);
        return false;
    }
    w->timer = timer;
    w->seconds = seconds;
    w->end = end;
    w->context = context;
    w->window = MPI_WIN_NULL;
    snprintf(w->folder, sizeof w->folder, "%s", folder ? folder : "");
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->wake, NULL);
    CHECK_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &w->node));
    CHECK_MPI(MPI_Comm_size(w->node, &w->ranks));
    CHECK_MPI(MPI_Comm_rank(w->node, &w->mine));
    w->ticks = calloc((size_t)w->ranks, sizeof *w->ticks);
    w->seen = calloc((size_t)w->ranks, sizeof *w->seen);
    bool ok = error_agree(comm, (w->ticks && w->seen) || error_fault(err, no_memory), err);
    if (ok) {
        share_signs(w, comm);
        ok = error_agree(comm, start_thread(w, err), err);
    }
    if (ok)
        *watchdog = w;
    else
        watchdog_end(w);
    return ok;
}

void watchdog_step(Watchdog *w, int64_t step)
{
    if (w) atomic_store(&w->step, step);
}

void watchdog_end(Watchdog *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->mutex);
    w->ending = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->mutex);
    if (w->started) pthread_join(w->thread, NULL);
    if (w->window != MPI_WIN_NULL) CHECK_MPI(MPI_Win_free(&w->window));
    CHECK_MPI(MPI_Comm_free(&w->node));
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->mutex);
    free(w->ticks);
    free(w->seen);
    free(w);
}
