/* Promises: zero margins are DPO, one fixed margin is SafeDPO, equal margins are one global margin, each to the last
 * bit; a category that is absent keeps its margin; ties count one half; margins keep to their bounds, warm-up and
 * interval; a prior shrinks rates, errors say how sure they are, a deadband waits for evidence, targets compare
 * categories; how the pairs are spread over ranks changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/config/config.h"
#include "catdpo/objective/margin.h"
#include "catdpo/core/rng.h"

enum { MOST = 8 };

/* A state for K categories from settings in the syntax of --set, NULL at the end. */
static MarginState make(int category_count, ...)
{
    char *sets[16];
    int count = 0;
    va_list list;
    va_start(list, category_count);
    for (char *set; (set = va_arg(list, char *));) sets[count++] = set;
    va_end(list);
    Config config;
    Error err = { 0 };
    MarginState state;
    if (!config_load(&config, NULL, count, sets, &err) ||
        !margin_create(&state, &config.margin, &config.objective, category_count, &err))
        fail_msg("%s", err.message);
    return state;
}

#define MAKE(...) make(__VA_ARGS__, (char *)NULL)

static void assert_same(double a, double b) { assert_memory_equal(&a, &b, sizeof a); }

static void assert_close(double value, double expected)
{
    if (!(fabs(value - expected) <= 1e-14)) fail_msg("%.17g instead of %.17g", value, expected);
}

/* Counts with n pairs in each category, violated `violated` times. */
static const int64_t *counts_of(int category_count, const int64_t *n, const int64_t *violated)
{
    static int64_t counts[2 * MOST];
    for (int k = 0; k < category_count; k++) counts[k] = n[k], counts[category_count + k] = 2 * violated[k];
    return counts;
}

static void random_counts(Rng *rng, int category_count, int64_t *counts)
{
    for (int k = 0; k < category_count; k++) {
        counts[k] = (int64_t)rng_below(rng, 5);
        counts[category_count + k] = (int64_t)rng_below(rng, (uint64_t)(2 * counts[k] + 1));
    }
}

/* ---- identities ---- */

static void dpo_has_no_offset(void **unused)
{
    (void)unused;
    MarginState dpo = MAKE(3, "objective.type=dpo");
    MarginState zero = MAKE(3, "margin.max=0"); /* Cat-DPO whose margins are held at zero */
    const uint8_t mask[] = { 1, 0, 1 };
    Rng rng = rng_stream(1, 1);
    for (int64_t step = 1; step <= 50; step++) {
        int64_t counts[6];
        random_counts(&rng, 3, counts);
        margin_update(&dpo, counts, step);
        margin_update(&zero, counts, step);
        assert_same(margin_offset(&dpo, mask, true), 0);
        assert_same(margin_offset(&zero, mask, true), 0);
    }
    assert_true(dpo.violation_rate[0] != 0.5); /* the rate is followed all the same */
    assert_same(dpo.violation_rate[0], zero.violation_rate[0]);
    assert_int_equal(dpo.updates, 0);
    margin_free(&dpo);
    margin_free(&zero);
}

static void one_fixed_margin_is_safedpo(void **unused)
{
    (void)unused;
    MarginState safe = MAKE(1, "objective.type=safedpo", "margin.initial=10");
    MarginState fixed = MAKE(1, "margin.scope=fixed", "margin.initial=10");
    const uint8_t mask[] = { 1 };
    const int64_t n[] = { 4 }, violated[] = { 4 };
    for (int64_t step = 1; step <= 20; step++) {
        assert_same(margin_offset(&safe, mask, true), 10);
        assert_same(margin_offset(&fixed, mask, true), 10);
        assert_same(margin_offset(&safe, mask, false), 0); /* both responses are safe: plain DPO */
        margin_update(&safe, counts_of(1, n, violated), step);
        margin_update(&fixed, counts_of(1, n, violated), step);
    }
    margin_free(&safe);
    margin_free(&fixed);
}

static void one_populated_category_is_global(void **unused)
{
    (void)unused;
    MarginState each = MAKE(4, "margin.eta=0.3"), global = MAKE(4, "margin.eta=0.3", "margin.scope=global");
    uint8_t mask[] = { 0, 0, 1, 0 };
    Rng rng = rng_stream(3, 1);
    for (int64_t step = 1; step <= 200; step++) {
        int64_t counts[8] = { 0 };
        random_counts(&rng, 4, counts);
        for (int k = 0; k < 4; k++)
            if (k != 2) counts[k] = counts[4 + k] = 0;
        margin_update(&each, counts, step);
        margin_update(&global, counts, step);
        assert_same(each.margin[2], global.margin[2]);
        assert_same(each.violation_rate[2], global.pooled_rate);
        assert_same(margin_offset(&each, mask, true), margin_offset(&global, mask, true));
    }
    assert_true(each.margin[2] > 0 && each.margin[0] == 0 && global.margin[0] == global.margin[2]);
    margin_free(&each);
    margin_free(&global);
}

static void equal_margins_are_one_global_margin(void **unused)
{
    (void)unused;
    static char *const ways[] = { "margin.aggregation=max", "margin.aggregation=mean", "margin.aggregation=sum" };
    for (int way = 0; way < 3; way++) {
        MarginState each = MAKE(5, ways[way]), global = MAKE(5, ways[way], "margin.scope=global");
        const int64_t n[] = { 3, 1, 4, 1, 5 }, violated[] = { 2, 1, 0, 0, 3 };
        for (int64_t step = 1; step <= 30; step++) margin_update(&global, counts_of(5, n, violated), step);
        for (int k = 0; k < 5; k++) each.margin[k] = global.margin[0];
        for (int bits = 0; bits < 32; bits++) {
            uint8_t mask[5];
            for (int k = 0; k < 5; k++) mask[k] = bits >> k & 1;
            assert_same(margin_offset(&each, mask, true), margin_offset(&global, mask, true));
        }
        margin_free(&each);
        margin_free(&global);
    }
}

/* ---- offsets ---- */

static void offset_aggregates_over_the_pairs_categories(void **unused)
{
    (void)unused;
    const uint8_t mask[] = { 1, 0, 1, 1 }, single[] = { 0, 1, 0, 0 }, none[] = { 0, 0, 0, 0 };
    static const struct {
        char *way;
        double three;
    } cases[] = {
        { "margin.aggregation=max", 4 },
        { "margin.aggregation=mean", 7.0 / 3 },
        { "margin.aggregation=sum", 7 },
    };
    for (int c = 0; c < 3; c++) {
        MarginState state = MAKE(4, cases[c].way);
        const double margins[] = { 1, 9, 4, 2 };
        memcpy(state.margin, margins, sizeof margins);
        assert_same(margin_offset(&state, mask, true), cases[c].three);
        assert_same(margin_offset(&state, single, true), 9); /* with one category there is nothing to aggregate */
        assert_same(margin_offset(&state, none, true), 0);
        assert_same(margin_offset(&state, mask, false), 0);
        margin_free(&state);
    }
}

/* ---- entering the loss ---- */

static void margins_enter_as_offset_or_weight(void **unused)
{
    (void)unused;
    const uint8_t mask[] = { 1, 0 }, other[] = { 0, 1 };
    MarginState offset = MAKE(2, "margin.initial=3"), weight = MAKE(2, "margin.initial=3", "margin.form=weight");
    PairMargin m = margin_of(&offset, mask, true);
    assert_true(m.offset == 3 && m.weight == 1);
    weight.margin[1] = 1;
    double sum = margin_raw_weight(&weight, mask, true) + margin_raw_weight(&weight, other, true) +
                 margin_raw_weight(&weight, mask, false);
    assert_same(sum, 4 + 2 + 1);
    margin_begin_step(&weight, sum, 3);
    m = margin_of(&weight, mask, true);
    assert_true(m.offset == 0);
    assert_close(m.weight, 4 / (7.0 / 3));
    assert_close(m.weight + margin_of(&weight, other, true).weight + margin_of(&weight, mask, false).weight, 3);
    margin_free(&offset);
    margin_free(&weight);
}

static void groups_weigh_by_their_losses(void **unused)
{
    (void)unused;
    const uint8_t masks[] = { 1, 0, 0, /**/ 1, 1, 0, /**/ 0, 1, 0 };
    MarginState state = MAKE(3, "objective.type=gr-dpo", "objective.group_step=0.5");
    MarginState still = MAKE(3, "objective.type=gr-dpo", "objective.group_step=0");
    MarginState *both[] = { &state, &still };
    for (int s = 0; s < 2; s++) {
        int64_t groups[6] = { 0 };
        margin_know_members(both[s], masks, 3);
        margin_begin_step(both[s], 0, 3);
        for (int i = 0; i < 3; i++) { /* nothing has moved: every weight is exactly 1 */
            PairMargin m = margin_of(both[s], masks + 3 * i, true);
            assert_true(m.offset == 0 && m.weight == 1);
            margin_count_group(both[s], masks + 3 * i, 1.0 + i, groups);
        }
        assert_true(groups[0] == 2 && groups[1] == 2 && groups[2] == 0);
        margin_update_groups(both[s], groups);
        margin_begin_step(both[s], 0, 3);
    }
    for (int i = 0; i < 3; i++) assert_true(margin_of(&still, masks + 3 * i, false).weight == 1);
    /* mean losses 1.5 and 2.5; the third category has no pair and stays at 0, the smallest */
    assert_close(state.margin[0], 0.75);
    assert_close(state.margin[1], 1.25);
    assert_close(state.margin[2], 0);
    double a = exp(0.75), b = exp(1.25), mean = (2 * a + 2 * b) / 4;
    assert_close(margin_of(&state, masks, true).weight, a / mean);
    assert_close(margin_of(&state, masks + 3, true).weight, (a + b) / 2 / mean);
    assert_close(margin_of(&state, masks + 6, false).weight, b / mean);
    state.margin[0] = 5000; /* far beyond what exp has */
    margin_begin_step(&state, 0, 3);
    assert_close(margin_of(&state, masks, true).weight, 2);
    assert_close(margin_of(&state, masks + 6, true).weight, 0);
    margin_free(&state);
    margin_free(&still);
}

/* ---- counting ---- */

static void signals_are_what_they_say(void **unused)
{
    (void)unused;
    const PairView pair = { .logp = { -30, -20 }, .reference = { -40, -25 }, .tokens = { 10, 5 } };
    const PairTerms terms = { .h = 5, .excess = 5 - 20 }; /* beta h = 0.5 is 1.5 short of a margin of 2 */
    MarginState likelihood = MAKE(1, "margin.signal=likelihood"), reward = MAKE(1, "margin.signal=reward");
    MarginState margin = MAKE(1, "margin.signal=margin");
    assert_close(violation_signal(&likelihood, &pair, &terms), -3.0 - -4.0);
    assert_same(violation_signal(&reward, &pair, &terms), 5);
    assert_same(violation_signal(&margin, &pair, &terms), 5 - 20);

    assert_int_equal(violation_score(&likelihood, 1), 0);
    assert_int_equal(violation_score(&margin, -15), 2);
    margin_free(&likelihood);
    margin_free(&reward);
    margin_free(&margin);
}

static void ties_count_one_half(void **unused)
{
    (void)unused;
    MarginState state = MAKE(1, "margin.signal=reward"), strict = MAKE(1, "margin.signal=reward", "margin.tie=0");
    static const struct {
        double signal;
        int score, strict;
    } cases[] = {
        { 0, 1, 2 },   { 9e-4, 1, 0 }, { -9e-4, 1, 2 },    { 1e-3, 0, 0 },      { -1e-3, 2, 2 },
        { 0.5, 0, 0 }, { -0.5, 2, 2 }, { INFINITY, 0, 0 }, { -INFINITY, 2, 2 }, { NAN, 2, 2 },
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        assert_int_equal(violation_score(&state, cases[c].signal), cases[c].score);
        assert_int_equal(violation_score(&strict, cases[c].signal), cases[c].strict);
    }
    assert_same(margin_unit(&state), 0.5);
    margin_free(&state);
    margin_free(&strict);
}

static void soft_score_is_a_sigmoid_in_fixed_point(void **unused)
{
    (void)unused;
    MarginState state = MAKE(1, "margin.soft=true", "margin.temperature=2"); /* likelihood */
    MarginState reward = MAKE(1, "margin.soft=true", "margin.signal=reward", "objective.beta=0.2");
    double unit = margin_unit(&state);
    assert_same(unit, 0x1p-32);
    assert_same((double)violation_score(&state, 0) * unit, 0.5);
    for (double signal = -60; signal <= 60; signal += 1.7) {
        double soft = (double)violation_score(&state, signal) * unit;
        assert_true(fabs(soft - 1 / (1 + exp(signal / 2))) <= 0x1p-32);
        soft = (double)violation_score(&reward, signal) * unit;
        assert_true(fabs(soft - 1 / (1 + exp(0.2 * signal))) <= 0x1p-32);
    }
    assert_same((double)violation_score(&state, -INFINITY) * unit, 1);
    assert_same((double)violation_score(&state, NAN) * unit, 1);
    assert_int_equal(violation_score(&state, INFINITY), 0);
    margin_free(&state);
    margin_free(&reward);
}

static void pair_counts_in_each_of_its_categories(void **unused)
{
    (void)unused;
    MarginState state = MAKE(3, "margin.signal=reward");
    int64_t counts[6] = { 0 };
    const uint8_t two[] = { 1, 0, 1 }, one[] = { 0, 0, 1 };
    margin_count(&state, two, true, 2, counts);
    margin_count(&state, one, true, 1, counts);
    margin_count(&state, one, true, 0, counts);
    margin_count(&state, two, false, 2, counts); /* both responses safe, or unknown: not counted */
    const int64_t expected[] = { 1, 0, 3, 2, 0, 3 };
    assert_memory_equal(counts, expected, sizeof counts);
    margin_free(&state);
}

static void spreading_pairs_over_ranks_changes_nothing(void **unused)
{
    (void)unused;
    enum { K = 3, PAIRS = 64 };
    static char *const soft[] = { "margin.soft=false", "margin.soft=true" };
    for (int s = 0; s < 2; s++)
        for (int ranks = 2; ranks <= 6; ranks++) {
            MarginState one = MAKE(K, soft[s]), many = MAKE(K, soft[s]);
            Rng rng = rng_stream(7, (uint64_t)ranks);
            for (int64_t step = 1; step <= 20; step++) {
                int64_t all[2 * K] = { 0 }, part[6][2 * K] = { { 0 } }, sum[2 * K] = { 0 };
                for (int i = 0; i < PAIRS; i++) {
                    uint8_t mask[K];
                    for (int k = 0; k < K; k++) mask[k] = rng_below(&rng, 2) == 0;
                    int64_t score = violation_score(&one, rng_uniform(&rng) - 0.4);
                    margin_count(&one, mask, i % 3 != 0, score, all);
                    margin_count(&many, mask, i % 3 != 0, score, part[rng_below(&rng, (uint64_t)ranks)]);
                }
                for (int r = ranks - 1; r >= 0; r--)
                    for (int c = 0; c < 2 * K; c++) sum[c] += part[r][c];
                margin_update(&one, all, step);
                margin_update(&many, sum, step);
                assert_memory_equal(one.margin, many.margin, K * sizeof(double));
                assert_memory_equal(one.violation_rate, many.violation_rate, K * sizeof(double));
            }
            margin_free(&one);
            margin_free(&many);
        }
}

/* ---- update ---- */

static void update_follows_the_formula(void **unused)
{
    (void)unused;
    MarginState state = MAKE(2, "margin.eta=0.5", "margin.target=0.2", "margin.averaging=0.1", "margin.initial=1");
    const int64_t n[] = { 3, 2 }, violated[] = { 3, 0 };
    margin_update(&state, counts_of(2, n, violated), 1);
    double w3 = 1 - 0.9 * 0.9 * 0.9, w2 = 1 - 0.9 * 0.9;
    double v0 = 0.5 + w3 * (1 - 0.5), v1 = 0.5 + w2 * (0 - 0.5);
    assert_close(state.violation_rate[0], v0);
    assert_close(state.violation_rate[1], v1);
    assert_close(state.margin[0], 1 + 0.5 * (v0 - 0.2)); /* tightens */
    assert_close(state.margin[1], 1 + 0.5 * (v1 - 0.2));
    for (int64_t step = 2; step <= 20; step++) margin_update(&state, counts_of(2, n, violated), step);
    assert_true(state.margin[0] > 5 && state.margin[1] < 1); /* the second has caught up: it relaxes */
    assert_true(state.n[0] == 60 && state.n[1] == 40 && state.violations[0] == 120 && state.violations[1] == 0);
    assert_true(state.updates == 20 && state.last_update == 20);
    assert_int_equal(margin_worst(&state), 0);
    margin_free(&state);
}

static void prior_shrinks_towards_the_common_rate(void **unused)
{
    (void)unused;
    MarginState state = MAKE(2, "margin.prior=4", "margin.averaging=1"), raw = MAKE(2, "margin.averaging=1");
    const int64_t n[] = { 2, 8 }, violated[] = { 2, 2 };
    margin_update(&state, counts_of(2, n, violated), 1);
    margin_update(&raw, counts_of(2, n, violated), 1);
    assert_close(state.violation_rate[0], (2 + 4 * 0.4) / 6); /* all together: 4 of 10 */
    assert_close(state.violation_rate[1], (2 + 4 * 0.4) / 12);
    assert_same(raw.violation_rate[0], 1);
    assert_close(state.pooled_rate, 0.4);
    double q = (2 + 1.6 + 0.5) / 7, bare = 2.5 / 3;
    assert_close(state.standard_error[0], sqrt(q * (1 - q) / 8));
    assert_close(raw.standard_error[0], sqrt(bare * (1 - bare) / 4)); /* more than 0, though all violate */
    assert_true(raw.standard_error[1] < raw.standard_error[0]);
    margin_free(&state);
    margin_free(&raw);
}

static void standard_error_falls_with_what_is_seen(void **unused)
{
    (void)unused;
    MarginState state = MAKE(2, "margin.averaging=0.2");
    const int64_t n[] = { 5, 0 }, violated[] = { 1, 0 };
    assert_close(state.standard_error[0], 0.5); /* of a guess */
    double w = 1 - pow(0.8, 5), q = 1.5 / 6, fresh = q * (1 - q) / 7, error = 0.25;
    for (int64_t step = 1; step <= 6; step++) {
        margin_update(&state, counts_of(2, n, violated), step);
        error = (1 - w) * (1 - w) * error + w * w * fresh;
        assert_close(state.standard_error[0], sqrt(error));
    }
    assert_same(state.standard_error[1], 0.5); /* nothing was seen of it */
    margin_free(&state);
}

/* Margins from 1, eta 1, after one update: 3 categories with rates 0.5, 0.3, 0.1, and one that never comes. */
static void targets_compare_categories(void **unused)
{
    (void)unused;
    const int64_t n[] = { 10, 10, 10, 0 }, violated[] = { 5, 3, 1, 0 };
    static const struct {
        char *form, *target;
        double margin[3];
    } cases[] = {
        { "margin.target_form=absolute", "margin.target=auto", { 1.3, 1.1, 0.9 } },
        { "margin.target_form=mean", "margin.target=auto", { 1.2, 1.0, 0.8 } },
        { "margin.target_form=best", "margin.target=auto", { 1.4, 1.2, 1.0 } },
        { "margin.target_form=best", "margin.target=0.3", { 1.1, 0.9, 0.7 } },
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        MarginState state =
            MAKE(4, cases[c].form, cases[c].target, "margin.eta=1", "margin.averaging=1", "margin.initial=1");
        margin_update(&state, counts_of(4, n, violated), 1);
        for (int k = 0; k < 3; k++) assert_close(state.margin[k], cases[c].margin[k]);
        assert_same(state.margin[3], 1);
        margin_free(&state);
    }
}

static void deadband_waits_for_evidence(void **unused)
{
    (void)unused;
    static char *const forms[] = { "margin.target_form=absolute", "margin.target_form=mean",
                                   "margin.target_form=best" };
    const int64_t few[] = { 4, 4 }, some[] = { 3, 0 }, many[] = { 4000, 4000 }, most[] = { 3000, 0 };
    for (int f = 0; f < 3; f++) {
        MarginState state =
            MAKE(2, forms[f], "margin.target=0.3", "margin.deadband=3", "margin.averaging=1", "margin.initial=1");
        margin_update(&state, counts_of(2, few, some), 1); /* 3 of 4 and 0 of 4 */
        assert_same(state.margin[0], 1);
        margin_update(&state, counts_of(2, many, most), 2);
        assert_true(state.margin[0] > 1);
        assert_true(state.margin[1] < 1);
        margin_free(&state);
    }
}

static void averaging_counts_pairs_not_steps(void **unused)
{
    (void)unused;
    MarginState once = MAKE(1, "margin.averaging=0.05"), often = MAKE(1, "margin.averaging=0.05");
    const int64_t many[] = { 40, 80 }, single[] = { 1, 2 };
    margin_update(&once, many, 1);
    for (int64_t step = 1; step <= 40; step++) margin_update(&often, single, step);
    assert_close(once.violation_rate[0], often.violation_rate[0]);
    margin_free(&once);
    margin_free(&often);
}

static void absent_category_is_left_alone(void **unused)
{
    (void)unused;
    MarginState state = MAKE(2, "margin.initial=3");
    const int64_t n[] = { 4, 0 }, violated[] = { 4, 0 };
    for (int64_t step = 1; step <= 100; step++) margin_update(&state, counts_of(2, n, violated), step);
    assert_true(state.margin[0] > 3);
    assert_same(state.margin[1], 3);
    assert_same(state.violation_rate[1], 0.5);
    assert_int_equal(state.n[1], 0);

    const int64_t nothing[4] = { 0 }; /* a step without any counted pair */
    MarginState global = MAKE(2, "margin.initial=3", "margin.scope=global");
    margin_update(&global, nothing, 1);
    assert_same(global.margin[0], 3);
    assert_int_equal(margin_worst(&global), -1);
    margin_free(&state);
    margin_free(&global);
}

static void margins_keep_to_their_bounds(void **unused)
{
    (void)unused;
    static char *const scopes[] = { "margin.scope=category", "margin.scope=global" };
    for (int s = 0; s < 2; s++) {
        MarginState state = MAKE(1, scopes[s], "margin.eta=3", "margin.min=1", "margin.max=4", "margin.initial=2");
        const int64_t n[] = { 50 }, all[] = { 50 }, none[] = { 0 };
        for (int64_t step = 1; step <= 10; step++) margin_update(&state, counts_of(1, n, all), step);
        assert_same(state.margin[0], 4);
        for (int64_t step = 11; step <= 40; step++) margin_update(&state, counts_of(1, n, none), step);
        assert_same(state.margin[0], 1);
        assert_true(state.violation_rate[0] >= 0 && state.violation_rate[0] <= 1);
        margin_free(&state);
    }
}

static void warm_up_leaves_margins_alone_and_follows_the_rate(void **unused)
{
    (void)unused;
    MarginState state = MAKE(1, "margin.warmup_steps=5");
    const int64_t n[] = { 8 }, violated[] = { 8 };
    for (int64_t step = 1; step <= 5; step++) margin_update(&state, counts_of(1, n, violated), step);
    assert_same(state.margin[0], 0);
    assert_true(state.violation_rate[0] > 0.7 && state.updates == 0);
    margin_update(&state, counts_of(1, n, violated), 6);
    assert_true(state.margin[0] > 0 && state.updates == 1 && state.last_update == 6);
    margin_free(&state);
}

static void interval_collects_counts(void **unused)
{
    (void)unused;
    MarginState each = MAKE(2), third = MAKE(2, "margin.interval=3");
    const int64_t pooled[] = { 9, 6, 10, 3 }, first[] = { 4, 0, 4, 0 }, second[] = { 0, 6, 0, 3 },
                  last[] = { 5, 0, 6, 0 };
    margin_update(&each, pooled, 1);
    margin_update(&third, first, 1);
    margin_update(&third, second, 2);
    assert_same(third.margin[0], 0);
    assert_same(third.violation_rate[0], 0.5);
    margin_update(&third, last, 3);
    assert_memory_equal(each.margin, third.margin, 2 * sizeof(double));
    assert_memory_equal(each.violation_rate, third.violation_rate, 2 * sizeof(double));
    assert_int_equal(third.pending[0], 0);
    assert_int_equal(third.n[0], 9);
    margin_free(&each);
    margin_free(&third);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dpo_has_no_offset),
        cmocka_unit_test(one_fixed_margin_is_safedpo),
        cmocka_unit_test(one_populated_category_is_global),
        cmocka_unit_test(equal_margins_are_one_global_margin),
        cmocka_unit_test(offset_aggregates_over_the_pairs_categories),
        cmocka_unit_test(margins_enter_as_offset_or_weight),
        cmocka_unit_test(groups_weigh_by_their_losses),
        cmocka_unit_test(signals_are_what_they_say),
        cmocka_unit_test(ties_count_one_half),
        cmocka_unit_test(soft_score_is_a_sigmoid_in_fixed_point),
        cmocka_unit_test(pair_counts_in_each_of_its_categories),
        cmocka_unit_test(spreading_pairs_over_ranks_changes_nothing),
        cmocka_unit_test(update_follows_the_formula),
        cmocka_unit_test(prior_shrinks_towards_the_common_rate),
        cmocka_unit_test(standard_error_falls_with_what_is_seen),
        cmocka_unit_test(targets_compare_categories),
        cmocka_unit_test(deadband_waits_for_evidence),
        cmocka_unit_test(averaging_counts_pairs_not_steps),
        cmocka_unit_test(absent_category_is_left_alone),
        cmocka_unit_test(margins_keep_to_their_bounds),
        cmocka_unit_test(warm_up_leaves_margins_alone_and_follows_the_rate),
        cmocka_unit_test(interval_collects_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
