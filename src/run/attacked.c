#include "catdpo/run/attacked.h"

#include "catdpo/core/memory.h"

#include <string.h>

/* The arrays of the result, which the reader of a file does not change. */
typedef struct Arrays {
    double *radius;                                       /* [A] */
    double *violations, *rate, *low, *high, *random_rate; /* [A, K] */
    double *logps[PAIR_SIDES];                            /* [A, N] */
} Arrays;

static Arrays take_arrays(Arena *arena, int64_t radii, int64_t categories, int64_t pairs)
{
    Arrays x = { .radius = arena_take(arena, radii, sizeof(double)) };
    double **const rates[] = { &x.violations, &x.rate, &x.low, &x.high, &x.random_rate };
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        *rates[i] = arena_take(arena, radii * categories, sizeof(double));
    for (int side = 0; side < PAIR_SIDES; side++) x.logps[side] = arena_take(arena, radii * pairs, sizeof(double));
    return x;
}

static Arrays arrays_of(const Attacked *a, const Run *run)
{
    return take_arrays(&(Arena){ .base = a->memory }, a->result.radii, run->pairs.category_count, run->pairs.count);
}

bool attacked_create(Attacked *a, const Run *run, bool segments, Error *err)
{
    const Config *config = &run->config;
    const Architecture *architecture = &run->model_info.architecture;
    double radius[EVAL_RADII];
    Arena count = { 0 };
    *a = (Attacked){ .result = { .radii = 1 + config_radii(config->eval.radii, radius),
                                 .type = config_choice(config, "eval.attack"),
                                 .norm = config_choice(config, "eval.norm"),
                                 .unit = config_choice(config, "eval.radius_unit"),
                                 .steps = config->eval.attack.steps,
                                 .step_size = config->eval.attack.step_size } };
    take_arrays(&count, a->result.radii, run->pairs.category_count, run->pairs.count);
    a->memory = memory_allocate(count.used, "the results of attacks", err);
    if (!a->memory) return false;
    Arrays x = arrays_of(a, run);
    for (int i = 1; i < a->result.radii; i++) x.radius[i] = radius[i - 1];
    a->result.radius = x.radius;
    a->result.violations = x.violations;
    a->result.violation_rate = x.rate;
    a->result.violation_rate_low = x.low;
    a->result.violation_rate_high = x.high;
    a->result.random_violation_rate = x.random_rate;
    a->result.logps_chosen = x.logps[PAIR_CHOSEN];
    a->result.logps_rejected = x.logps[PAIR_REJECTED];
    BatchLimits limits = layout_batch_limits(config, architecture, run->layout.rows, run->layout.columns);
    limits.whole = limits.share_prompt = true;
    limits.parts = run->batcher.base.limits.parts;
    return evaluation_create(&a->evaluation, &run->pairs, segments, err) &&
           pair_batcher_create(&a->batcher, &run->pairs, &run->grid, &limits, err);
}

void attacked_free(Attacked *a)
{
    pair_batcher_free(&a->batcher);
    evaluation_free(&a->evaluation);
    memory_free(a->memory);
    *a = (Attacked){ 0 };
}

/* Row i of the result. */
static void keep(const Attacked *a, const Run *run, const Evaluation *e, int i)
{
    Arrays x = arrays_of(a, run);
    size_t k = (size_t)run->pairs.category_count, n = (size_t)run->pairs.count, row = (size_t)i;
    memcpy(x.violations + row * k, e->violations, sizeof(double) * k);
    memcpy(x.rate + row * k, e->rate, sizeof(double) * k);
    memcpy(x.low + row * k, e->rate_low, sizeof(double) * k);
    memcpy(x.high + row * k, e->rate_high, sizeof(double) * k);
    for (int side = 0; side < PAIR_SIDES; side++)
        memcpy(x.logps[side] + row * n, e->logps.whole[side], sizeof(double) * n);
}

static void copy_logps(const PairLogps *to, const PairLogps *from, int64_t pairs)
{
    for (int side = 0; side < PAIR_SIDES; side++) {
        memcpy(to->whole[side], from->whole[side], sizeof(double) * (size_t)pairs);
        if (to->answer[side]) memcpy(to->answer[side], from->answer[side], sizeof(double) * (size_t)pairs);
    }
}

/* All pairs under the attack, into a->evaluation. */
static bool measure(Attacked *a, Run *run, const Attack *attack, const MarginState *margins, Error *err)
{
    int64_t done = 0, count = run->pairs.count;
    char title[64];
    Verdict verdict = { 0 };
    bool ok = true;
    snprintf(title, sizeof title, "%s %.3g", attack->type == ATTACK_RANDOM ? "drawn" : "attack", attack->radius);
    run->attack = attack;
    while (ok && done < count && !verdict.stop) {
        ok = run_logps(run, &a->batcher, title, &a->evaluation.logps, &done, &verdict, err);
        if (ok) lifecycle_saved(&run->life, 0); /* nothing to save */
    }
    run->attack = NULL;
    if (ok && done < count)
        return error_stopped(err, false, "stopped by %s after %lld of %lld pairs, nothing was written: start again",
                             verdict.why, (long long)done, (long long)count);
    if (ok) evaluation_measure(&a->evaluation, &run->pairs, &run->config.objective, margins);
    return ok;
}

bool attacked_measure(Attacked *a, Run *run, const Evaluation *plain, const MarginState *margins, Error *err)
{
    Arrays x = arrays_of(a, run);
    size_t k = (size_t)run->pairs.category_count;
    keep(a, run, plain, 0);
    memcpy(x.random_rate, plain->rate, sizeof(double) * k);
    copy_logps(&a->evaluation.reference, &plain->reference, run->pairs.count);
    copy_logps(&a->evaluation.second, &plain->second, run->pairs.count);
    a->result.unit_length = attack_embedding_norm(&run->model);
    for (int i = 1; i < a->result.radii; i++) {
        Attack attack = attack_make(&run->model, &run->config.eval.attack, x.radius[i]), drawn = attack;
        drawn.type = ATTACK_RANDOM;
        drawn.seed = attack.seed = (uint64_t)run->config.run.seed;
        if (!measure(a, run, &drawn, margins, err)) return false;
        memcpy(x.random_rate + (size_t)i * k, a->evaluation.rate, sizeof(double) * k);
        if (attack.type != ATTACK_RANDOM && !measure(a, run, &attack, margins, err)) return false;
        keep(a, run, &a->evaluation, i);
    }
    return true;
}
