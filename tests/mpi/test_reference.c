/* Promises: a cache is used only for the data, weights, tokenizer and settings it was made for, is refused by name
 * otherwise and never overwritten; its groups are written at different times; damage is found. */
#define _GNU_SOURCE
#include "catdpo/h5/h5.h"
#include "catdpo/files/reference_file.h"
#include "scratch.h"

#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>

static const ReferenceKey key = { "0123456789abcdef", "fedcba9876543210", "token", "beta=none" };

static void check_refused(ReferenceStatus status, const Error *err, const char *words)
{
    Error first = *err;
    CHECK_MPI(MPI_Bcast(&first, sizeof first, MPI_BYTE, 0, MPI_COMM_WORLD));
    if (world_rank() == 0 && getenv("VERBOSE")) printf("%s\n", err->message);
    if (status != REFERENCE_REFUSED || !strstr(err->message, words))
        fatal(__FILE__, __LINE__, "expected \"%s\", got \"%s\"", words, err->message);
    CHECK(strcmp(first.message, err->message) == 0 && H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
}

static void test_round_trip(const char *path)
{
    const double chosen[3] = { -1.5, -200.25, -1e-3 }, rejected[3] = { -3, -4, -5 }, held_chosen[1] = { -7 },
                 held_rejected[1] = { -8 };
    double a[3], b[3];
    int64_t done;
    Error err = { 0 };
    CHECK(reference_cache_read(path, "train", &key, 3, a, b, &done, MPI_COMM_WORLD, &err) == REFERENCE_ABSENT);
    CHECK(reference_cache_write(path, NULL, "train", &key, 3, chosen, rejected, 3, MPI_COMM_WORLD, &err));
    CHECK(reference_cache_read(path, "train", &key, 3, a, b, &done, MPI_COMM_WORLD, &err) == REFERENCE_FOUND);
    CHECK(memcmp(a, chosen, sizeof a) == 0 && memcmp(b, rejected, sizeof b) == 0 && done == 3);
    CHECK(reference_cache_read(path, "heldout", &key, 1, a, b, &done, MPI_COMM_WORLD, &err) == REFERENCE_ABSENT);
    CHECK(reference_cache_write(path, NULL, "heldout", &key, 1, held_chosen, held_rejected, 1, MPI_COMM_WORLD, &err));
    CHECK(reference_cache_read(path, "heldout", &key, 1, a, b, &done, MPI_COMM_WORLD, &err) == REFERENCE_FOUND &&
          a[0] == -7 && b[0] == -8);
    CHECK(reference_cache_write(path, NULL, "heldout", &key, 1, held_rejected, held_chosen, 1, MPI_COMM_WORLD,
                                &err)); /* again */
    CHECK(reference_cache_read(path, "heldout", &key, 1, a, b, &done, MPI_COMM_WORLD, &err) == REFERENCE_FOUND &&
          a[0] == -8 && b[0] == -7);
    CHECK(reference_cache_read(path, "train", &key, 3, a, b, &done, MPI_COMM_WORLD, &err) == REFERENCE_FOUND &&
          a[1] == -200.25);
    CHECK(err.exit_status == EXIT_DONE && H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
    if (world_rank() > 0)
        CHECK(reference_cache_write(path, NULL, "empty", &key, 0, NULL, NULL, 0, MPI_COMM_WORLD, &err));
    else
        CHECK(reference_cache_write(path, NULL, "empty", &key, 0, chosen, rejected, 0, MPI_COMM_WORLD, &err));
    CHECK(reference_cache_read(path, "empty", &key, 0, a, b, &done, MPI_COMM_WORLD, &err) == REFERENCE_FOUND);
}

static void test_other_key(const char *path)
{
    static const struct {
        ReferenceKey key;
        const char *words;
    } cases[] = {
        { { "other", "fedcba9876543210", "token", "beta=none" },
          "made for other data: its data_digest is \"0123456789abcdef\", this run's is \"other\"" },
        { { "0123456789abcdef", "other", "token", "beta=none" },
          "made for other weights: its weights_digest is \"fedcba9876543210\"" },
        { { "0123456789abcdef", "fedcba9876543210", "other", "beta=none" }, "made for other tokenizer" },
        { { "0123456789abcdef", "fedcba9876543210", "token", "other" },
          "made for other settings: its settings is \"beta=none\", this run's is \"other\"" },
    };
    double a[3], b[3];
    int64_t done;
    for (int i = 0; i < 4; i++) {
        Error err = { 0 };
        check_refused(reference_cache_read(path, "train", &cases[i].key, 3, a, b, &done, MPI_COMM_WORLD, &err), &err,
                      cases[i].words);
        err = (Error){ 0 };
        CHECK(!reference_cache_write(path, NULL, "train", &cases[i].key, 3, a, b, 3, MPI_COMM_WORLD, &err) &&
              strstr(err.message, cases[i].words));
    }
    Error err = { 0 };
    check_refused(reference_cache_read(path, "train", &key, 4, a, b, &done, MPI_COMM_WORLD, &err), &err,
                  "has the shape [3]; [4] is needed");
    err = (Error){ 0 };
    CHECK(reference_cache_read(path, "train", &key, 3, a, b, &done, MPI_COMM_WORLD, &err) == REFERENCE_FOUND &&
          a[0] == -1.5); /* as it was */
}

static void test_damage(const char *path)
{
    double a[3], b[3];
    int64_t done;
    Error err = { 0 };
    if (world_rank() == 0) { /* flip one bit of the value -200.25 */
        double wanted = -200.25;
        char bytes[8], *whole;
        struct stat status;
        CHECK(stat(path, &status) == 0);
        FILE *file = fopen(path, "r+b");
        memcpy(bytes, &wanted, 8);
        whole = malloc(status.st_size);
        CHECK(fread(whole, 1, status.st_size, file) == (size_t)status.st_size);
        char *at = memmem(whole, status.st_size, bytes, 8);
        CHECK(at);
        fseek(file, at - whole, SEEK_SET);
        fputc(bytes[0] ^ 1, file);
        fclose(file);
        free(whole);
    }
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
    check_refused(reference_cache_read(path, "train", &key, 3, a, b, &done, MPI_COMM_WORLD, &err), &err,
                  "/train/chosen is damaged");
    if (world_rank() == 0) CHECK(truncate(path, 300) == 0);
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
    err = (Error){ 0 };
    check_refused(reference_cache_read(path, "train", &key, 3, a, b, &done, MPI_COMM_WORLD, &err), &err,
                  "damaged or truncated");
    if (world_rank() == 0) CHECK(truncate(path, 0) == 0);
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
    err = (Error){ 0 };
    check_refused(reference_cache_read(path, "train", &key, 3, a, b, &done, MPI_COMM_WORLD, &err), &err,
                  "not an HDF5 file");
    err = (Error){ 0 };
    CHECK(!reference_cache_write(path, NULL, "train", &key, 3, a, b, 3, MPI_COMM_WORLD, &err) &&
          strstr(err.message, "not an HDF5 file"));
}

static void test_not_finite(const char *path)
{
    double chosen[3] = { -1, NAN, -1 }, a[3], b[3];
    int64_t done;
    Error err = { 0 };
    CHECK(reference_cache_write(path, NULL, "train", &key, 3, chosen, chosen, 3, MPI_COMM_WORLD, &err));
    check_refused(reference_cache_read(path, "train", &key, 3, a, b, &done, MPI_COMM_WORLD, &err), &err,
                  "entry 1 of /train/chosen is not finite");
}

/* What an interrupted pass has done is kept, and says how far it is. */
static void test_partial(const char *path)
{
    const double chosen[3] = { -1, -2, NAN }, rejected[3] = { -3, -4, NAN };
    double a[3], b[3];
    int64_t done;
    Error err = { 0 };
    CHECK(reference_cache_write(path, NULL, "train", &key, 3, chosen, rejected, 2, MPI_COMM_WORLD, &err));
    CHECK(reference_cache_read(path, "train", &key, 3, a, b, &done, MPI_COMM_WORLD, &err) == REFERENCE_FOUND);
    CHECK(done == 2 && a[1] == -2 && b[0] == -3);
    CHECK(reference_cache_write(path, NULL, "train", &key, 3, rejected, rejected, 0, MPI_COMM_WORLD, &err));
    CHECK(reference_cache_read(path, "train", &key, 3, a, b, &done, MPI_COMM_WORLD, &err) == REFERENCE_FOUND &&
          done == 0);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    Scratch scratch = scratch_make();
    const char *path = scratch_file(&scratch, "reference.h5");
    test_round_trip(path);
    test_other_key(path);
    test_damage(path);
    test_not_finite(scratch_file(&scratch, "nan.h5"));
    test_partial(scratch_file(&scratch, "partial.h5"));
    scratch_remove(&scratch);
    MPI_Finalize();
    return 0;
}
