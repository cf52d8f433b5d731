/* A disk that is full from a chosen call on, or fails once: the system's calls are replaced here by ones that fail on
 * request, for files that are being written (".tmp"). Included by one test program each, which exports its symbols so
 * that the libraries find these first. */
#ifndef CATDPO_TEST_FULL_DISK_H
#define CATDPO_TEST_FULL_DISK_H

#include "catdpo/core/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static struct {
    bool armed;
    long left, seen; /* calls until it is full; calls on the file so far */
    bool sticky;     /* stays full, or fails once */
    bool unsynced;   /* something was written that is not on the disk yet */
    bool unlisted;   /* renamed, and the folder not synced */
    long long bytes; /* asked to be written, armed or not */
} disk;

/* Is the descriptor the .tmp file that is being written? */
static bool is_target(int descriptor)
{
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 4) return false;
    path[length] = '\0';
    return strcmp(path + length - 4, ".tmp") == 0;
}

static bool is_full(int descriptor)
{
    if (!disk.armed || !is_target(descriptor)) return false;
    disk.seen++;
    bool full = disk.sticky ? disk.left <= 0 : disk.left == 0;
    disk.unsynced = true;
    disk.left--;
    if (full) errno = ENOSPC;
    return full;
}

ssize_t write(int descriptor, const void *bytes, size_t size)
{
    if (is_target(descriptor)) disk.bytes += (long long)size;
    return is_full(descriptor) ? -1 : syscall(SYS_write, descriptor, bytes, size);
}

ssize_t pwrite(int descriptor, const void *bytes, size_t size, off_t offset)
{
    if (is_target(descriptor)) disk.bytes += (long long)size;
    return is_full(descriptor) ? -1 : syscall(SYS_pwrite64, descriptor, bytes, size, offset);
}

ssize_t pwritev(int descriptor, const struct iovec *pieces, int count, off_t offset)
{
    return is_full(descriptor) ? -1 : syscall(SYS_pwritev, descriptor, pieces, count, offset, 0);
}

ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t size, unsigned flags)
{
    return is_full(to) ? -1 : syscall(SYS_copy_file_range, from, from_offset, to, to_offset, size, flags);
}

int ftruncate(int descriptor, off_t size)
{
    return is_full(descriptor) ? -1 : (int)syscall(SYS_ftruncate, descriptor, size);
}

int fsync(int descriptor)
{
    struct stat status;
    bool target = is_target(descriptor);
    if (is_full(descriptor)) return -1;
    if (target) disk.unsynced = false;
    if (fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode)) disk.unlisted = false;
    return (int)syscall(SYS_fsync, descriptor);
}

int rename(const char *from, const char *to)
{
    CHECK(!disk.unsynced);
    disk.unlisted = true;
    return (int)syscall(SYS_rename, from, to);
}

#endif
