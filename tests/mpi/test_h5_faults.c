/* Promise: a full disk at any write of a file is one agreed error; the earlier file is as it was, no .tmp is left,
 * nothing hangs and no HDF5 object stays open. */
#define _GNU_SOURCE
#include "catdpo/h5/checksum.h"
#include "catdpo/h5/h5.h"
#include "full_disk.h"
#include "scratch.h"

/* ---- the writing --------------------------------------------------------------------------------------------------
 */

static bool write_new(const char *path, Error *err)
{
    const int64_t dims[2] = { 4000, 7 }, row = 7;
    int size = world_size(), rank = world_rank();
    float *values = malloc(dims[0] * row * sizeof *values);
    for (int i = 0; i < dims[0] * row; i++) values[i] = (float)(i + 1);
    H5File file;
    Slab slab = slab_rows(2, dims, rank * dims[0] / size, (rank + 1) * dims[0] / size - rank * dims[0] / size);
    bool ok = h5_create(&file, path, NULL, MPI_COMM_WORLD, err) && h5_write_format(&file, "catdpo-test", 1, err) &&
              h5_write_array(&file, "/small", DATA_FLOAT32, 1, &row, values, err) &&
              h5_create_dataset(&file, "/large", DATA_FLOAT32, 2, dims, err) &&
              h5_write_int64(&file, "/", "value", 2, err);
    file.call_bytes = 20000;
    ok = ok && h5_write_slab(&file, "/large", DATA_FLOAT32, &slab, values + rank * dims[0] / size * row, err) &&
         h5_commit(&file, err);
    h5_close(&file);
    free(values);
    return ok;
}

/* Metadata only: nothing goes through MPI-IO. */
static bool write_small(const char *path, Error *err)
{
    const int64_t dims[1] = { 1000 };
    double values[1000] = { 0 };
    H5File file;
    bool ok = h5_create(&file, path, NULL, MPI_COMM_WORLD, err) && h5_write_int64(&file, "/", "value", 2, err) &&
              h5_write_array(&file, "/small", DATA_FLOAT64, 1, dims, values, err) && h5_commit(&file, err);
    h5_close(&file);
    return ok;
}

static bool append(const char *path, Error *err)
{
    const int64_t dims[1] = { 3000 };
    double *values = malloc(dims[0] * sizeof *values);
    for (int i = 0; i < dims[0]; i++) values[i] = i + 1;
    H5File file;
    Slab slab = world_rank() == 0 ? slab_rows(1, dims, 0, dims[0]) : slab_none();
    bool ok = h5_modify(&file, path, NULL, MPI_COMM_WORLD, err) && h5_resize(&file, "/grows", 1, dims, err) &&
              h5_write_int64(&file, "/", "value", 2, err) &&
              h5_write_slab(&file, "/grows", DATA_FLOAT64, &slab, values, err) && h5_commit(&file, err);
    h5_close(&file);
    free(values);
    return ok;
}

/* Which file it is; the second one must be whole. */
static int64_t value_of(const char *path)
{
    static float large[28000];
    static double grown[3000];
    const int64_t dims[2] = { 4000, 7 }, length = 3000;
    Error err = { 0 };
    H5File file;
    int64_t value;
    bool has = false, grows = false;
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err) && h5_read_int64(&file, "/", "value", 1, 2, &value, &err));
    if (value == 2) CHECK(h5_exists(&file, "/large", &has, &err) && h5_exists(&file, "/grows", &grows, &err));
    if (has) CHECK(h5_read_array(&file, "/large", DATA_FLOAT32, 2, dims, large, &err));
    if (grows) CHECK(h5_read_array(&file, "/grows", DATA_FLOAT64, 1, &length, grown, &err));
    for (int i = 0; has && i < 28000; i++) CHECK(large[i] == (float)(i + 1));
    for (int i = 0; grows && i < length; i++) CHECK(grown[i] == i + 1);
    h5_close(&file);
    return value;
}

static void write_first(const char *path)
{
    Error err = { 0 };
    H5File file;
    const int64_t dims[1] = { 10 }, chunk[1] = { 64 };
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_write_int64(&file, "/", "value", 1, &err));
    CHECK(h5_create_extendible(&file, "/grows", DATA_FLOAT64, 1, 1, dims, chunk, 0, &err) && h5_commit(&file, &err));
}

/* The disk full at call 0, 1, 2, ... on the ranks [first, last], until the writing gets through. */
static void test_full(Scratch *scratch, bool (*writing)(const char *, Error *), int first, int last, bool sticky)
{
    const char *path = scratch_file(scratch, "file.h5");
    long at = 0, failures = 0;
    for (bool through = false; !through; at++) {
        write_first(path);
        Error err = { 0 };
        int rank = world_rank();
        bool mine = rank >= first && rank <= last;
        disk.left = at, disk.seen = 0, disk.sticky = sticky, disk.armed = mine, disk.unsynced = false;
        bool ok = writing(path, &err);
        disk.armed = false;
        if (ok) CHECK(!disk.unsynced && !disk.unlisted);
        int full = mine && disk.seen > at;
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &full, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD));
        CHECK(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
        CHECK(scratch_count(scratch) == 1);
        CHECK(ok == !full || (ok && !sticky)); /* a single failure may have been made good by trying again */
        if (!ok) CHECK(err.exit_status == EXIT_FAULT && strstr(err.message, "file.h5"));
        if (!ok && rank == 0 && getenv("VERBOSE"))
            printf("call %ld on ranks %d-%d: %s\n", at, first, last, err.message);
        CHECK(value_of(path) == (ok ? 2 : 1));
        failures += !ok;
        through = !full;
    }
    if (world_rank() == 0)
        printf("ranks %d-%d, %s: %ld calls, %ld failures\n", first, last, sticky ? "stays full" : "fails once", at - 1,
               failures);
    CHECK(failures > 0);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    Scratch scratch = scratch_make();
    int last = world_size() - 1;
    bool (*const writings[])(const char *, Error *) = { write_new, write_small, append };
    for (int w = 0; w < 3; w++) {
        test_full(&scratch, writings[w], 0, last, true);
        test_full(&scratch, writings[w], 0, 0, true);
        test_full(&scratch, writings[w], 0, 0, false);
        if (last > 0 && writings[w] != write_small) test_full(&scratch, writings[w], last, last, true);
    }
    scratch_remove(&scratch);
    MPI_Finalize();
    return 0;
}
