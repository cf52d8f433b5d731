/* Promises: an answer is what the model says token by token: a full forward pass without a cache over prompt and answer
 * finds every greedy token the likeliest one, and the same log-probs; the answers are the same on every layout, with
 * any number of lanes and samples, alone or among others, and what prompts have in common is read once; stop tokens,
 * the limit and the model's context end them; what is restored is not run again; gathered answers are in order. */
#include "catdpo/core/phase.h"
#include "catdpo/files/prompts_file.h"
#include "catdpo/generate/run.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const fixtures[] = { "tiny_llama", "tiny_llama3_tied", "tiny_qwen2", "tiny_qwen3" };
enum { FIXTURES = sizeof fixtures / sizeof *fixtures, MOST_TOKENS = 24, COMMON = 6 };
static int rank, ranks;

static void must(bool ok, const Error *err)
{
    if (!ok) print_error("%s\n", err->message);
    assert_true(ok);
}

/* A model on a layout, and prompts of several lengths, among them one of a single token. */
typedef struct Place {
    Grid grid;
    Timer *timer;
    Transformer model;
    Prompts prompts;
} Place;

/* The first `common` tokens are the same in all of them. */
static void make_prompts(Prompts *p, int vocab, int common)
{
    static const int lengths[] = { 7, 1, 12, 3, 7, 2, 20, 5, 4 };
    enum { COUNT = sizeof lengths / sizeof *lengths };
    int64_t tokens = 0;
    for (int i = 0; i < COUNT; i++) tokens += common + lengths[i];
    *p = (Prompts){ .count = COUNT, .category_count = 1 };
    p->offsets = calloc(COUNT + 1, sizeof *p->offsets);
    p->tokens = calloc((size_t)tokens, sizeof *p->tokens);
    p->category_mask = calloc(COUNT, 1);
    assert_true(p->offsets && p->tokens && p->category_mask);
    for (int i = 0; i < COUNT; i++) {
        int length = common + lengths[i];
        p->offsets[i + 1] = p->offsets[i] + length;
        p->longest = length > p->longest ? length : p->longest;
        p->category_mask[i] = 1;
        for (int t = 0; t < length; t++)
            p->tokens[p->offsets[i] + t] = (t < common ? t * 29 + 3 : i * 37 + (t - common) * 11 + 5) % vocab;
    }
    p->vocab_size = vocab;
}

static GenerateLimits limits_of(int samples, int lanes)
{
    return (GenerateLimits){
        .samples = samples, .max_tokens = MOST_TOKENS, .lanes = lanes, .max_tokens_pass = 16, .logit_columns = 3
    };
}

static void open_place(Place *p, const char *fixture, int common, MPI_Comm world, int replicas, int rows, int columns,
                       const GenerateLimits *limits)
{
    char path[512], digest[WEIGHTS_DIGEST];
    Error err = { 0 };
    H5File file;
    ModelInfo info;
    snprintf(path, sizeof path, "%s/%s.h5", REFERENCE_DIR, fixture);
    must(model_file_open(&file, path, &info, world, &err), &err);
    make_prompts(&p->prompts, info.architecture.vocab, common);
    must(grid_create(&p->grid, world, replicas, rows, columns, &err), &err);
    TransformerLimits sizes = generator_model_limits(limits, columns, p->prompts.longest);
    if (sizes.max_width < MOST_TOKENS + p->prompts.longest) sizes.max_width = (int)(MOST_TOKENS + p->prompts.longest);
    sizes.max_chunk = MOST_TOKENS > sizes.max_chunk ? MOST_TOKENS : sizes.max_chunk;
    p->timer = timer_new(PHASES, phase_name);
    must(transformer_create(&p->model, &info.architecture, &p->grid, &sizes, p->timer, &err), &err);
    must(model_load(&file, &p->model, digest, &err), &err);
    h5_close(&file);
}

static void close_place(Place *p)
{
    prompts_free(&p->prompts);
    transformer_free(&p->model);
    timer_free(p->timer);
    grid_free(&p->grid);
}

static void run(Generator *g)
{
    Error err = { 0 };
    while (generator_step(g, &err)) {}
    must(err.exit_status == EXIT_DONE, &err);
}

static const SampleSettings greedy = { .top_p = 1, .repetition_penalty = 1 };
static const SampleSettings bold = { .temperature = 1, .top_p = 0.95, .repetition_penalty = 1.1, .seed = 11 };

/* All answers, gathered on rank 0 of world. */
static void answers(const char *fixture, int common, MPI_Comm world, int replicas, int rows, int columns,
                    const SampleSettings *sampling, const GenerateLimits *limits, Gathered *all)
{
    Place p = { 0 };
    Generator g;
    Error err = { 0 };
    open_place(&p, fixture, common, world, replicas, rows, columns, limits);
    must(generator_create(&g, &p.prompts, &p.model, sampling, limits, &err), &err);
    run(&g);
    must(gather_answers(&g, NULL, all, &err), &err);
    assert_int_equal(all->samples.count, p.prompts.count * limits->samples);
    generator_free(&g);
    close_place(&p);
}

/* ---- against a full pass ----------------------------------------------------------------------------------------- */

static void check_answer(Place *p, const Generator *g, int64_t prompt, const Answer *a)
{
    int before = prompts_length(&p->prompts, prompt), known = before + a->length;
    int32_t text[256];
    Batcher b;
    Error err = { 0 };
    double logp = 0, entropy = 0;
    const BatchLimits limits = {
        .columns = 1, .groups = 1, .max_tokens = 256, .accumulation = 1, .logit_columns = 256
    };
    memcpy(text, prompts_tokens(&p->prompts, prompt), sizeof *text * (size_t)before);
    memcpy(text + before, g->token + a->at, sizeof *text * (size_t)a->length);
    must(batcher_create(&b, &p->grid, &limits, &(BatchSizes){ 1, known, known, known }, &err), &err);
    batcher_add(
        &b, 0,
        &(Sequence){
            .token = text, .known = known, .end = known - 1, .predict = before, .predict_end = known, .column = -1 },
        1);
    batcher_plan_single(&b);
    transformer_forward(&p->model, batcher_pass(&b, 0), NULL, NULL, NULL);
    const SequenceResult *r = &p->model.result[0];
    for (int t = 0; t < a->length; t++) logp += g->logp[a->at + t], entropy += g->entropy[a->at + t];
    assert_true(r->correct == a->length); /* random weights: no ties */
    assert_true(fabs(r->logp - logp) < 1e-3 && fabs(r->entropy - entropy) < 1e-3);
    batcher_free(&b);
}

static void test_cache_or_not(void **state)
{
    (void)state;
    for (int f = 0; f < FIXTURES; f++) {
        Place p = { 0 };
        Generator g;
        Error err = { 0 };
        GenerateLimits limits = limits_of(1, 3);
        open_place(&p, fixtures[f], f % 2 * COMMON, MPI_COMM_SELF, 1, 1, 1, &limits);
        must(generator_create(&g, &p.prompts, &p.model, &greedy, &limits, &err), &err);
        run(&g);
        for (int64_t i = 0; i < p.prompts.count; i++) {
            assert_true(g.answer[i].length == MOST_TOKENS && g.answer[i].finish == FINISH_LENGTH);
            check_answer(&p, &g, i, &g.answer[i]);
        }
        int64_t common = f % 2 * COMMON; /* a prompt's last token is its answer's to run */
        assert_int_equal(g.prefilled, p.prompts.offsets[p.prompts.count] - p.prompts.count * (1 + common) + common);
        generator_free(&g);
        close_place(&p);
    }
}

/* ---- everywhere the same ----------------------------------------------------------------------------------------- */

static void assert_same(const Samples *a, const Samples *b)
{
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->tokens, b->tokens);
    assert_memory_equal(a->prompt, b->prompt, sizeof *a->prompt * (size_t)a->count);
    assert_memory_equal(a->sample, b->sample, sizeof *a->sample * (size_t)a->count);
    assert_memory_equal(a->offset, b->offset, sizeof *a->offset * (size_t)(a->count + 1));
    assert_memory_equal(a->token, b->token, sizeof *a->token * (size_t)a->tokens);
    assert_memory_equal(a->finish, b->finish, (size_t)a->count);
    for (int64_t t = 0; t < a->tokens; t++)
        assert_true(fabsf(a->logp[t] - b->logp[t]) < 1e-4f && fabsf(a->entropy[t] - b->entropy[t]) < 1e-4f);
}

static void test_every_layout(void **state)
{
    (void)state;
    const SampleSettings *const settings[] = { &greedy, &bold };
    for (int s = 0; s < 2; s++) {
        const char *fixture = fixtures[s];
        int common = s * COMMON;
        GenerateLimits one = limits_of(3, 1);
        Gathered alone;
        answers(fixture, common, MPI_COMM_SELF, 1, 1, 1, settings[s], &one, &alone);
        for (int rows = 1; rows <= ranks && rows <= 2; rows++)
            for (int columns = 1; rows * columns <= ranks; columns++) {
                if (ranks % (rows * columns) != 0) continue;
                for (int more = 1; more <= 4; more += 3) {
                    GenerateLimits limits = limits_of(3, more * columns);
                    Gathered here;
                    answers(fixture, common, MPI_COMM_WORLD, ranks / (rows * columns), rows, columns, settings[s],
                            &limits, &here);
                    if (rank == 0) assert_same(&alone.samples, &here.samples);
                    gathered_free(&here);
                }
            }
        gathered_free(&alone);
    }
}

/* ---- ends -------------------------------------------------------------------------------------------------------- */

static void test_ends(void **state)
{
    (void)state;
    GenerateLimits limits = limits_of(1, 2);
    Gathered free_run, stopped;
    answers("tiny_llama", COMMON, MPI_COMM_SELF, 1, 1, 1, &greedy, &limits, &free_run);
    const Samples *a = &free_run.samples;
    int32_t stop = a->token[a->offset[2] + 6];  /* a token in the middle of some answer */
    limits.stop[limits.stop_count++] = 1 << 20; /* one that never comes, and */
    limits.stop[limits.stop_count++] = stop;
    answers("tiny_llama", COMMON, MPI_COMM_SELF, 1, 1, 1, &greedy, &limits, &stopped);
    const Samples *b = &stopped.samples;
    int ended = 0;
    for (int64_t i = 0; i < a->count; i++) {
        int64_t length = b->offset[i + 1] - b->offset[i], first = 0;
        while (first < MOST_TOKENS && a->token[a->offset[i] + first] != stop) first++;
        assert_int_equal(length, first < MOST_TOKENS ? first + 1 : MOST_TOKENS);
        assert_int_equal(b->finish[i], first < MOST_TOKENS ? FINISH_STOP : FINISH_LENGTH);
        assert_memory_equal(a->token + a->offset[i], b->token + b->offset[i], sizeof *a->token * (size_t)length);
        ended += first < MOST_TOKENS;
    }
    assert_true(ended > 0);
    gathered_free(&free_run);
    gathered_free(&stopped);
}

/* A model whose positions end within, or before, an answer. */
static void test_context(void **state)
{
    (void)state;
    Place p = { 0 };
    Generator g;
    Error err = { 0 };
    GenerateLimits limits = limits_of(2, 4);
    open_place(&p, "tiny_llama", 0, MPI_COMM_SELF, 1, 1, 1, &limits);
    p.model.architecture.max_positions = 12;
    must(generator_create(&g, &p.prompts, &p.model, &greedy, &limits, &err), &err);
    run(&g);
    for (int64_t i = 0; i < p.prompts.count * limits.samples; i++) {
        int room = 12 - prompts_length(&p.prompts, i / limits.samples);
        assert_int_equal(g.answer[i].finish, FINISH_CONTEXT);
        assert_int_equal(g.answer[i].length, room < 0 ? 0 : room);
    }
    generator_free(&g);
    close_place(&p);
}

/* ---- restored answers -------------------------------------------------------------------------------------------- */

static void test_restored(void **state)
{
    (void)state;
    Place p = { 0 };
    Generator whole, rest;
    Error err = { 0 };
    GenerateLimits limits = limits_of(3, 2);
    open_place(&p, "tiny_qwen2", 3, MPI_COMM_SELF, 1, 1, 1, &limits);
    must(generator_create(&whole, &p.prompts, &p.model, &bold, &limits, &err), &err);
    run(&whole);
    must(generator_create(&rest, &p.prompts, &p.model, &bold, &limits, &err), &err);
    int64_t answers = p.prompts.count * limits.samples, restored = 0;
    for (int64_t i = 0; i < answers; i++) {
        const Answer *a = &whole.answer[i];
        if (i / 3 != 1 && i % 3 != 1) continue; /* all of one prompt, the middle sample of the others */
        must(generator_restore(&rest, i / 3, (int)(i % 3), a->length, a->finish, whole.token + a->at,
                               whole.logp + a->at, whole.entropy + a->at, &err),
             &err);
        restored++;
    }
    run(&rest);
    assert_int_equal(rest.decoded, (answers - restored) * MOST_TOKENS);
    for (int64_t i = 0; i < answers; i++) {
        const Answer *a = &whole.answer[i], *b = &rest.answer[i];
        assert_int_equal(a->length, b->length);
        assert_memory_equal(whole.token + a->at, rest.token + b->at, sizeof *rest.token * (size_t)a->length);
    }
    generator_free(&whole);
    generator_free(&rest);
    close_place(&p);
}

int main(int argc, char *argv[])
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const struct CMUnitTest all[] = { cmocka_unit_test(test_every_layout) };
    const struct CMUnitTest alone[] = { cmocka_unit_test(test_cache_or_not), cmocka_unit_test(test_ends),
                                        cmocka_unit_test(test_context), cmocka_unit_test(test_restored) };
    int failed = cmocka_run_group_tests(all, NULL, NULL);
    if (ranks == 1) failed += cmocka_run_group_tests(alone, NULL, NULL);
    MPI_Finalize();
    return failed;
}
