/* Promise: a file that is missing, truncated, foreign or made to mislead is refused with one message, the same on all
 * ranks; nothing is allocated from a size it claims, no link, filter or other file is followed, and no HDF5 object
 * stays open. */
#include "catdpo/h5/h5.h"
#include "scratch.h"

#include <math.h>
#include <sys/stat.h>

/* ---- tools --------------------------------------------------------------------------------------------------------
 */

static void check_refused(bool ok, const Error *err, const char *words)
{
    Error first = *err;
    CHECK_MPI(MPI_Bcast(&first, sizeof first, MPI_BYTE, 0, MPI_COMM_WORLD));
    if (world_rank() == 0 && getenv("VERBOSE")) printf("%s\n", err->message);
    if (ok || err->exit_status == EXIT_DONE || !strstr(err->message, words))
        fatal(__FILE__, __LINE__, "expected a message with \"%s\", got \"%s\"", words, err->message);
    CHECK(strcmp(first.message, err->message) == 0 && first.exit_status == err->exit_status);
    CHECK(!strchr(err->message, '\n'));
}

static void check_nothing_open(void) { CHECK(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0); }

static void write_bytes(const char *path, const void *bytes, size_t size)
{
    if (world_rank() == 0) {
        FILE *out = fopen(path, "wb");
        CHECK(out && fwrite(bytes, 1, size, out) == size && fclose(out) == 0);
    }
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
}

/* Rank 0 makes a file with HDF5 itself. */
static hid_t begin(const char *path)
{
    if (world_rank() != 0) return -1;
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    CHECK(file >= 0);
    return file;
}

static void end(hid_t file)
{
    if (file >= 0) CHECK(H5Fclose(file) >= 0);
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
}

static void add_attribute(hid_t where, const char *name, hid_t type, hid_t space, const void *value)
{
    if (where < 0) return;
    hid_t attribute = H5Acreate2(where, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    CHECK(attribute >= 0 && H5Awrite(attribute, type, value) >= 0);
    H5Aclose(attribute);
}

static void add_dataset(hid_t file, const char *name, hid_t type, int axes, const hsize_t dims[], hid_t creation,
                        const void *values)
{
    if (file < 0) return;
    hid_t space = axes > 0 ? H5Screate_simple(axes, dims, NULL) : H5Screate(H5S_SCALAR);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    CHECK(set >= 0 && (!values || H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0));
    H5Dclose(set);
    H5Sclose(space);
}

static hid_t text_of(size_t size)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, size);
    return type;
}

/* ---- files that are not what they should be ------------------------------------------------------------------------
 */

static void refuse_open(const char *path, const char *words)
{
    Error err = { 0 };
    H5File file;
    check_refused(h5_open(&file, path, MPI_COMM_WORLD, &err), &err, words);
    CHECK(err.exit_status == EXIT_USAGE);
    h5_close(&file);
    check_nothing_open();
}

static void test_not_hdf5(Scratch *scratch)
{
    refuse_open(scratch_file(scratch, "missing.h5"), "No such file");
    refuse_open(scratch->folder, "not a regular file");
    write_bytes(scratch_file(scratch, "empty.h5"), "", 0);
    refuse_open(scratch->path, "not an HDF5 file");
    write_bytes(scratch_file(scratch, "text.h5"), "{\"a\": 1}\n", 9);
    refuse_open(scratch->path, "not an HDF5 file");
    write_bytes(scratch_file(scratch, "signature.h5"), "\211HDF\r\n\032\n", 8);
    refuse_open(scratch->path, "damaged or truncated");
    char deep[2000];
    memset(deep, 'x', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    refuse_open(deep, "longer than");
}

static void test_truncated(Scratch *scratch)
{
    Error err = { 0 };
    H5File file;
    const int64_t dims[1] = { 1000 };
    double values[1000] = { 0 };
    char path[512], cut[512];
    strcpy(path, scratch_file(scratch, "whole.h5"));
    strcpy(cut, scratch_file(scratch, "cut.h5"));
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_write_format(&file, "catdpo-test", 1, &err));
    CHECK(h5_write_array(&file, "/x", DATA_FLOAT64, 1, dims, values, &err) && h5_commit(&file, &err));
    struct stat status;
    CHECK(stat(path, &status) == 0);
    char *bytes = malloc(status.st_size);
    FILE *in = fopen(path, "rb");
    CHECK(in && fread(bytes, 1, status.st_size, in) == (size_t)status.st_size);
    fclose(in);
    for (long size = 0; size < status.st_size; size += size < 200 ? 7 : 501) { /* every cut is noticed when opening */
        write_bytes(cut, bytes, size);
        err = (Error){ 0 };
        check_refused(h5_open(&file, cut, MPI_COMM_WORLD, &err), &err, "cut.h5");
        h5_close(&file);
        check_nothing_open();
    }
    free(bytes);
}

static void test_foreign(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "foreign.h5");
    Error err = { 0 };
    H5File file;
    end(begin(path));
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err));
    check_refused(h5_check_format(&file, "catdpo-pairs", 1, &err), &err,
                  "not a catdpo-pairs file: an HDF5 file of another program");
    h5_close(&file);

    err = (Error){ 0 };
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_write_format(&file, "catdpo-model", 2, &err) &&
          h5_commit(&file, &err));
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err));
    check_refused(h5_check_format(&file, "catdpo-pairs", 1, &err), &err,
                  "is a catdpo-model file; a catdpo-pairs file is needed");
    err = (Error){ 0 };
    check_refused(h5_check_format(&file, "catdpo-model", 1, &err), &err,
                  "format version 2; this program reads up to 1");
    h5_close(&file);
    check_nothing_open();
}

/* ---- attributes -----------------------------------------------------------------------------------------------------
 */

static void test_attributes(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "attributes.h5");
    int64_t one = 1, pair[2] = { 1, 2 };
    int32_t narrow = 1;
    double bad = NAN;
    const char *variable = "variable";
    hsize_t two = 2;
    hid_t file = begin(path), scalar = H5Screate(H5S_SCALAR), null = H5Screate(H5S_NULL),
          simple = H5Screate_simple(1, &two, NULL);
    hid_t eight = text_of(8), vlen = text_of(H5T_VARIABLE);
    add_attribute(file, "one", H5T_STD_I64LE, scalar, &one);
    add_attribute(file, "pair", H5T_STD_I64LE, simple, pair);
    add_attribute(file, "narrow", H5T_STD_I32LE, scalar, &narrow);
    add_attribute(file, "unsigned", H5T_STD_U64LE, scalar, &one);
    add_attribute(file, "nothing", H5T_STD_I64LE, null, &one);
    add_attribute(file, "nan", H5T_IEEE_F64LE, scalar, &bad);
    add_attribute(file, "text", eight, scalar, "12345678");
    add_attribute(file, "latin", eight, scalar, "caf\xe9\0\0\0");
    add_attribute(file, "escape", eight, scalar, "\033[31m\0\0");
    add_attribute(file, "variable", vlen, scalar, &variable);
    end(file);

    static const struct {
        const char *name, *words;
    } integers[] = {
        { "missing", "has no attribute \"missing\"" },
        { "pair", "not a scalar" },
        { "narrow", "not of type int64" },
        { "unsigned", "not of type int64" },
        { "nothing", "not a scalar" },
        { "nan", "not of type int64" },
        { "text", "not of type int64" },
        { "one", "must be in [2, 3]" },
    };
    static const struct {
        const char *name, *words;
    } texts[] = {
        { "text", "longer than 7 bytes" }, { "latin", "not UTF-8" }, { "escape", "not UTF-8" },
        { "variable", "variable-length" }, { "one", "is not text" }, { "nothing", "not a scalar" },
        { "missing", "has no attribute" },
    };
    Error err = { 0 };
    H5File in;
    int64_t integer = 77;
    double real = 77;
    char text[8];
    CHECK(h5_open(&in, path, MPI_COMM_WORLD, &err));
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        err = (Error){ 0 };
        check_refused(h5_read_int64(&in, "/", integers[i].name, 2, 3, &integer, &err), &err, integers[i].words);
        CHECK(integer == 77);
    }
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        err = (Error){ 0 };
        check_refused(h5_read_string(&in, "/", texts[i].name, text, sizeof text, &err), &err, texts[i].words);
    }
    err = (Error){ 0 };
    check_refused(h5_read_double(&in, "/", "nan", -INFINITY, INFINITY, &real, &err), &err, "must be in");
    err = (Error){ 0 };
    check_refused(h5_read_int64(&in, "/no/group", "one", 0, 1, &integer, &err), &err, "has no /no/group");
    h5_close(&in);
    H5Tclose(eight);
    H5Tclose(vlen);
    H5Sclose(scalar);
    H5Sclose(null);
    H5Sclose(simple);
    check_nothing_open();
}

/* ---- datasets -------------------------------------------------------------------------------------------------------
 */

static void make_datasets(const char *path)
{
    const hsize_t four = 4, huge = (hsize_t)1 << 40, grid[2] = { 2, 2 }, five[5] = { 1, 1, 1, 1, 1 },
                  over[3] = { (hsize_t)1 << 31, (hsize_t)1 << 31, 4 };
    const int32_t numbers[4] = { 1, 2, 3, 4 };
    const char *words[4] = { "a", "b", "c", "d" };
    hid_t file = begin(path), vlen = text_of(H5T_VARIABLE), plain = H5P_DEFAULT;
    if (file >= 0) {
        hid_t chunked = H5Pcreate(H5P_DATASET_CREATE), filtered, external = H5Pcreate(H5P_DATASET_CREATE),
              late = H5Pcreate(H5P_DATASET_CREATE);
        hid_t boolean = H5Tenum_create(H5T_STD_I8LE);
        hid_t links = H5Pcreate(H5P_LINK_CREATE);
        int8_t no = 0, yes = 1, flags[4] = { 0, 1, 1, 0 };
        H5Pset_create_intermediate_group(links, 1);
        H5Tenum_insert(boolean, "FALSE", &no);
        H5Tenum_insert(boolean, "TRUE", &yes);
        H5Pset_chunk(chunked, 1, &four);
        filtered = H5Pcopy(chunked);
        H5Pset_shuffle(filtered);
        H5Pset_external(external, "/etc/hostname", 0, 16);
        H5Pset_chunk(late, 3, (hsize_t[]){ 1, 1, 1 });
        add_dataset(file, "plain", H5T_STD_I32LE, 1, &four, plain, numbers);
        add_dataset(file, "big_endian", H5T_STD_I32BE, 1, &four, plain,
                    (int32_t[]){ 1 << 24, 2 << 24, 3 << 24, 4 << 24 });
        add_dataset(file, "chunked", H5T_STD_I32LE, 1, &four, chunked, numbers);
        add_dataset(file, "unsigned", H5T_STD_U32LE, 1, &four, plain, numbers);
        add_dataset(file, "short", H5T_STD_I16LE, 1, &four, plain, numbers);
        add_dataset(file, "float", H5T_IEEE_F32LE, 1, &four, plain, numbers);
        add_dataset(file, "boolean", boolean, 1, &four, plain, flags);
        add_dataset(file, "grid", H5T_STD_I32LE, 2, grid, plain, numbers);
        add_dataset(file, "five", H5T_STD_I32LE, 5, five, plain, numbers);
        add_dataset(file, "scalar", H5T_STD_I32LE, 0, NULL, plain, numbers);
        add_dataset(file, "unwritten", H5T_STD_I32LE, 1, &four, plain, NULL);
        add_dataset(file, "huge", H5T_STD_I32LE, 1, &huge, plain, NULL);
        add_dataset(file, "over", H5T_STD_I32LE, 3, over, late, NULL);
        add_dataset(file, "filtered", H5T_STD_I32LE, 1, &four, filtered, numbers);
        add_dataset(file, "external", H5T_STD_I32LE, 1, &four, external, NULL);
        add_dataset(file, "variable", vlen, 1, &four, plain, words);
        hid_t group = H5Gcreate2(file, "group", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        H5Gclose(group);
        CHECK(H5Lcreate_soft("/plain", file, "soft", H5P_DEFAULT, H5P_DEFAULT) >= 0);
        CHECK(H5Lcreate_soft("/loop", file, "loop", H5P_DEFAULT, H5P_DEFAULT) >= 0);
        CHECK(H5Lcreate_external("other.h5", "/x", file, "elsewhere", H5P_DEFAULT, H5P_DEFAULT) >= 0);
        CHECK(H5Lcreate_hard(file, "/group", file, "group/self", links, H5P_DEFAULT) >= 0);
        H5Pclose(chunked), H5Pclose(filtered), H5Pclose(external), H5Pclose(late), H5Pclose(links);
        H5Tclose(boolean);
    }
    H5Tclose(vlen);
    end(file);
}

static void test_datasets(Scratch *scratch)
{
    char path[512];
    strcpy(path, scratch_file(scratch, "datasets.h5"));
    make_datasets(path);
    static const struct {
        const char *name, *words;
    } cases[] = {
        { "/missing", "has no /missing" },
        { "/unsigned", "not of type int32" },
        { "/short", "not of type int32" },
        { "/float", "not of type int32" },
        { "/boolean", "not of type int32" },
        { "/variable", "not of type int32" },
        { "/grid", "has 2 axes; the shape [any] is needed" },
        { "/five", "has 5 axes" },
        { "/scalar", "has 0 axes" },
        { "/unwritten", "not written completely" },
        { "/huge", "more than the whole file" },
        { "/filtered", "compressed, virtual or stored in another file" },
        { "/external", "compressed, virtual or stored in another file" },
        { "/group", "is not a dataset" },
        { "/soft", "soft or external link" },
        { "/loop", "soft or external link" },
        { "/elsewhere", "soft or external link" },
        { "/elsewhere/x", "soft or external link" },
        { "/plain/x", "/plain/x" },
    };
    Error err = { 0 };
    H5File file;
    int32_t values[4];
    const int64_t four = 4, five = 5;
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err));
    for (int i = 0; i < 3; i++) {
        static const char *const good[] = { "/plain", "/big_endian", "/chunked" };
        CHECK(h5_read_array(&file, good[i], DATA_INT32, 1, &four, values, &err));
        for (int j = 0; j < 4; j++) CHECK(values[j] == j + 1);
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t any = -1;
        err = (Error){ 0 };
        check_refused(h5_expect(&file, cases[i].name, DATA_INT32, 1, &any, &err), &err, cases[i].words);
        err = (Error){ 0 };
        Slab slab = slab_rows(1, &four, 0, 4);
        CHECK(!h5_read_slab(&file, cases[i].name, DATA_INT32, &slab, values, &err));
    }
    int64_t over[3] = { -1, -1, -1 }, count;
    char strings[4][8];
    err = (Error){ 0 };
    check_refused(h5_expect(&file, "/over", DATA_INT32, 3, over, &err), &err, "more than the whole file");
    err = (Error){ 0 };
    check_refused(h5_read_array(&file, "/plain", DATA_INT32, 1, &five, values, &err), &err,
                  "has the shape [4]; [5] is needed");
    err = (Error){ 0 };
    check_refused(h5_count_strings(&file, "/variable", 1, 4, &count, &err), &err, "not of type fixed-length text");
    err = (Error){ 0 };
    check_refused(h5_read_strings(&file, "/plain", 4, 8, strings[0], &err), &err, "not of type fixed-length text");
    h5_close(&file);
    check_nothing_open();
}

/* ---- groups of byte datasets
 * ------------------------------------------------------------------------------------------ */

static void test_blobs(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "blobs.h5");
    const hsize_t four = 4;
    hid_t file = begin(path);
    if (file >= 0) {
        hid_t group[5];
        for (int i = 0; i < 5; i++) {
            char name[8];
            snprintf(name, sizeof name, "g%d", i);
            group[i] = H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        }
        for (int i = 0; i <= BLOBS_MAX; i++) {
            char name[8];
            snprintf(name, sizeof name, "m%d", i);
            add_dataset(group[0], name, H5T_STD_U8LE, 1, &four, H5P_DEFAULT, "abcd");
        }
        add_dataset(group[1], "number", H5T_STD_I32LE, 1, &four, H5P_DEFAULT, "abcdabcdabcdabcd");
        CHECK(H5Lcreate_soft("/g0/m0", group[2], "soft", H5P_DEFAULT, H5P_DEFAULT) >= 0);
        char name[400];
        memset(name, 'n', sizeof name - 1);
        name[sizeof name - 1] = '\0';
        add_dataset(group[3], name, H5T_STD_U8LE, 1, &four, H5P_DEFAULT, "abcd");
        H5Gclose(H5Gcreate2(group[4], "nested", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
        for (int i = 0; i < 5; i++) H5Gclose(group[i]);
    }
    end(file);
    static const struct {
        const char *name, *words;
    } cases[] = {
        { "/g0", "more than 32 members" }, { "/g1", "not of type uint8" }, { "/g2", "soft or external link" },
        { "/g3", "impossible name" },      { "/g4", "is not a dataset" },  { "/g0/m0", "not a group" },
        { "/g9", "has no /g9" },
    };
    Error err = { 0 };
    H5File in;
    CHECK(h5_open(&in, path, MPI_COMM_WORLD, &err));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Blobs blobs;
        err = (Error){ 0 };
        check_refused(h5_read_blobs(&in, cases[i].name, &blobs, &err), &err, cases[i].words);
    }
    h5_close(&in);
    check_nothing_open();
}

/* ---- any byte of a file
 * -------------------------------------------------------------------------------------------------- */

/* Read all that a small file holds. */
static bool read_all(const char *path, Error *err)
{
    H5File file;
    int64_t integer, dims[2] = { 3, 5 };
    int32_t numbers[15];
    char text[64], names[3][8];
    bool ok = h5_open(&file, path, MPI_COMM_WORLD, err) && h5_check_format(&file, "catdpo-test", 1, err) &&
              h5_read_int64(&file, "/", "value", 5, 5, &integer, err) &&
              h5_read_string(&file, "/", "name", text, sizeof text, err) &&
              h5_read_strings(&file, "/names", 3, 8, names[0], err) &&
              h5_read_array(&file, "/group/x", DATA_INT32, 2, dims, numbers, err);
    h5_close(&file);
    if (ok) CHECK(integer == 5 && strcmp(text, "five") == 0);
    return ok;
}

/* One flipped bit at a time, in every byte of a file whose datasets are all part of its layout: refused, never a crash,
 * a hang or an open object. */
static void test_flips(Scratch *scratch)
{
    char path[512], bad[512];
    strcpy(path, scratch_file(scratch, "good.h5"));
    strcpy(bad, scratch_file(scratch, "bad.h5"));
    Error err = { 0 };
    H5File file;
    const int64_t dims[2] = { 3, 5 };
    const int32_t numbers[15] = { 0 };
    const char names[3][8] = { "a", "b", "c" };
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_write_format(&file, "catdpo-test", 1, &err));
    CHECK(h5_write_int64(&file, "/", "value", 5, &err) && h5_write_string(&file, "/", "name", "five", &err));
    CHECK(h5_write_strings(&file, "/names", 3, 8, names[0], &err) &&
          h5_write_array(&file, "/group/x", DATA_INT32, 2, dims, numbers, &err));
    CHECK(h5_commit(&file, &err) && read_all(path, &err));
    struct stat status;
    CHECK(stat(path, &status) == 0);
    unsigned char *bytes = malloc(status.st_size);
    FILE *in = fopen(path, "rb");
    CHECK(in && fread(bytes, 1, status.st_size, in) == (size_t)status.st_size);
    fclose(in);
    long refused = 0, accepted = 0;
    for (long at = 0; at < status.st_size; at++) {
        bytes[at] ^= 1 << at % 8;
        write_bytes(bad, bytes, status.st_size);
        bytes[at] ^= 1 << at % 8;
        err = (Error){ 0 };
        bool ok = read_all(bad, &err);
        check_nothing_open();
        CHECK(ok || err.exit_status != EXIT_DONE);
        refused += !ok;
        accepted += ok;
    }
    free(bytes);
    if (world_rank() == 0)
        printf("%ld bytes: %ld flips refused, %ld not seen\n", (long)status.st_size, refused, accepted);
    CHECK(accepted == 0);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    Scratch scratch = scratch_make();
    test_not_hdf5(&scratch);
    test_truncated(&scratch);
    test_foreign(&scratch);
    test_attributes(&scratch);
    test_datasets(&scratch);
    test_blobs(&scratch);
    test_flips(&scratch);
    scratch_remove(&scratch);
    MPI_Finalize();
    return 0;
}
