/* Promises of h5_extend, by one process: the file is whole and sealed after every commit and as before after a failed
 * one; a commit writes as much to a long file as to a short one; what somebody has open under the file's name stays as
 * it was for two more commits, under a lock or another name for good; a file that another program changed is taken as
 * it is. */
#define _GNU_SOURCE
#include "catdpo/h5/h5.h"
#include "full_disk.h"
#include "scratch.h"

#include <stdint.h>
#include <sys/file.h>

enum { ROWS = 50, CHUNK = 64 };

static void must(bool ok, const Error *err)
{
    if (!ok) fatal(__FILE__, __LINE__, "%s", err->message);
}

static void create(const char *path)
{
    Error err = { 0 };
    H5File file;
    const int64_t dims[1] = { 0 }, chunk[1] = { CHUNK };
    must(h5_create(&file, path, NULL, MPI_COMM_NULL, &err) && h5_write_format(&file, "catdpo-test", 1, &err) &&
             h5_create_extendible(&file, "/a", DATA_INT64, 1, 1, dims, chunk, -1, &err) &&
             h5_create_extendible(&file, "/b/c", DATA_FLOAT64, 1, 1, dims, chunk, 0, &err) &&
             h5_write_int64(&file, "/", "rows", 0, &err) && h5_commit(&file, &err),
         &err);
}

static bool extend(Spares *spares, int64_t from, int64_t count, Error *err)
{
    H5File file;
    int64_t a[4096], rows = from + count;
    double c[4096];
    CHECK(count <= 4096);
    for (int64_t i = 0; i < count; i++) a[i] = from + i, c[i] = 0.5 * (double)(from + i);
    Slab slab = slab_rows(1, &rows, from, count);
    bool ok = h5_extend(&file, spares, err) && h5_resize(&file, "/a", 1, &rows, err) &&
              h5_resize(&file, "/b/c", 1, &rows, err) && h5_write_slab(&file, "/a", DATA_INT64, &slab, a, err) &&
              h5_write_slab(&file, "/b/c", DATA_FLOAT64, &slab, c, err) &&
              h5_write_int64(&file, "/", "rows", rows, err) && h5_commit(&file, err);
    h5_close(&file);
    CHECK(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
    return ok;
}

/* Whole, with so many rows. h5_open refuses a file whose seal does not hold. */
static void check(const char *path, int64_t rows)
{
    Error err = { 0 };
    H5File file;
    int64_t found, *a = malloc((size_t)(rows + 1) * 8);
    double *c = malloc((size_t)(rows + 1) * 8);
    must(h5_open(&file, path, MPI_COMM_NULL, &err) && h5_read_int64(&file, "/", "rows", rows, rows, &found, &err) &&
             h5_read_array(&file, "/a", DATA_INT64, 1, &rows, a, &err) &&
             h5_read_array(&file, "/b/c", DATA_FLOAT64, 1, &rows, c, &err),
         &err);
    CHECK(file.sealed);
    for (int64_t i = 0; i < rows; i++) CHECK(a[i] == i && c[i] == 0.5 * (double)i);
    h5_close(&file);
    free(a);
    free(c);
}

static void test_rows(Scratch *scratch)
{
    char path[512];
    strcpy(path, scratch_file(scratch, "grows.h5"));
    create(path);
    Error err = { 0 };
    Spares *spares = spares_new(path, NULL, &err);
    int64_t rows = 0;
    check(path, 0);
    for (int i = 0; i < 20; i++) {
        int64_t count = i % 3 == 0 ? 1 : i % 3 == 1 ? ROWS : 3 * CHUNK;
        must(extend(spares, rows, count, &err), &err);
        check(path, rows += count);
        CHECK(scratch_count(scratch) == 3); /* the file and two copies */
    }
    must(extend(spares, rows, 0, &err), &err);
    check(path, rows);
    spares_free(spares);
    CHECK(scratch_count(scratch) == 1);
    unlink(path);
}

/* Bytes written by a commit of ROWS rows, the most of ten, after `rows` rows. */
static long long cost(Spares *spares, int64_t *rows)
{
    long long most = 0;
    Error err = { 0 };
    for (int i = 0; i < 10; i++) {
        disk.bytes = 0;
        must(extend(spares, *rows, ROWS, &err), &err);
        *rows += ROWS;
        if (disk.bytes > most) most = disk.bytes;
    }
    return most;
}

static void test_cost(Scratch *scratch)
{
    char path[512];
    strcpy(path, scratch_file(scratch, "cost.h5"));
    create(path);
    Error err = { 0 };
    Spares *spares = spares_new(path, NULL, &err);
    int64_t rows = 0;
    long long few = cost(spares, &rows);
    while (rows < 400000) {
        must(extend(spares, rows, 4096, &err), &err);
        rows += 4096;
    }
    cost(spares, &rows); /* what the large commits before left to do */
    long long many = cost(spares, &rows);
    printf("a commit of %d rows writes %lld bytes to a short file, %lld after %lld rows\n", ROWS, few, many,
           (long long)rows);
    /* an index of 6,000 chunks instead of a few: one or two nodes more, a page each, in three generations of pages */
    CHECK(many <= few + 3LL * 2 * 2 * 4096);
    check(path, rows);
    spares_free(spares);
    unlink(path);
}

static uint64_t bytes_of(int descriptor)
{
    uint64_t hash = 14695981039346656037u;
    char bytes[4096];
    off_t at = 0;
    for (ssize_t got; (got = pread(descriptor, bytes, sizeof bytes, at)) > 0; at += got)
        for (ssize_t i = 0; i < got; i++) hash = (hash ^ (unsigned char)bytes[i]) * 1099511628211u;
    return hash;
}

static void test_readers(Scratch *scratch)
{
    char path[512], kept[512];
    strcpy(path, scratch_file(scratch, "read.h5"));
    strcpy(kept, scratch_file(scratch, "kept.h5"));
    create(path);
    Error err = { 0 };
    Spares *spares = spares_new(path, NULL, &err);
    int64_t rows = 0;
    must(extend(spares, rows, ROWS, &err), &err);
    rows += ROWS;
    CHECK(link(path, kept) == 0);
    int64_t kept_rows = rows;
    for (int i = 0; i < 12; i++) {
        int reader = open(path, O_RDONLY), locked = i == 2 ? open(path, O_RDONLY) : -1;
        uint64_t before = bytes_of(reader);
        if (locked >= 0) CHECK(flock(locked, LOCK_SH) == 0);
        for (int commits = 0; commits < (i == 2 ? 6 : 2); commits++) {
            must(extend(spares, rows, ROWS, &err), &err);
            check(path, rows += ROWS);
            CHECK(bytes_of(reader) == before);
        }
        close(reader);
        if (locked >= 0) close(locked);
    }
    check(kept, kept_rows);
    spares_free(spares);
    unlink(path);
    unlink(kept);
}

/* Attributes that somebody adds stay, and the seal is right again. */
static void test_foreign_change(Scratch *scratch)
{
    char path[512];
    strcpy(path, scratch_file(scratch, "foreign.h5"));
    create(path);
    Error err = { 0 };
    Spares *spares = spares_new(path, NULL, &err);
    for (int i = 0; i < 4; i++) must(extend(spares, i * ROWS, ROWS, &err), &err);
    hid_t other = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), space = H5Screate(H5S_SCALAR);
    hid_t note = H5Acreate2(other, "note", H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    int64_t value = 7;
    CHECK(H5Awrite(note, H5T_NATIVE_INT64, &value) >= 0);
    H5Aclose(note), H5Sclose(space), H5Fclose(other);
    for (int i = 4; i < 8; i++) {
        H5File file;
        must(extend(spares, i * ROWS, ROWS, &err), &err);
        check(path, (i + 1) * ROWS);
        must(h5_open(&file, path, MPI_COMM_NULL, &err) && h5_read_int64(&file, "/", "note", 7, 7, &value, &err), &err);
        h5_close(&file);
    }
    spares_free(spares);
    unlink(path);
}

/* Full at call 0, 1, 2, ... of a commit. */
static void test_full_disk(Scratch *scratch)
{
    char path[512];
    strcpy(path, scratch_file(scratch, "full.h5"));
    create(path);
    Error err = { 0 };
    Spares *spares = spares_new(path, NULL, &err);
    int64_t rows = 0;
    long failures = 0;
    for (int i = 0; i < 4; i++, rows += ROWS) must(extend(spares, rows, ROWS, &err), &err);
    bool through = false;
    for (long at = 0; !through; at++) {
        disk.left = at, disk.seen = 0, disk.sticky = true, disk.armed = true, disk.unsynced = false;
        bool ok = extend(spares, rows, ROWS, &err);
        disk.armed = false;
        through = disk.seen <= at;
        CHECK(ok == through && (!ok || (!disk.unsynced && !disk.unlisted)));
        if (!ok) CHECK(err.exit_status == EXIT_FAULT && strstr(err.message, "full.h5"));
        failures += !ok;
        err = (Error){ 0 };
        check(path, rows + (ok ? ROWS : 0));
        CHECK(scratch_count(scratch) <= 3);
        if (ok) rows += ROWS;
        must(extend(spares, rows, 1, &err), &err); /* and then there is room again */
        check(path, ++rows);
    }
    CHECK(failures > 3);
    spares_free(spares);
    unlink(path);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    Scratch scratch = scratch_make();
    test_rows(&scratch);
    test_cost(&scratch);
    test_readers(&scratch);
    test_foreign_change(&scratch);
    test_full_disk(&scratch);
    scratch_remove(&scratch);
    MPI_Finalize();
    return 0;
}
