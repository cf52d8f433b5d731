/* Promises: a file gets its final name only once it and then the folder are on the disk, whatever the path looks like;
 * a step that fails leaves the earlier file; two programs choose different unfinished names; a copy has the bytes and
 * the holes. */
#define _GNU_SOURCE
#include "catdpo/core/file.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char order[16]; /* f: fsync of a file, d: of a folder, r: rename */
static int fail;       /* the call that fails, by its place in the order; -1: none */

static int note(char what)
{
    size_t length = strlen(order);
    CHECK(length + 1 < sizeof order);
    order[length] = what, order[length + 1] = '\0';
    errno = EIO;
    return (int)length == fail ? -1 : 0;
}

int fsync(int descriptor)
{
    struct stat status;
    CHECK(fstat(descriptor, &status) == 0);
    return note(S_ISDIR(status.st_mode) ? 'd' : 'f') != 0 ? -1 : (int)syscall(SYS_fsync, descriptor);
}

int rename(const char *from, const char *to) { return note('r') != 0 ? -1 : (int)syscall(SYS_rename, from, to); }

static void read_text(const char *path, char text[64])
{
    int descriptor = open(path, O_RDONLY);
    int64_t length = descriptor < 0 ? 0 : file_read(descriptor, text, 63, 0);
    text[length] = '\0';
    if (descriptor >= 0) close(descriptor);
}

static void test_replace(const char *path)
{
    char unfinished[256], text[64];
    for (fail = -1; fail < 4; fail++) {
        Error err = { 0 };
        unlink(path);
        *order = '\0';
        int failing = fail;
        fail = -1;
        CHECK(file_create(path, "old", 3, &err));
        *order = '\0';
        fail = failing;
        bool ok = file_temporary(path, NULL, unfinished, sizeof unfinished, &err) &&
                  file_create(unfinished, "new", 3, &err) && file_replace(unfinished, path, &err);
        CHECK(ok == (fail < 0) && ok == (err.exit_status == EXIT_DONE));
        CHECK(ok == (strcmp(order, "ffrd") == 0) || fail == 3);
        if (!ok) CHECK(err.exit_status == EXIT_FAULT && strstr(err.message, "Input/output error"));
        read_text(path, text);
        CHECK(strcmp(text, fail < 0 || fail == 3 ? "new" : "old") == 0); /* 3: renamed, the folder not flushed */
        unlink(unfinished);
    }
    fail = -1;
    unlink(path);
}

static void test_names(void)
{
    char one[64], other[64];
    Error err = { 0 };
    CHECK(file_temporary("a/b.h5", NULL, one, sizeof one, &err) && strncmp(one, "a/b.h5.", 7) == 0);
    CHECK(file_temporary("a/b.h5", NULL, other, sizeof other, &err) && strcmp(one, other) != 0);
    CHECK(file_temporary("a/b.h5", "w", one, sizeof one, &err) && strncmp(one, "w/b.h5.", 7) == 0);
    CHECK(file_temporary("b.h5", "w", one, sizeof one, &err) && strncmp(one, "w/b.h5.", 7) == 0);
    CHECK(!file_temporary("b.h5", "w", one, 12, &err) && strstr(err.message, "longer"));
}

static void test_copy(void)
{
    enum { HOLE = 1 << 22 };
    int source = open("source", O_RDWR | O_CREAT, 0666), target = open("target", O_RDWR | O_CREAT, 0666);
    char text[8];
    struct stat a, b;
    CHECK(file_write(target, "longer than the source was before", 33, HOLE + 100));
    CHECK(file_write(source, "begin", 5, 0) && file_write(source, "end", 3, HOLE) && file_copy(source, target));
    CHECK(file_read(target, text, 8, HOLE) == 3 && memcmp(text, "end", 3) == 0);
    CHECK(file_read(target, text, 5, 0) == 5 && memcmp(text, "begin", 5) == 0);
    CHECK(file_read(target, text, 8, 1000) == 8 && memcmp(text, "\0\0\0\0\0\0\0", 8) == 0);
    CHECK(fstat(source, &a) == 0 && fstat(target, &b) == 0 && a.st_size == b.st_size && b.st_blocks <= a.st_blocks);
    close(source), close(target);
    CHECK(unlink("source") == 0 && unlink("target") == 0);
}

int main(void)
{
    char folder[] = "/tmp/catdpo-file-XXXXXX", path[64];
    fail = -1;
    CHECK(mkdtemp(folder) && chdir(folder) == 0 && mkdir("sub", 0777) == 0);
    snprintf(path, sizeof path, "%s/file", folder);
    test_replace(path);
    test_replace("file");
    test_replace("sub/file");
    test_names();
    test_copy();
    CHECK(rmdir("sub") == 0 && chdir("/") == 0 && rmdir(folder) == 0);
    return 0;
}
