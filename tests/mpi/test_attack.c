/* Promise: an attack does to the embeddings of a prompt what attack.h says, on every grid. The gradient that it follows
 * is the one of its objective (first-order law); only the prompt's tokens move, none farther than the radius; a pair's
 * perturbation does not depend on the pairs beside it; a larger radius hurts more and a random direction less, so what
 * is found is no accident of a masked gradient. */
#include "catdpo/core/phase.h"
#include "catdpo/core/rng.h"
#include "catdpo/data/pair_batch.h"
#include "catdpo/files/model_file.h"
#include "catdpo/model/attack.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAIRS = 4, PROMPT = 7, COMPLETION = 5, LENGTH = PROMPT + COMPLETION };

typedef struct Scene {
    Grid grid;
    Pairs pairs;
    PairBatcher batcher;
    Transformer model;
    Timer *timer;
} Scene;

static void must(bool ok, const Error *err)
{
    if (!ok) print_error("%s\n", err->message);
    assert_true(ok);
}

/* Pairs of one prompt and two completions each; the prompts are of different lengths. */
static void make_pairs(Pairs *pairs, int vocab, Error *err)
{
    Rng rng = rng_stream(5, 0);
    PairsShape shape = { .count = PAIRS, .category_count = 1, .tokens = { PAIRS * LENGTH, PAIRS * LENGTH } };
    must(pairs_allocate(pairs, &shape, MPI_COMM_WORLD, err), err);
    for (int i = 0; pairs_is_writer(pairs) && i < PAIRS; i++)
        for (int side = 0; side < PAIR_SIDES; side++) {
            PairSide *s = &pairs->side[side];
            int prompt = PROMPT - i % 3;
            s->offsets[i + 1] = s->offsets[i] + prompt + COMPLETION;
            s->prompt_length[i] = prompt;
            for (int64_t j = 0; j < prompt + COMPLETION; j++)
                s->tokens[s->offsets[i] + j] = side && j < prompt ? pairs->side[0].tokens[s->offsets[i] + j]
                                                                  : (int32_t)rng_below(&rng, (uint64_t)vocab);
        }
    pairs->vocab_size = vocab;
    pairs->longest = LENGTH;
    pairs_publish(pairs);
}

static void open_scene(Scene *s, const char *fixture, int rows, int columns, bool recompute, bool frozen)
{
    Error err = { 0 };
    char path[256], digest[WEIGHTS_DIGEST];
    H5File file;
    ModelInfo info;
    int ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    snprintf(path, sizeof path, "%s/%s.h5", REFERENCE_DIR, fixture);
    *s = (Scene){ .timer = timer_new(PHASES, phase_name) };
    must(grid_create(&s->grid, MPI_COMM_WORLD, ranks / rows / columns, rows, columns, &err), &err);
    must(model_file_open(&file, path, &info, MPI_COMM_WORLD, &err), &err);
    make_pairs(&s->pairs, info.architecture.vocab, &err);
    BatchLimits batch = { .columns = columns,
                          .groups = PAIRS,
                          .max_tokens = 1 << 20,
                          .accumulation = 1,
                          .logit_columns = 1 << 20,
                          .share_prompt = true,
                          .whole = true };
    must(pair_batcher_create(&s->batcher, &s->pairs, &s->grid, &batch, &err), &err);
    TransformerLimits limits = { .max_width = s->batcher.base.most.width,
                                 .max_chunk = s->batcher.base.most.chunk,
                                 .max_sequences = s->batcher.base.most.sequences,
                                 .longest = LENGTH,
                                 .backward = true,
                                 .frozen = frozen,
                                 .attack = true,
                                 .recompute = recompute };
    must(transformer_create(&s->model, &info.architecture, &s->grid, &limits, s->timer, &err), &err);
    must(model_load(&file, &s->model, digest, &err), &err);
    h5_close(&file);
}

static void close_scene(Scene *s)
{
    transformer_free(&s->model);
    pair_batcher_free(&s->batcher);
    pairs_free(&s->pairs);
    grid_free(&s->grid);
    timer_free(s->timer);
}

/* A of pair i of the batch, from the results of its sequences. */
static double objective(AttackType type, const SequenceResult *result, int i)
{
    return type == ATTACK_TARGETED ? -result[2 * i + 1].logp : result[2 * i].logp - result[2 * i + 1].logp;
}

/* One value a pair of the data, seen by a replica that has it, for all. */
static void share(const Scene *s, double values[PAIRS])
{
    MPI_Allreduce(MPI_IN_PLACE, values, PAIRS, MPI_DOUBLE, MPI_SUM, s->grid.replica_comm);
}

/* Attacks the given pairs, all in one pass, and evaluates the outcome: A without and with the perturbation, by pair of
 * the data; t->attack.delta is left as it is. */
static const Batch *attack_pairs(Scene *s, const int64_t *pairs, int count, const Attack *attack, double clean[PAIRS],
                                 double attacked[PAIRS])
{
    AttackType type = attack->type == ATTACK_TARGETED ? ATTACK_TARGETED : ATTACK_CONTRASTIVE;
    memset(clean, 0, sizeof(double) * PAIRS);
    memset(attacked, 0, sizeof(double) * PAIRS);
    pair_batcher_plan(&s->batcher, pairs, count);
    assert_true(s->batcher.base.passes <= 1);
    const Batch *batch = NULL;
    if (s->batcher.base.passes == 1) {
        batch = batcher_pass(&s->batcher.base, 0);
        attack_batch(&s->model, batch, attack);
        transformer_forward(&s->model, batch, NULL, NULL, NULL);
        for (int i = 0; i < batch->group_count; i++) {
            clean[batch->group[i].id] = objective(type, s->model.attack.clean, i);
            attacked[batch->group[i].id] = objective(type, s->model.result, i);
        }
        attack_end(&s->model);
    }
    share(s, clean);
    share(s, attacked);
    return batch;
}

static const int64_t all[PAIRS] = { 0, 1, 2, 3 };

static Attack attack_of(AttackType type, AttackNorm norm, double radius, int64_t steps)
{
    return (Attack){
        .type = type, .norm = norm, .radius = radius, .step = 2.5 * radius / (double)steps, .steps = steps, .seed = 7
    };
}

/* ---- what is perturbed ------------------------------------------------------------------------------------------ */

static bool is_prompt(const Batch *batch, const Grid *grid, int column)
{
    for (int i = 0; i < batch->group_count; i++) {
        const BatchGroup *g = &batch->group[i];
        if (g->column == grid->column && column >= g->shared_start && column < g->shared_start + g->shared_length)
            return true;
    }
    return false;
}

/* Every prompt token is at the radius or within it, everything else at rest. */
static void check_ball(const Scene *s, const Batch *batch, const Attack *attack)
{
    const Transformer *t = &s->model;
    int h = t->hidden.local, moved = 0;
    float bound = (float)(attack->radius / sqrt(t->hidden.length));
    for (int j = 0; j < batch->width; j++) {
        double square = 0;
        for (int f = 0; f < h; f++) {
            float x = t->attack.delta[(int64_t)j * h + f];
            square += (double)x * x;
            if (attack->norm == NORM_LINF) assert_true(fabsf(x) <= bound * (1 + 1e-6f));
        }
        MPI_Allreduce(MPI_IN_PLACE, &square, 1, MPI_DOUBLE, MPI_SUM, s->grid.column_comm);
        assert_true(sqrt(square) <= attack->radius * (1 + 1e-6));
        if (!is_prompt(batch, &s->grid, j)) assert_true(square == 0);
        moved += square > 0;
    }
    int prompt = 0;
    for (int i = 0; i < batch->group_count; i++) {
        const BatchGroup *g = &batch->group[i];
        assert_int_equal(g->shared_length, pairs_prompt(&s->pairs, PAIR_CHOSEN, g->id)); /* the whole prompt */
        prompt += g->column == s->grid.column ? g->shared_length : 0;
    }
    assert_int_equal(moved, prompt);
}

/* ---- first order ------------------------------------------------------------------------------------------------ */

/* sum_t ||g_t|| of each pair for the attack's objective, g = d A / d embedding of a prompt token: from the step of a
 * length so small that nothing is projected, delta_t = -step g_t / ||g_t||, so that A falls by step sum_t ||g_t||. */
static void check_first_order(Scene *s, AttackType type)
{
    Attack one = attack_of(type, NORM_L2, 1, 1);
    double clean[PAIRS], attacked[PAIRS], norms[PAIRS] = { 0 };
    one.step = 1e-6; /* the gradient at rest is what stays in dx */
    const Batch *batch = attack_pairs(s, all, PAIRS, &one, clean, attacked);
    if (batch) {
        attack_batch(&s->model, batch, &one); /* dx of its only iteration, which is at rest */
        const Transformer *t = &s->model;
        int h = t->hidden.local;
        for (int i = 0; i < batch->group_count; i++) {
            const BatchGroup *g = &batch->group[i];
            for (int j = 0; j < g->shared_length; j++) {
                double square = 0;
                const float *x = t->dx + (int64_t)(g->shared_start + j) * h;
                for (int f = 0; f < h && g->column == s->grid.column; f++) square += (double)x[f] * x[f];
                MPI_Allreduce(MPI_IN_PLACE, &square, 1, MPI_DOUBLE, MPI_SUM, s->grid.comm);
                norms[g->id] += sqrt(square);
            }
        }
        attack_end(&s->model);
    }
    share(s, norms);
    /* far enough for float log-probs to show it (their rounding is 1e-6), near enough for the curvature not to */
    one.step = one.radius = 2e-4 * attack_embedding_norm(&s->model);
    attack_pairs(s, all, PAIRS, &one, clean, attacked);
    for (int i = 0; i < PAIRS; i++) {
        double change = attacked[i] - clean[i], expected = -one.step * norms[i];
        if (!(fabs(change - expected) <= 0.02 * fabs(expected) + 4e-6))
            print_error("pair %d: A changes by %g, first order says %g\n", i, change, expected);
        assert_true(norms[i] > 0 && fabs(change - expected) <= 0.02 * fabs(expected) + 4e-6);
    }
}

/* ---- no masking ------------------------------------------------------------------------------------------------- */

static double mean(const double x[PAIRS])
{
    double sum = 0;
    for (int i = 0; i < PAIRS; i++) sum += x[i] / PAIRS;
    return sum;
}

static void check_strength(Scene *s, AttackNorm norm)
{
    double unit = attack_embedding_norm(&s->model), clean[PAIRS], attacked[PAIRS], at_random[PAIRS], before = 0;
    for (double radius = 0.05; radius < 1; radius *= 2) {
        Attack found = attack_of(ATTACK_CONTRASTIVE, norm, radius * unit, 10),
               drawn = attack_of(ATTACK_RANDOM, norm, radius * unit, 10);
        const Batch *batch = attack_pairs(s, all, PAIRS, &found, clean, attacked);
        if (batch) check_ball(s, batch, &found);
        batch = attack_pairs(s, all, PAIRS, &drawn, clean, at_random);
        if (batch) check_ball(s, batch, &drawn);
        double gain = mean(clean) - mean(attacked);
        assert_true(gain > before);
        assert_true(gain > 2 * fabs(mean(clean) - mean(at_random)));
        before = gain;
    }
}

/* ---- neighbours and grids --------------------------------------------------------------------------------------- */

/* The outcome for each pair alone is that in the batch of all. */
static void check_neighbours(Scene *s)
{
    Attack attack = attack_of(ATTACK_CONTRASTIVE, NORM_L2, 0.1 * attack_embedding_norm(&s->model), 5);
    double clean[PAIRS], together[PAIRS], alone[PAIRS];
    attack_pairs(s, all, PAIRS, &attack, clean, together);
    for (int i = 0; i < PAIRS; i++) {
        attack_pairs(s, &all[i], 1, &attack, clean, alone);
        assert_true(fabs(alone[i] - together[i]) < 1e-4 * (1 + fabs(alone[i])));
    }
}

/* On every grid, with and without recomputation, the same perturbation as far as the outcome tells. */
static double *reference(void)
{
    static double values[PAIRS];
    return values;
}

static void check_grid(Scene *s, bool first)
{
    Attack attack = attack_of(ATTACK_TARGETED, NORM_L2, 0.2 * attack_embedding_norm(&s->model), 5);
    double clean[PAIRS], attacked[PAIRS];
    attack_pairs(s, all, PAIRS, &attack, clean, attacked);
    for (int i = 0; i < PAIRS; i++) {
        if (first) reference()[i] = attacked[i];
        assert_true(fabs(attacked[i] - reference()[i]) < 1e-4 * (1 + fabs(attacked[i])));
    }
}

/* The gradients of the weights are not touched. */
static void check_weights_rest(Scene *s)
{
    Transformer *t = &s->model;
    double clean[PAIRS], attacked[PAIRS];
    Attack attack = attack_of(ATTACK_TARGETED, NORM_LINF, 0.1, 2);
    assert_true(t->limits.frozen == !t->gradients);
    for (int64_t i = 0; t->gradients && i < t->parameters.local_floats; i++) t->gradients[i] = 3;
    attack_pairs(s, all, PAIRS, &attack, clean, attacked);
    for (int64_t i = 0; t->gradients && i < t->parameters.local_floats; i++) assert_true(t->gradients[i] == 3);
}

static void test_attacks(void **state)
{
    static const char *const fixtures[] = { "tiny_llama", "tiny_qwen3", "tiny_gemma3", "tiny_olmo2" };
    int ranks;
    (void)state;
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int every = ranks > 2 ? 2 : 1; /* many ranks on few cores are slow */
    for (int f = 0; f < (int)(sizeof fixtures / sizeof *fixtures); f += every) {
        bool first = true;
        for (int rows = 1; rows <= 2 && rows <= ranks; rows++)
            for (int columns = 1; rows * columns <= ranks; columns++) {
                if (ranks % (rows * columns) != 0) continue;
                Scene s;
                open_scene(&s, fixtures[f], rows, columns, rows > columns, columns > 1);
                check_grid(&s, first);
                check_first_order(&s, ATTACK_TARGETED);
                check_first_order(&s, ATTACK_CONTRASTIVE);
                check_strength(&s, NORM_L2);
                check_strength(&s, NORM_LINF);
                check_neighbours(&s);
                check_weights_rest(&s);
                close_scene(&s);
                first = false;
            }
    }
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_attacks) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}
