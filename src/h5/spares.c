/* Copies of a growing file that take turns; see h5_extend. What a copy lacks of the visible file is known by the
 * numbers of the pages that each of the last commits changed.
 *
 * Other ways were not open. HDF5's single writer with many readers marks a file as being written, and a reader that
 * does not ask for that mode, or comes after a crash, is refused. Segments behind a virtual dataset read as fill values
 * wherever the folder was not copied along. Written in place, with a journal, a file is torn for every reader that does
 * not know the journal. */
#include "private.h"

#include "catdpo/core/file.h"
#include "catdpo/h5/checksum.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SPARES = 2 };

typedef struct Spare {
    char path[FILE_PATH]; /* "": there is none */
    int64_t commit;       /* it is the file as of this one */
} Spare;

typedef struct Pages {
    int64_t *number; /* [count] */
    int64_t count, room;
} Pages;

struct Spares {
    char path[FILE_PATH], folder[FILE_PATH]; /* folder "": beside */
    bool known;                              /* what follows holds for the visible file: */
    struct stat status;                      /* its identity */
    int64_t end;                             /* its bytes without the seal */
    uint64_t words;                          /* seal_words of them */
    int64_t commit;
    Pages changed[SPARES + 1]; /* by commit modulo SPARES + 1: the pages that it changed; the next one's too */
    Spare spare[SPARES];
    Spare next; /* what is being filled */
    int64_t next_end;
    uint64_t next_words;
};

Spares *spares_new(const char *path, const char *folder, Error *err)
{
    Spares *s = calloc(1, sizeof *s);
    if (!s || strlen(path) >= FILE_PATH || (folder && strlen(folder) >= FILE_PATH)) {
        free(s);
        error_fault(err, "%.200s: no memory for its copies, or a path that is too long", path);
        return NULL;
    }
    strcpy(s->path, path);
    if (folder) strcpy(s->folder, folder);
    return s;
}

const char *spares_path(const Spares *s) { return s->path; }

static void drop(Spare *spare)
{
    if (*spare->path) unlink(spare->path);
    *spare->path = '\0';
}

static void forget(Spares *s)
{
    for (int i = 0; i < SPARES; i++) drop(&s->spare[i]);
    drop(&s->next);
    s->known = false;
}

void spares_free(Spares *s)
{
    if (!s) return;
    forget(s);
    for (int i = 0; i <= SPARES; i++) free(s->changed[i].number);
    free(s);
}

/* ---- the visible file -------------------------------------------------------------------------------------------- */

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* A copy of the first s->end bytes of the visible file under a new name; its descriptor, or -1. */
static int copy_visible(const Spares *s, int visible, Spare *copy, Error *err)
{
    if (!file_temporary(s->path, *s->folder ? s->folder : NULL, copy->path, FILE_PATH, err)) return -1;
    int descriptor = open(copy->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor < 0) {
        error_fault(err, "%s: cannot create: %s", copy->path, strerror(errno));
        *copy->path = '\0';
        return -1;
    }
    copy->commit = s->commit;
    if (file_copy(visible, descriptor) && ftruncate(descriptor, s->end) == 0) return descriptor;
    error_fault(err, "%s: cannot write: %s", copy->path, strerror(errno));
    close(descriptor);
    drop(copy);
    return -1;
}

/* The visible file is none that this process left there: verify it, and begin anew with copies of it. */
static bool adopt(Spares *s, int visible, const struct stat *status, Error *err)
{
    bool sealed;
    forget(s);
    s->status = *status;
    s->end = status->st_size;
    if (!seal_verify(s->path, visible, &s->end, &sealed, err)) return false;
    if (!seal_words(visible, s->end, &s->words))
        return error_fault(err, "%s: cannot be read: %s", s->path, strerror(errno));
    for (int i = 0; i < SPARES; i++) {
        int descriptor = copy_visible(s, visible, &s->spare[i], err);
        if (descriptor < 0) return false;
        close(descriptor);
    }
    s->known = true;
    return true;
}

bool spares_open(Spares *s, int *descriptor, int64_t *size, Error *err)
{
    struct stat status;
    *descriptor = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*descriptor < 0) return error_usage(err, "%s: cannot open: %s", s->path, strerror(errno));
    bool ok = fstat(*descriptor, &status) == 0 || error_fault(err, "%s: %s", s->path, strerror(errno));
    ok = ok && (S_ISREG(status.st_mode) || error_usage(err, "%s: not a regular file", s->path)) &&
         ((s->known && is_same(&status, &s->status)) || adopt(s, *descriptor, &status, err));
    *size = s->end;
    if (ok) return true;
    close(*descriptor);
    *descriptor = -1;
    return false;
}

bool spares_prepare(Spares *s, Error *err)
{
    int descriptor;
    int64_t size;
    bool ok = spares_open(s, &descriptor, &size, err);
    if (ok) close(descriptor);
    return ok;
}

/* ---- bringing a copy up to date ---------------------------------------------------------------------------------- */

static Pages *changed_by(Spares *s, int64_t commit) { return &s->changed[commit % (SPARES + 1)]; }

/* May this copy be written to? Its descriptor, or -1. Nobody may have given it another name, nor hold HDF5's lock. */
static int take(const Spares *s, const Spare *spare)
{
    struct stat status;
    int descriptor = s->commit - spare->commit <= SPARES ? open(spare->path, O_RDWR | O_CLOEXEC) : -1;
    if (descriptor < 0) return -1;
    bool free_to_write = fstat(descriptor, &status) == 0 && status.st_nlink == 1 &&
                         (flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK);
    if (free_to_write) return descriptor;
    close(descriptor);
    return -1;
}

/* The oldest of all copies becomes s->next. Its descriptor, or -1: it must not be written to, or some are missing, and
 * a younger one is too young. */
static int take_oldest(Spares *s)
{
    Spare *oldest = &s->spare[0];
    for (int i = 0; i < SPARES; i++) {
        if (!*s->spare[i].path) return -1;
        if (s->spare[i].commit < oldest->commit) oldest = &s->spare[i];
    }
    int descriptor = take(s, oldest);
    if (descriptor < 0) {
        drop(oldest);
        return -1;
    }
    s->next = *oldest;
    *oldest->path = '\0';
    return descriptor;
}

/* What commits since that of the copy have changed. False with errno. */
static bool catch_up(Spares *s, const Overlay *o, int descriptor)
{
    char bytes[PAGE];
    for (int64_t commit = s->next.commit + 1; commit <= s->commit; commit++) {
        const Pages *pages = changed_by(s, commit);
        for (int64_t i = 0; i < pages->count; i++) {
            int64_t at = pages->number[i] * PAGE, size = s->end - at < PAGE ? s->end - at : PAGE;
            if (size > 0 && (!overlay_below(o, bytes, size, at) || !file_write(descriptor, bytes, (size_t)size, at)))
                return false;
        }
    }
    return true;
}

static bool note_pages(Spares *s, const Overlay *o)
{
    Pages *pages = changed_by(s, s->commit + 1);
    int64_t count = overlay_count(o);
    if (pages->room < count) {
        int64_t *number = realloc(pages->number, (size_t)count * sizeof *number);
        if (!number) return false;
        pages->number = number;
        pages->room = count;
    }
    const char *bytes;
    pages->count = count;
    for (int64_t i = 0; i < count; i++) pages->number[i] = overlay_page(o, i, &bytes);
    return true;
}

static uint64_t words_of(const char *page, int64_t size, int64_t number)
{
    char padded[PAGE] = { 0 };
    if (size <= 0) return 0;
    memcpy(padded, page, (size_t)(size < PAGE ? size : PAGE));
    return checksum_words(padded, ((size < PAGE ? size : PAGE) + 3) / 4, (uint64_t)number * (PAGE / 4), 1);
}

/* The words of the seal with the overlay's pages in place of those below. */
static bool update_words(Spares *s, const Overlay *o)
{
    char below[PAGE];
    s->next_words = s->words;
    for (int64_t i = 0; i < overlay_count(o); i++) {
        const char *bytes;
        int64_t number = overlay_page(o, i, &bytes), at = number * PAGE;
        if (!overlay_below(o, below, PAGE, at)) return false;
        s->next_words += words_of(bytes, s->next_end - at, number) - words_of(below, s->end - at, number);
    }
    return true;
}

bool spares_fill(Spares *s, Overlay *o, int visible, char unfinished[FILE_PATH], uint64_t *words, Error *err)
{
    s->next_end = overlay_end(o);
    CHECK(s->known && s->next_end >= s->end);
    int descriptor = take_oldest(s);
    if (descriptor < 0) descriptor = copy_visible(s, visible, &s->next, err);
    if (descriptor < 0) return false;
    errno = ENOMEM;
    bool ok = overlay_cover(o, s->end) && note_pages(s, o) && update_words(s, o) && catch_up(s, o, descriptor) &&
              overlay_finish(o, descriptor);
    if (!ok) error_fault(err, "%s: cannot write: %s", s->next.path, strerror(errno));
    close(descriptor);
    memcpy(unfinished, s->next.path, FILE_PATH);
    *words = s->next_words;
    return ok;
}

/* ---- taking the visible file's place ------------------------------------------------------------------------------
 */

bool spares_replace(Spares *s, Error *err)
{
    Spare visible = { .commit = s->commit };
    Error ignored = { 0 };
    if (!file_temporary(s->path, *s->folder ? s->folder : NULL, visible.path, FILE_PATH, &ignored) ||
        link(s->path, visible.path) != 0)
        *visible.path = '\0'; /* no hard links: the next commit copies the file */
    if (!file_replace(s->next.path, s->path, err)) {
        drop(&visible);
        s->known = false; /* it may have got its name */
        return false;
    }
    *s->next.path = '\0';
    int place = 0;
    for (int i = 1; i < SPARES; i++)
        if (*s->spare[place].path && (!*s->spare[i].path || s->spare[i].commit < s->spare[place].commit)) place = i;
    drop(&s->spare[place]);
    s->spare[place] = visible;
    s->commit++;
    s->end = s->next_end;
    s->words = s->next_words;
    s->known = stat(s->path, &s->status) == 0;
    return true;
}

void spares_abandon(Spares *s) { drop(&s->next); }
