/* Promises: a checkpoint brings back weights, moments and margins exactly, with moments shared out or not; a disk that
 * is full at any of its writes, on any rank, is one agreed error, and the checkpoints that were there before are as
 * they were. */
#define _GNU_SOURCE
#include "catdpo/files/checkpoint.h"
#include "catdpo/core/phase.h"
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
    const TransformerLimits limits = { 8, 8, 1, 8, true, false };
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
    s->optimizer.updates = 7;
    s->margins.margin[1] = 2.5;
    s->margins.violation_rate[0] = 0.125;
    s->margins.n[1] = 9;
    s->margins.violations[1] = 5;
    s->margins.pending[0] = 1, s->margins.pending[CATEGORIES] = 1;
    s->margins.updates = 3, s->margins.last_update = 6;
}

static void check_state(const State *s)
{
    const Optimizer *o = &s->optimizer;
    for (int64_t i = o->first; i < o->end; i++)
        CHECK(o->m[i - o->first] == 0.5f * s->model.weights[i] &&
              o->v[i - o->first] == s->model.weights[i] * s->model.weights[i]);
    CHECK(o->updates == 7 && s->margins.margin[0] == 0 && s->margins.margin[1] == 2.5 &&
          s->margins.violation_rate[0] == 0.125);
    CHECK(s->margins.n[1] == 9 && s->margins.violations[1] == 5 && s->margins.pending[CATEGORIES] == 1 &&
          s->margins.last_update == 6);
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
    const CheckpointInfo info = { .step = step,
                                  .total_steps = 10,
                                  .num_tokens = 100,
                                  .seed = 42,
                                  .heldout_worst = NAN,
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
    return checkpoint_write(path, s->source, &s->model, &s->optimizer, &s->margins, &info, err);
}

static int64_t step_of(const char *path)
{
    CheckpointHead head;
    Error err = { 0 };
    CHECK(checkpoint_head(path, &head, MPI_COMM_WORLD, &err));
    int64_t step = head.step;
    checkpoint_head_free(&head);
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
    CHECK(at > 2);
    close_state(&s);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    Scratch scratch = scratch_make();
    int last = world_size() - 1;
    test_layouts(&scratch);
    test_full(&scratch, 0, last);
    if (last > 0) test_full(&scratch, last, last);
    scratch_remove(&scratch);
    MPI_Finalize();
    return 0;
}
