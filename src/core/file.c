#define _GNU_SOURCE /* SEEK_DATA */
#include "catdpo/core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COPY_BYTES = 1 << 20 };

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

bool file_write(int descriptor, const void *bytes, size_t size, int64_t at)
{
    for (size_t done = 0; done < size;) {
        ssize_t put = pwrite(descriptor, (const char *)bytes + done, size - done, at + (int64_t)done);
        if (put < 0 && errno != EINTR) return false;
        if (put > 0) done += (size_t)put;
    }
    return true;
}

int64_t file_read(int descriptor, void *bytes, size_t size, int64_t at)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = pread(descriptor, (char *)bytes + done, size - done, at + (int64_t)done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (int64_t)done;
}

/* Bytes [from, to) to the same place. */
static bool copy_range(int source, int target, int64_t from, int64_t to, char *buffer)
{
    while (from < to) {
        int64_t most = to - from < COPY_BYTES ? to - from : COPY_BYTES, got = file_read(source, buffer, most, from);
        if (got == 0) errno = EIO; /* shorter than it was */
        if (got <= 0 || !file_write(target, buffer, (size_t)got, from)) return false;
        from += got;
    }
    return true;
}

bool file_copy(int source, int target)
{
    off_t end = lseek(source, 0, SEEK_END), data = 0, hole = 0;
    char *buffer = malloc(COPY_BYTES);
    bool ok = buffer && end >= 0 && ftruncate(target, 0) == 0 && ftruncate(target, end) == 0;
    while (ok && hole < end && (data = lseek(source, hole, SEEK_DATA)) >= 0) {
        hole = lseek(source, data, SEEK_HOLE);
        ok = hole > data && copy_range(source, target, data, hole, buffer);
    }
    if (ok && data < 0) ok = errno == ENXIO; /* nothing but a hole is left */
    int reason = errno;
    free(buffer);
    errno = reason;
    return ok;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

bool file_temporary(const char *path, const char *folder, char *unfinished, size_t size, Error *err)
{
    const char *slash = strrchr(path, '/'), *name = folder && slash ? slash + 1 : path;
    uint32_t tag = 0;
    if (getrandom(&tag, sizeof tag, 0) != sizeof tag) return error_fault(err, "no random numbers: %s", strerror(errno));
    int length = snprintf(unfinished, size, "%s%s%s.%08x.tmp", folder ? folder : "", folder ? "/" : "", name, tag);
    return length < (int)size || error_usage(err, "%s: the path is longer than %zu bytes", path, size - 1);
}

bool file_check_target(const char *path, Error *err)
{
    char folder[PATH_MAX];
    struct stat status;
    const char *slash = strrchr(path, '/');
    int length = snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    if (length >= (int)sizeof folder) return error_usage(err, "%.200s...: the path is too long", path);
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode))
        return error_usage(err, "%s is a folder; name a file to write", path);
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return error_usage(err, "%s is a pipe or a device; name a file to write", path);
    if (stat(folder, &status) != 0)
        return error_usage(err, "%s: cannot write it: %s; make its folder first, or name another", path,
                           strerror(errno));
    return access(folder, W_OK) == 0 ||
           error_usage(err, "%s: cannot write into its folder: %s; name another", path, strerror(errno));
}

bool file_create(const char *path, const void *bytes, size_t size, Error *err)
{
    int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool ok = descriptor >= 0 && file_write(descriptor, bytes, size, 0) && fsync(descriptor) == 0;
    if (!ok) error_fault(err, "%s: cannot write: %s", path, strerror(errno));
    if (descriptor >= 0 && close(descriptor) != 0 && ok)
        ok = error_fault(err, "%s: cannot write: %s", path, strerror(errno));
    if (!ok && descriptor >= 0) unlink(path);
    return ok;
}

/* A file's bytes, or a folder's entries. Some file systems have no fsync for folders. */
static bool sync_path(const char *path, int flags, Error *err)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | flags);
    if (descriptor < 0) return error_fault(err, "%s: cannot open: %s", path, strerror(errno));
    bool ok = fsync(descriptor) == 0 || ((flags & O_DIRECTORY) && (errno == EINVAL || errno == ENOTSUP));
    if (!ok) error_fault(err, "%s: cannot flush to disk: %s", path, strerror(errno));
    close(descriptor);
    return ok;
}

bool file_sync(const char *path, Error *err) { return sync_path(path, 0, err); }

bool file_replace(const char *unfinished, const char *path, Error *err)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int length = snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 2, slash ? path : "./");
    if (length >= (int)sizeof folder) return error_fault(err, "%.200s...: the path is too long", path);
    if (!sync_path(unfinished, 0, err)) return false;
    if (rename(unfinished, path) != 0)
        return error_fault(err, "%s: cannot rename to %s: %s", unfinished, path, strerror(errno));
    return sync_path(folder, O_DIRECTORY, err);
}
