/* Promises: what is written is read back, on any distribution, in one call or in many; the bytes in a file do not
 * depend on the distribution; a commit is all or nothing and leaves no .tmp; no HDF5 object stays open. */
#include "catdpo/h5/checksum.h"
#include "catdpo/h5/h5.h"
#include "scratch.h"

#include <math.h>
#include <sys/stat.h>

static void check_nothing_open(void) { CHECK(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0); }

static bool exists(const char *path)
{
    struct stat status;
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
    return stat(path, &status) == 0;
}

static void test_values(Scratch *scratch, MPI_Comm comm)
{
    const char *path = scratch_file(scratch, comm == MPI_COMM_NULL ? "alone.h5" : "values.h5");
    Error err = { 0 };
    H5File file;
    char *text = malloc(100001);
    memset(text, 'x', 100000);
    text[100000] = '\0';
    const int64_t dims[3] = { 2, 3, 1 }, none[1] = { 0 };
    const int64_t numbers[6] = { 1, -2, 3, INT64_MIN, 5, INT64_MAX };
    const char names[3][8] = { "a", "", "\xc3\xa9t\xc3\xa9" };
    CHECK(h5_create(&file, path, NULL, comm, &err) && h5_write_format(&file, "catdpo-test", 1, &err));
    CHECK(h5_write_int64(&file, "/", "count", INT64_MIN, &err) && h5_write_uint64(&file, "/", "sum", UINT64_MAX, &err));
    CHECK(h5_write_double(&file, "/", "beta", 0.1, &err) && h5_write_string(&file, "/", "name", "first", &err));
    CHECK(h5_write_string(&file, "/", "name", "second, longer", &err) &&
          h5_write_string(&file, "/", "empty", "", &err));
    CHECK(h5_write_string(&file, "/", "long", text, &err));
    CHECK(h5_write_array(&file, "/deep/er/numbers", DATA_INT64, 3, dims, numbers, &err));
    CHECK(h5_write_array(&file, "/nothing", DATA_INT32, 1, none, NULL, &err));
    CHECK(h5_write_strings(&file, "/names", 3, 8, names[0], &err) && h5_write_text(&file, "/config", "a = 1;\n", &err));
    CHECK(h5_describe(&file, "/deep/er/numbers", "nat", "what it is", &err) &&
          h5_make_scale(&file, "/names", "category", &err));
    CHECK(h5_label_axis(&file, "/deep/er/numbers", 1, "category", "/names", &err));
    CHECK(!exists(path));
    CHECK(h5_commit(&file, &err) && exists(path));
    check_nothing_open();

    int64_t integer = 0, found[6], count, wanted[3] = { 2, -1, -1 };
    uint64_t sum;
    double real;
    char name[32], *long_text, read_names[3][8];
    bool has;
    CHECK(h5_open(&file, path, comm, &err) && h5_check_format(&file, "catdpo-test", 1, &err));
    CHECK(h5_read_int64(&file, "/", "count", INT64_MIN, 0, &integer, &err) && integer == INT64_MIN);
    CHECK(h5_read_uint64(&file, "/", "sum", &sum, &err) && sum == UINT64_MAX);
    CHECK(h5_read_double(&file, "/", "beta", 0, 1, &real, &err) && real == 0.1);
    CHECK(h5_read_string(&file, "/", "name", name, sizeof name, &err) && strcmp(name, "second, longer") == 0);
    CHECK(h5_read_string(&file, "/", "empty", name, sizeof name, &err) && strcmp(name, "") == 0);
    CHECK(h5_read_text(&file, "/", "long", 1 << 20, &long_text, &err) && strcmp(long_text, text) == 0);
    CHECK(h5_expect(&file, "/deep/er/numbers", DATA_INT64, 3, wanted, &err) && memcmp(wanted, dims, sizeof dims) == 0);
    CHECK(h5_read_array(&file, "/deep/er/numbers", DATA_INT64, 3, dims, found, &err) &&
          memcmp(found, numbers, sizeof found) == 0);
    CHECK(h5_read_array(&file, "/nothing", DATA_INT32, 1, none, found, &err));
    CHECK(h5_count_strings(&file, "/names", 1, 3, &count, &err) && count == 3);
    CHECK(h5_read_strings(&file, "/names", 3, 8, read_names[0], &err) && memcmp(read_names, names, sizeof names) == 0);
    CHECK(h5_read_string(&file, "/deep/er/numbers", "units", name, sizeof name, &err) && strcmp(name, "nat") == 0);
    CHECK(h5_exists(&file, "/deep/er", &has, &err) && has && h5_exists(&file, "/deep/other", &has, &err) && !has);
    CHECK(h5_exists(&file, "/no/such/path", &has, &err) && !has);
    CHECK(h5_has_attribute(&file, "/", "created", &has, &err) && has);
    h5_close(&file);
    h5_close(&file);
    free(long_text);
    free(text);
    check_nothing_open();
}

/* Element (i, j) of a matrix whose memory is this rank's column-major part. */
static float element(int64_t i, int64_t j) { return (float)(i * 1000 + j); }

/* One matrix on every grid of the world, calls of every size: the same dataset and checksum. */
static void test_matrix(Scratch *scratch, int grid_rows, int grid_columns, int rows, int columns, int block,
                        int64_t call_bytes, bool collective)
{
    const char *path = scratch_file(scratch, "matrix.h5");
    Error err = { 0 };
    H5File file;
    int rank = world_rank(), active = rank < grid_rows * grid_columns;
    Axis row = axis_make(rows, block, grid_rows, active ? rank / grid_columns : 0);
    Axis column = axis_make(columns, block + 1, grid_columns, active ? rank % grid_columns : 0);
    int stride = row.local + 3;
    float *local = calloc(stride * (size_t)(column.local + 1), sizeof *local);
    for (int j = 0; j < column.local; j++)
        for (int i = 0; i < row.local; i++)
            local[i + j * stride] = element(axis_global(&row, i), axis_global(&column, j));
    Slab slab = active ? slab_matrix(&row, &column, stride) : slab_none();
    CHECK(slab_count(&slab) == (active ? (int64_t)row.local * column.local : 0));

    const int64_t dims[2] = { rows, columns };
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) &&
          h5_create_dataset(&file, "/model/w", DATA_FLOAT32, 2, dims, &err));
    uint64_t sum = checksum_slab(&slab, DATA_FLOAT32, local);
    checksum_sum(1, &sum, MPI_COMM_WORLD);
    CHECK(h5_write_uint64(&file, "/model/w", "checksum", sum, &err));
    file.call_bytes = call_bytes, file.collective = collective;
    CHECK(h5_write_slab(&file, "/model/w", DATA_FLOAT32, &slab, local, &err) && h5_commit(&file, &err));

    float *whole = calloc((size_t)rows * columns, sizeof *whole),
          *again = calloc(stride * (size_t)(column.local + 1), sizeof *again);
    uint64_t stored;
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err));
    CHECK(h5_read_array(&file, "/model/w", DATA_FLOAT32, 2, dims, whole, &err));
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) CHECK(whole[i * columns + j] == element(i, j));
    CHECK(h5_read_uint64(&file, "/model/w", "checksum", &stored, &err) && stored == sum);
    CHECK(stored == checksum_words(whole, (int64_t)rows * columns, 0, 1));
    file.call_bytes = call_bytes, file.collective = collective;
    CHECK(h5_read_slab(&file, "/model/w", DATA_FLOAT32, &slab, again, &err));
    for (int j = 0; j < column.local && active; j++)
        for (int i = 0; i < stride; i++) CHECK(again[i + j * stride] == (i < row.local ? local[i + j * stride] : 0));
    /* every rank reads everything, as replicas do */
    Slab all = slab_rows(2, dims, 0, rows);
    memset(whole, 0, (size_t)rows * columns * sizeof *whole);
    CHECK(h5_read_slab(&file, "/model/w", DATA_FLOAT32, &all, whole, &err));
    CHECK(checksum_words(whole, (int64_t)rows * columns, 0, 1) == sum);
    h5_close(&file);
    check_nothing_open();
    free(local);
    free(whole);
    free(again);
}

/* Blocks that do not lie side by side in memory, as the parts of a fused projection. */
static void test_fused(Scratch *scratch)
{
    enum { ROWS = 22, COLUMNS = 5, BLOCK = 3, FUSED = 7, AT = 4 };
    const char *path = scratch_file(scratch, "fused.h5");
    Error err = { 0 };
    H5File file;
    Axis row = axis_make(ROWS, BLOCK, world_size(), world_rank()), column = axis_make(COLUMNS, COLUMNS, 1, 0);
    int stride = (row.local / BLOCK + 1) * FUSED;
    float *local = calloc(stride * COLUMNS, sizeof *local), *again = calloc(stride * COLUMNS, sizeof *again);
    for (int j = 0; j < COLUMNS; j++)
        for (int i = 0; i < row.local; i++)
            local[i / BLOCK * FUSED + AT + i % BLOCK + j * stride] = element(axis_global(&row, i), j);
    Slab slab = slab_matrix(&row, &column, stride);
    slab.axis[0].block_step = FUSED;
    const int64_t dims[2] = { ROWS, COLUMNS };
    float whole[ROWS * COLUMNS];
    uint64_t sum = checksum_slab(&slab, DATA_FLOAT32, local + AT);
    checksum_sum(1, &sum, MPI_COMM_WORLD);
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) &&
          h5_create_dataset(&file, "/w", DATA_FLOAT32, 2, dims, &err));
    file.call_bytes = 50;
    CHECK(h5_write_slab(&file, "/w", DATA_FLOAT32, &slab, local + AT, &err) && h5_commit(&file, &err));
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err) && h5_read_array(&file, "/w", DATA_FLOAT32, 2, dims, whole, &err));
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLUMNS; j++) CHECK(whole[i * COLUMNS + j] == element(i, j));
    CHECK(sum == checksum_words(whole, ROWS * COLUMNS, 0, 1));
    CHECK(h5_read_slab(&file, "/w", DATA_FLOAT32, &slab, again + AT, &err) &&
          memcmp(local, again, stride * COLUMNS * sizeof *local) == 0);
    h5_close(&file);
    free(local);
    free(again);
}

/* Dense rows of arrays with one to four axes, all types of element size, uneven shares, one rank with nothing. */
static void test_rows(Scratch *scratch, DataType type, int axes, int64_t call_bytes)
{
    const char *path = scratch_file(scratch, "rows.h5");
    Error err = { 0 };
    H5File file;
    const int64_t dims[4] = { 11, 3, 2, 4 };
    int64_t row = (int64_t)data_size(type), size = world_size(), rank = world_rank();
    for (int i = 1; i < axes; i++) row *= dims[i];
    int64_t shares = size > 1 ? size - 1 : 1, first = rank * dims[0] / shares, last = (rank + 1) * dims[0] / shares;
    if (rank >= shares) first = last = 0;
    unsigned char *all = malloc(dims[0] * row), *found = malloc(dims[0] * row);
    for (int64_t i = 0; i < dims[0] * row; i++) all[i] = (unsigned char)(i * 7);
    Slab slab = slab_rows(axes, dims, first, last - first);
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_create_dataset(&file, "/x", type, axes, dims, &err));
    file.call_bytes = call_bytes;
    CHECK(h5_write_slab(&file, "/x", type, &slab, all + first * row, &err) && h5_commit(&file, &err));
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err) && h5_read_array(&file, "/x", type, axes, dims, found, &err));
    CHECK(memcmp(all, found, dims[0] * row) == 0);
    memset(found, 0, dims[0] * row);
    CHECK(h5_read_slab(&file, "/x", type, &slab, found, &err) &&
          memcmp(all + first * row, found, (last - first) * row) == 0);
    h5_close(&file);
    free(all);
    free(found);
}

/* The axes of the memory in another order than those of the file, with four axes. */
static void test_permuted(Scratch *scratch)
{
    enum { A = 2, B = 3, C = 4, D = 5 };
    Error err = { 0 };
    H5File file;
    const int64_t dims[4] = { A, B, C, D };
    double memory[A * B * C * D], whole[A * B * C * D];
    Slab slab = slab_rows(4, dims, 0, A);
    int64_t step = 1;
    for (int i = 0; i < 4; i++) {
        slab.axis[i].step = step;
        slab.axis[i].block_step = step * slab.axis[i].block;
        step *= dims[i];
    }
    for (int a = 0; a < A; a++)
        for (int b = 0; b < B; b++)
            for (int c = 0; c < C; c++)
                for (int d = 0; d < D; d++) memory[a + A * (b + B * (c + C * d))] = ((a * B + b) * C + c) * D + d;
    if (world_rank() != 0) slab = slab_none();
    uint64_t sum = checksum_slab(&slab, DATA_FLOAT64, memory);
    checksum_sum(1, &sum, MPI_COMM_WORLD);
    CHECK(h5_create(&file, scratch_file(scratch, "p.h5"), NULL, MPI_COMM_WORLD, &err) &&
          h5_create_dataset(&file, "/x", DATA_FLOAT64, 4, dims, &err));
    file.call_bytes = 8 * B * C * D;
    CHECK(h5_write_slab(&file, "/x", DATA_FLOAT64, &slab, memory, &err) && h5_commit(&file, &err));
    CHECK(h5_open(&file, scratch_file(scratch, "p.h5"), MPI_COMM_WORLD, &err));
    CHECK(h5_read_array(&file, "/x", DATA_FLOAT64, 4, dims, whole, &err));
    for (int i = 0; i < A * B * C * D; i++) CHECK(whole[i] == i);
    CHECK(sum == checksum_words(whole, 2 * A * B * C * D, 0, 1));
    h5_close(&file);
}

/* A second write of some columns leaves the others as they were. */
static void test_patch(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "patch.h5");
    const int64_t dims[2] = { 6, 5 };
    int32_t values[30], found[30], ones[6] = { 1, 1, 1, 1, 1, 1 };
    Error err = { 0 };
    H5File file;
    for (int i = 0; i < 30; i++) values[i] = 100 + i;
    Slab whole = world_rank() == 0 ? slab_rows(2, dims, 0, 6) : slab_none(), column = slab_rows(2, dims, 1, 3);
    column.axis[1].first = 2, column.axis[1].block = 1, column.axis[0].step = 1;
    if (world_rank() != world_size() - 1) column = slab_none();
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) &&
          h5_create_dataset(&file, "/x", DATA_INT32, 2, dims, &err));
    CHECK(h5_write_slab(&file, "/x", DATA_INT32, &whole, values, &err));
    CHECK(h5_write_slab(&file, "/x", DATA_INT32, &column, ones, &err) && h5_commit(&file, &err));
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err) && h5_read_array(&file, "/x", DATA_INT32, 2, dims, found, &err));
    for (int i = 0; i < 30; i++) CHECK(found[i] == (i % 5 == 2 && i / 5 >= 1 && i / 5 < 4 ? 1 : 100 + i));
    h5_close(&file);
}

static void test_extendible(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "grow.h5");
    Error err = { 0 };
    H5File file;
    int size = world_size(), rank = world_rank();
    int64_t dims[2] = { 0, size }, chunk[2] = { 4, 1 };
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) &&
          h5_create_extendible(&file, "/x", DATA_FLOAT64, 2, 2, dims, chunk, 0, &err));
    CHECK(h5_create_extendible(&file, "/n", DATA_INT64, 2, 1, dims, chunk, -1, &err) && h5_commit(&file, &err));
    for (int64_t rows = 0; rows < 9; rows += 3) { /* three rows at a time, each rank its column; /n is not filled in */
        double mine[3] = { rows + rank, rows + 1 + rank, rows + 2 + rank };
        dims[0] = rows + 3;
        CHECK(h5_modify(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_resize(&file, "/x", 2, dims, &err) &&
              h5_resize(&file, "/n", 2, dims, &err));
        Slab slab = slab_rows(2, dims, rows, 3);
        slab.axis[1].first = rank, slab.axis[1].block = 1;
        slab.axis[0].step = 1;
        CHECK(h5_write_slab(&file, "/x", DATA_FLOAT64, &slab, mine, &err) && h5_commit(&file, &err));
    }
    double found[9 * 8];
    int64_t unfilled[9 * 8];
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err) && h5_read_array(&file, "/x", DATA_FLOAT64, 2, dims, found, &err));
    CHECK(h5_read_array(&file, "/n", DATA_INT64, 2, dims, unfilled, &err));
    h5_close(&file);
    for (int i = 0; i < 9; i++)
        for (int r = 0; r < size; r++) CHECK(found[i * size + r] == i + r && unfilled[i * size + r] == -1);
    dims[0] = 5;
    CHECK(h5_modify(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_resize(&file, "/x", 2, dims, &err));
    dims[0] = 7; /* what was cut off does not come back */
    CHECK(h5_resize(&file, "/x", 2, dims, &err) && h5_delete(&file, "/n", &err) && h5_commit(&file, &err));
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err) && h5_read_array(&file, "/x", DATA_FLOAT64, 2, dims, found, &err));
    for (int i = 0; i < 7 * size; i++) CHECK(i < 5 * size ? found[i] == i / size + i % size : isnan(found[i]));
    h5_close(&file);
    check_nothing_open();
}

/* Without a commit there is the earlier file and no .tmp. */
static void test_atomic(Scratch *scratch)
{
    char path[512];
    strcpy(path, scratch_file(scratch, "atomic.h5"));
    Error err = { 0 };
    H5File file;
    int64_t value;
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_write_int64(&file, "/", "value", 1, &err) &&
          h5_commit(&file, &err));
    int before = scratch_count(scratch);

    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_write_int64(&file, "/", "value", 2, &err));
    CHECK(scratch_count(scratch) == before + 1);
    h5_close(&file);
    CHECK(scratch_count(scratch) == before);

    CHECK(scratch_count(scratch) == before);
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err) && h5_read_int64(&file, "/", "value", 1, 1, &value, &err));
    h5_close(&file);

    char missing[600];
    snprintf(missing, sizeof missing, "%s/no/such/folder.h5", scratch->folder);
    CHECK(!h5_create(&file, missing, NULL, MPI_COMM_WORLD, &err) && strstr(err.message, "No such file"));
    h5_close(&file);
    check_nothing_open();
}

static void test_blobs(Scratch *scratch)
{
    Error err = { 0 };
    H5File from, to;
    Blobs blobs = { .count = 4,
                    .member = { { .name = "chat_template.jinja" },
                                { .name = "offsets", .size = 2, .type = DATA_INT64 },
                                { .name = "tokenizer.json", .size = 300 },
                                { .name = "\xc3\xa9.txt", .size = 1 } } };
    uint8_t bytes[300];
    int64_t numbers[2] = { 0, INT64_MAX };
    for (int i = 0; i < 300; i++) bytes[i] = (uint8_t)i;
    blobs.member[1].bytes = (uint8_t *)numbers;
    blobs.member[2].bytes = blobs.member[3].bytes = bytes;
    CHECK(h5_create(&from, scratch_file(scratch, "from.h5"), NULL, MPI_COMM_WORLD, &err));
    CHECK(h5_write_blobs(&from, "/tokenizer", &blobs, &err) &&
          h5_describe(&from, "/tokenizer/offsets", NULL, "where they start", &err) && h5_commit(&from, &err));
    CHECK(h5_open(&from, scratch_file(scratch, "from.h5"), MPI_COMM_WORLD, &err));
    CHECK(h5_create(&to, scratch_file(scratch, "to.h5"), NULL, MPI_COMM_WORLD, &err));
    CHECK(h5_copy_group(&from, &to, "/tokenizer", &err) && h5_commit(&to, &err));
    h5_close(&from);
    Blobs found;
    CHECK(h5_open(&to, scratch_file(scratch, "to.h5"), MPI_COMM_WORLD, &err) &&
          h5_read_blobs(&to, "/tokenizer", &found, &err));
    CHECK(found.count == 4 && found.member[0].size == 0 && found.member[1].size == 2 &&
          found.member[1].type == DATA_INT64 && found.member[2].size == 300 && found.member[2].type == DATA_UINT8 &&
          strcmp(found.member[3].name, "\xc3\xa9.txt") == 0);
    CHECK(world_rank() == 0 ? memcmp(found.member[1].bytes, numbers, sizeof numbers) == 0 &&
                                  memcmp(found.member[2].bytes, bytes, 300) == 0
                            : !found.member[1].bytes && !found.member[2].bytes);
    char text[64];
    CHECK(h5_read_string(&to, "/tokenizer/offsets", "description", text, sizeof text, &err) &&
          strcmp(text, "where they start") == 0);
    blobs_free(&found);
    h5_close(&to);
    check_nothing_open();
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    Scratch scratch = scratch_make();
    int size = world_size();
    test_values(&scratch, MPI_COMM_WORLD);
    if (size == 1) test_values(&scratch, MPI_COMM_NULL);
    for (int rows = 1; rows <= size; rows++) {
        int columns = size / rows;
        for (int collective = 0; collective < 2; collective++) {
            test_matrix(&scratch, rows, columns, 37, 23, 4, 64 << 20, collective);
            test_matrix(&scratch, rows, columns, 37, 23, 4, 300, collective);
            test_matrix(&scratch, rows, columns, 64, 48, 16, 1, collective);
            test_matrix(&scratch, rows, columns, 2, 90, 1, 64, collective); /* process rows without data */
        }
    }
    test_fused(&scratch);
    for (int axes = 1; axes <= 4; axes++) {
        test_rows(&scratch, DATA_UINT8, axes, 64 << 20);
        test_rows(&scratch, DATA_INT32, axes, 40);
        test_rows(&scratch, DATA_FLOAT64, axes, 1);
    }
    test_permuted(&scratch);
    test_patch(&scratch);
    test_extendible(&scratch);
    test_atomic(&scratch);
    test_blobs(&scratch);
    scratch_remove(&scratch);
    MPI_Finalize();
    return 0;
}
