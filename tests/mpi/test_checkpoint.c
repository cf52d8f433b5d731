/* Promises: a checkpoint brings back weights, moments and margins exactly, with moments shared out or not; whatever
 * stands in it, `catdpo check` and a run that would go on from it say the same of it; a disk that is full at any of its
 * writes, on any rank, is one agreed error, and the checkpoints that were there before are as they were. */
#define _GNU_SOURCE
#include "catdpo/commands/cli.h"
#include "catdpo/config/config.h"
#include "catdpo/core/file.h"
#include "catdpo/core/phase.h"
#include "catdpo/files/checkpoint.h"
#include "catdpo/run/run.h"
#include "full_disk.h"
#include "scratch.h"

#include <math.h>

enum { CATEGORIES = 2 };
static const char names[CATEGORIES][CATEGORY_NAME] = { "violence", "fraud" };

/* A tiny model in training. */
typedef struct State {
    Grid grid;
    Timer *timer;
    Transformer model;
    Optimizer optimizer;
    MarginState margins;
    char source[512];
} State;

static void open_state(State *s, int replicas, int rows, int columns, bool shard)
{
    Error err = { 0 };
    H5File file;
    ModelInfo info;
    char digest[WEIGHTS_DIGEST];
    const TransformerLimits limits = {
        .max_width = 8, .max_chunk = 8, .max_sequences = 1, .longest = 8, .backward = true
    };
    const OptimizerSettings settings = { .beta1 = .9, .beta2 = .999, .epsilon = 1e-8, .shard = shard };
    static Config config;
    CHECK(config_load(&config, NULL, 0, NULL, &err));
    snprintf(s->source, sizeof s->source, "%s/tiny_qwen2.h5", REFERENCE_DIR);
    CHECK(grid_create(&s->grid, MPI_COMM_WORLD, replicas, rows, columns, &err));
    CHECK(model_file_open(&file, s->source, &info, MPI_COMM_WORLD, &err));
    s->timer = timer_new(PHASES, phase_name);
    CHECK(transformer_create(&s->model, &info.architecture, &s->grid, &limits, s->timer, &err));
    CHECK(model_load(&file, &s->model, digest, &err));
    h5_close(&file);
    CHECK(optimizer_create(&s->optimizer, &s->model.parameters, &s->grid, &settings, &err));
    CHECK(margin_create(&s->margins, &config.margin, &config.objective, CATEGORIES, &err));
}

/* Moments as training would leave them: on every rank a function of the element's value, so that all layouts agree. */
static void fill_state(State *s)
{
    for (int64_t i = s->optimizer.first; i < s->optimizer.end; i++) {
        s->optimizer.m[i - s->optimizer.first] = 0.5f * s->model.weights[i];
        s->optimizer.v[i - s->optimizer.first] = s->model.weights[i] * s->model.weights[i];
    }
    s->optimizer.updates = 1;
    s->margins.margin[1] = 2.5;
    s->margins.violation_rate[0] = 0.125;
    s->margins.n[1] = 9;
    s->margins.violations[1] = 5;
    s->margins.n[0] = 3, s->margins.violations[0] = 2;
    s->margins.pending[0] = 1, s->margins.pending[CATEGORIES] = 1;
    s->margins.updates = 1, s->margins.last_update = 1;
}

static void check_state(const State *s)
{
    const Optimizer *o = &s->optimizer;
    for (int64_t i = o->first; i < o->end; i++)
        CHECK(o->m[i - o->first] == 0.5f * s->model.weights[i] &&
              o->v[i - o->first] == s->model.weights[i] * s->model.weights[i]);
    CHECK(o->updates == 1 && s->margins.margin[0] == 0 && s->margins.margin[1] == 2.5 &&
          s->margins.violation_rate[0] == 0.125);
    CHECK(s->margins.n[1] == 9 && s->margins.violations[1] == 5 && s->margins.pending[CATEGORIES] == 1 &&
          s->margins.last_update == 1);
}

static void close_state(State *s)
{
    margin_free(&s->margins);
    optimizer_free(&s->optimizer);
    transformer_free(&s->model);
    timer_free(s->timer);
    grid_free(&s->grid);
}

static bool write_step(const State *s, const char *path, int64_t step, Error *err)
{
    const Checkpoint about = { .step = step,
                               .total_steps = 10,
                               .num_tokens = 100,
                               .seed = 42,
                               .heldout_worst = -1,
                               .sampling = "uniform",
                               .config = "run: { seed = 42; };\n",
                               .version = "test",
                               .layout = "1x1x1",
                               .data_digest = "d",
                               .tokenizer_digest = "t",
                               .template_digest = "m",
                               .start_digest = "s",
                               .reference_digest = "r",
                               .category_name = names };
    return checkpoint_write(path, NULL, s->source, &s->model, &s->optimizer, &s->margins, &about, err);
}

static int64_t step_of(const char *path)
{
    Checkpoint head;
    Error err = { 0 };
    CHECK(checkpoint_open(path, &head, MPI_COMM_WORLD, &err));
    int64_t step = head.step;
    checkpoint_free(&head);
    return step;
}

/* ---- back again, on every layout -------------------------------------------------------------------------------- */

static void test_layouts(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "checkpoint.h5");
    int ranks = world_size();
    Error err = { 0 };
    State first = { 0 };
    open_state(&first, 1, 1, ranks, true);
    fill_state(&first);
    CHECK(write_step(&first, path, 6, &err));
    close_state(&first);
    for (int rows = 1; rows <= 2 && rows <= ranks; rows++)
        for (int columns = 1; rows * columns <= ranks; columns++)
            for (int shard = 0; shard < 2 && ranks % (rows * columns) == 0; shard++) {
                State s = { 0 };
                open_state(&s, ranks / (rows * columns), rows, columns, shard);
                CHECK(checkpoint_load(path, &s.model, &s.optimizer, &s.margins, names, &err));
                check_state(&s);
                CHECK(write_step(&s, path, 6, &err)); /* and what this layout writes is read by the next */
                close_state(&s);
            }
    CHECK(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
}

/* ---- check and resume say the same ------------------------------------------------------------------------------ */

static bool check_accepts(const char *path)
{
    const char *files[] = { path };
    const CommandLine check = { .file_count = 1, .files = files };
    fflush(stdout);
    int out = dup(STDOUT_FILENO), nowhere = open("/dev/null", O_WRONLY);
    CHECK(out >= 0 && nowhere >= 0 && dup2(nowhere, STDOUT_FILENO) >= 0);
    int status = command_check(&check, MPI_COMM_NULL);
    CHECK(dup2(out, STDOUT_FILENO) >= 0 && close(out) == 0 && close(nowhere) == 0);
    CHECK(status == EXIT_DONE || status == EXIT_USAGE);
    return status == EXIT_DONE;
}

static bool resume_accepts(State *s, const char *path)
{
    Error err = { 0 };
    Checkpoint head;
    Run run = { .world = MPI_COMM_WORLD, .model = s->model };
    bool ok = checkpoint_open(path, &head, MPI_COMM_WORLD, &err);
    if (ok) checkpoint_free(&head);
    ok = ok && run_load_model(&run, path, &err) &&
         checkpoint_load(path, &s->model, &s->optimizer, &s->margins, names, &err);
    CHECK(ok == (err.exit_status == EXIT_DONE));
    if (!ok && world_rank() == 0 && getenv("VERBOSE")) printf("%s\n", err.message);
    return ok;
}

static void put_number(hid_t id, bool attribute, hid_t type, hid_t memory, const void *value, int64_t index)
{
    if (attribute) {
        CHECK(H5Awrite(id, memory, value) >= 0);
        return;
    }
    uint64_t values[2 * CATEGORIES] = { 0 };
    size_t size = H5Tget_size(type);
    CHECK(H5Dread(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
    memcpy((char *)values + (size_t)index * size, value, size);
    CHECK(H5Dwrite(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
}

/* Put the variant-th hostile value into a row, by HDF5 itself. False: there are no more. */
static bool spoil(const char *path, const Field *f, int variant)
{
    static const double reals[] = { 0, 0.25, 1, -0.25, 1e18, -1e-9, 2, 0x1p-32, 0x1p-40, INFINITY, NAN, -NAN };
    static const int64_t integers[] = { 0,
                                        1,
                                        2,
                                        3,
                                        6,
                                        7,
                                        9,
                                        11,
                                        -1,
                                        (int64_t)1 << 31,
                                        (int64_t)1 << 48,
                                        ((int64_t)1 << 48) + 1,
                                        (int64_t)1 << 62,
                                        INT64_MAX,
                                        INT64_MIN };
    enum { REALS = sizeof reals / sizeof *reals, INTEGERS = sizeof integers / sizeof *integers };
    bool real = f->kind == FIELD_NUMBER || (f->kind == FIELD_ARRAY && f->type == DATA_FLOAT64);
    bool integer = f->kind == FIELD_INT || (f->kind == FIELD_ARRAY && f->type == DATA_INT64);
    int values = real ? REALS : integer ? INTEGERS : 0, places = f->kind == FIELD_ARRAY ? 2 * CATEGORIES : 1;
    if (variant >= values * places) return false;
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), object = H5Oopen(file, f->object, H5P_DEFAULT);
    hid_t id = f->attribute ? H5Aopen(object, f->attribute, H5P_DEFAULT) : object;
    CHECK(file >= 0 && object >= 0 && id >= 0);
    hid_t type = real ? H5T_NATIVE_DOUBLE : H5T_NATIVE_INT64, space = f->attribute ? -1 : H5Dget_space(object);
    int64_t index = variant / values, length = f->attribute ? 1 : H5Sget_simple_extent_npoints(space);
    bool there = index < length;
    const void *value = real ? (const void *)&reals[variant % values] : (const void *)&integers[variant % values];
    if (there) put_number(id, f->attribute, type, type, value, index);
    if (space >= 0) H5Sclose(space);
    if (f->attribute) H5Aclose(id);
    H5Oclose(object), H5Fclose(file);
    return there;
}

/* A number of a tensor, with a checksum to match. */
static void spoil_tensor(const char *path, const char *dataset, float value)
{
    float values[4096];
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), set = H5Dopen2(file, dataset, H5P_DEFAULT);
    hid_t sum = H5Aopen(set, "checksum", H5P_DEFAULT), space = H5Dget_space(set);
    int64_t count = H5Sget_simple_extent_npoints(space);
    CHECK(file >= 0 && set >= 0 && sum >= 0 && count <= 4096);
    CHECK(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
    values[count / 2] = value;
    uint64_t checksum = checksum_words(values, count, 0, 1);
    CHECK(H5Dwrite(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0 &&
          H5Awrite(sum, H5T_NATIVE_UINT64, &checksum) >= 0);
    H5Aclose(sum), H5Sclose(space), H5Dclose(set), H5Fclose(file);
}

typedef struct Verdicts {
    int accepted, refused;
} Verdicts;

/* Do both accept the file, or both refuse it? */
static void compare(State *s, const char *path, const char *what, int variant, Verdicts *v)
{
    int checked = world_rank() == 0 ? check_accepts(path) : 0;
    CHECK_MPI(MPI_Bcast(&checked, 1, MPI_INT, 0, MPI_COMM_WORLD));
    bool resumed = resume_accepts(s, path);
    if (checked != (int)resumed)
        fatal(__FILE__, __LINE__, "%s, value %d: check %s it, resume %s it", what, variant,
              checked ? "accepts" : "refuses", resumed ? "accepts" : "refuses");
    if (resumed)
        v->accepted++;
    else
        v->refused++;
}

static void copy(const char *from, const char *to)
{
    if (world_rank() == 0) {
        int source = open(from, O_RDONLY), target = open(to, O_RDWR | O_CREAT | O_TRUNC, 0666);
        CHECK(source >= 0 && target >= 0 && file_copy(source, target));
        close(source), close(target);
    }
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
}

static void test_verdicts(Scratch *scratch)
{
    static const char *const tensors[] = { "/model/norm/weight", "/optimizer/m/norm/weight",
                                           "/optimizer/v/norm/weight" };
    static const float numbers[] = { 0, -1, 1e30f, INFINITY, NAN };
    char good[512], path[512];
    strcpy(good, scratch_file(scratch, "good.h5"));
    strcpy(path, scratch_file(scratch, "spoilt.h5"));
    State s = { 0 };
    Error err = { 0 };
    Verdicts v = { 0 };
    open_state(&s, world_size(), 1, 1, true);
    fill_state(&s);
    CHECK(write_step(&s, good, 6, &err));
    for (const Field *f = checkpoint_format.field; f->kind != FIELD_END; f++)
        for (int variant = 0, more = 1; more; variant++) {
            copy(good, path);
            more = world_rank() > 0 || spoil(path, f, variant);
            CHECK_MPI(MPI_Bcast(&more, 1, MPI_INT, 0, MPI_COMM_WORLD));
            if (more) compare(&s, path, f->attribute ? f->attribute : f->object, variant, &v);
        }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 5; j++) {
            copy(good, path);
            if (world_rank() == 0) spoil_tensor(path, tensors[i], numbers[j]);
            CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
            compare(&s, path, tensors[i], j, &v);
        }
    if (world_rank() == 0) printf("check and resume agree: %d accepted, %d refused\n", v.accepted, v.refused);
    CHECK(v.accepted > 20 && v.refused > 100);
    close_state(&s);
}

/* ---- a full disk at each write ---------------------------------------------------------------------------------- */

/* Calls 0, 1, 2, ... fail on the ranks [first, last] until none is left to fail; the one before it and another file
 * stay. */
static void test_full(Scratch *scratch, int first, int last)
{
    char before[512], path[512];
    strcpy(before, scratch_file(scratch, "step-1.h5"));
    strcpy(path, scratch_file(scratch, "step-2.h5"));
    int ranks = world_size(), rank = world_rank();
    State s = { 0 };
    Error err = { 0 };
    open_state(&s, ranks > 1 ? 2 : 1, 1, ranks > 1 ? ranks / 2 : 1, true);
    fill_state(&s);
    CHECK(write_step(&s, before, 1, &err) && write_step(&s, path, 2, &err));
    int files = scratch_count(scratch);
    long at = 0;
    for (bool through = false; !through; at++) {
        Error full_disk = { 0 };
        bool mine = rank >= first && rank <= last;
        disk.left = at, disk.seen = 0, disk.sticky = true, disk.armed = mine, disk.unsynced = false;
        bool ok = write_step(&s, path, 3, &full_disk);
        disk.armed = false;
        int full = mine && disk.seen > at;
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &full, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD));
        CHECK(ok == !full && scratch_count(scratch) == files && H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
        if (!ok) CHECK(full_disk.exit_status == EXIT_FAULT && strstr(full_disk.message, "step-2.h5"));
        CHECK(step_of(before) == 1 && step_of(path) == (ok ? 3 : 2));
        if (!ok && at % 16 == 0)
            CHECK(checkpoint_load(path, &s.model, &s.optimizer, &s.margins, names, &err)); /* whole */
        through = ok;
    }
    if (rank == 0) printf("ranks %d-%d: a checkpoint refused at each of its %ld writes\n", first, last, at - 1);
    CHECK(at > 1); /* something was refused; in how many calls a file is written is up to the MPI */
    close_state(&s);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    Scratch scratch = scratch_make();
    int last = world_size() - 1;
    test_layouts(&scratch);
    if (last == 0) test_verdicts(&scratch); /* what rank 0 reads is what all ranks have */
    test_full(&scratch, 0, last);
    if (last > 0) test_full(&scratch, last, last);
    scratch_remove(&scratch);
    MPI_Finalize();
    return 0;
}
