#include "catdpo/run/evaluate.h"

#include "catdpo/core/memory.h"
#include "catdpo/objective/statistics.h"

#include <math.h>
#include <string.h>

bool evaluation_create(Evaluation *e, const Pairs *pairs, bool segments, Error *err)
{
    int64_t count = pairs->count, categories = pairs->category_count;
    Arena arena = { 0 };
    *e = (Evaluation){ 0 };
    for (int round = 0; round < 2; round++) {
        PairLogps *const sets[] = { &e->logps, &e->reference, &e->second };
        for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
            for (int side = 0; side < PAIR_SIDES; side++) {
                sets[i]->whole[side] = arena_take(&arena, count, sizeof(double));
                sets[i]->answer[side] = segments ? arena_take(&arena, count, sizeof(double)) : NULL;
            }
        e->violation = arena_take(&arena, count, sizeof(double));
        e->index = arena_take(&arena, count, sizeof(int64_t));
        e->pairs = arena_take(&arena, categories, sizeof(int64_t));
        e->n = arena_take(&arena, categories, sizeof(int64_t));
        double **const rows[] = { &e->right, &e->violations, &e->accuracy,  &e->accuracy_low, &e->accuracy_high,
                                  &e->rate,  &e->rate_low,   &e->rate_high, &e->reward };
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            *rows[i] = arena_take(&arena, categories, sizeof(double));
        if (round == 0 && !(e->memory = memory_allocate(arena.used, "the evaluation's results", err))) return false;
        arena = (Arena){ .base = e->memory };
    }
    return true;
}

void evaluation_free(Evaluation *e)
{
    memory_free(e->memory);
    *e = (Evaluation){ 0 };
}

static void add(Evaluation *e, const Pairs *pairs, int64_t i, const PairScore *score, double violation)
{
    bool applies = pairs->margin_applies[i];
    e->index[i] = i;
    e->violation[i] = applies ? violation : NAN;
    for (int k = 0; k < pairs->category_count; k++) {
        if (!pairs_categories(pairs, i)[k]) continue;
        e->pairs[k]++;
        e->right[k] += score->accuracy;
        e->reward[k] += score->reward_margin;
        e->n[k] += applies;
        e->violations[k] += applies ? violation : 0;
    }
}

void evaluation_measure(Evaluation *e, const Pairs *pairs, const ObjectiveSettings *settings,
                        const MarginState *margins)
{
    int categories = pairs->category_count;
    memset(e->pairs, 0, sizeof *e->pairs * (size_t)categories);
    memset(e->n, 0, sizeof *e->n * (size_t)categories);
    for (int k = 0; k < categories; k++) e->right[k] = e->violations[k] = e->reward[k] = 0;
    for (int64_t i = 0; i < pairs->count; i++) {
        PairView view = pairs_view(pairs, i);
        view_logps(&view, &e->logps, i);
        view_frozen(&view, &e->reference, &e->second, i);
        PairScore score = score_pair(settings, margins, &view);
        add(e, pairs, i, &score, (double)score.violation * margin_unit(margins));
    }
    for (int k = 0; k < categories; k++) {
        Interval accuracy = wilson_interval(e->right[k], e->pairs[k]),
                 rate = wilson_interval(e->violations[k], e->n[k]);
        e->accuracy[k] = e->right[k] / (double)e->pairs[k]; /* 0 / 0: NaN, no value */
        e->accuracy_low[k] = accuracy.low;
        e->accuracy_high[k] = accuracy.high;
        e->rate[k] = e->violations[k] / (double)e->n[k];
        e->rate_low[k] = rate.low;
        e->rate_high[k] = rate.high;
        e->reward[k] /= (double)e->pairs[k];
    }
}
