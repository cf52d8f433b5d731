/* Promises: the loss of a pair has its published values and the gradient of that loss, for every objective of the
 * table; margins of zero are DPO, a constant is SafeDPO and label smoothing 0 is DPO, to the last bit; no argument
 * overflows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <float.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/objective/objective.h"
#include "catdpo/core/rng.h"

static PairView random_pair(Rng *rng)
{
    static double score[PAIR_SIDES + 1][2]; /* of both sides, and their weights; of the latest pair */
    PairView pair = { .baseline = 20 * rng_uniform(rng),
                      .score_count = 2,
                      .score = { score[PAIR_CHOSEN], score[PAIR_REJECTED] },
                      .score_weight = score[PAIR_SIDES] };
    for (int i = 0; i < 4; i++) score[i / 2][i % 2] = (double)rng_below(rng, 4); /* ties are frequent */
    score[PAIR_SIDES][1] = 1 - (score[PAIR_SIDES][0] = rng_uniform(rng));
    for (int i = 0; i < SEGMENTS; i++) pair.segment_weight[i] = 2 * rng_uniform(rng) - 0.5;
    for (int side = 0; side < PAIR_SIDES; side++) {
        pair.logp[side] = -200 * rng_uniform(rng);
        pair.reference[side] = -200 * rng_uniform(rng);
        pair.answer[side] = pair.logp[side] * rng_uniform(rng);
        pair.answer_reference[side] = pair.reference[side] * rng_uniform(rng);
        pair.second[side] = -200 * rng_uniform(rng);
        pair.safe[side] = rng_below(rng, 2) == 1;
        pair.tokens[side] = 1 + (int)rng_below(rng, 100);
    }
    return pair;
}

static PairTerms terms_of(ObjectiveSettings settings, double offset, const PairView *pair)
{
    return objective_of(&settings)->pair(&settings, offset, pair);
}

static PairTerms terms(const char *objective, double beta, double offset, const PairView *pair)
{
    return terms_of((ObjectiveSettings){ .type = objective_find(objective), .beta = beta }, offset, pair);
}

/* Some settings of an objective, all within their bounds. */
static ObjectiveSettings random_settings(int type, Rng *rng)
{
    return (ObjectiveSettings){
        .type = type,
        .beta = 0.05 + rng_uniform(rng),
        .label_smoothing = 0.45 * rng_uniform(rng),
        .length_average = rng_below(rng, 2) == 1,
        .segment_form = (int)rng_below(rng, 2),
        .score_form = (int)rng_below(rng, 2),
        .simpo_gamma = rng_uniform(rng),
        .desirable_weight = 2 * rng_uniform(rng),
        .undesirable_weight = 2 * rng_uniform(rng),
        .bfpo_alpha = rng_uniform(rng),
        .bfpo_ratio = 2 + rng_uniform(rng),
        .modpo_weight = 0.2 + 0.8 * rng_uniform(rng),
        .modpo_beta = rng_uniform(rng),
    };
}

static void assert_close(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance)) fail_msg("%.17g instead of %.17g", value, expected);
}

static void start_of_training_has_the_known_values(void **state)
{
    (void)state;
    PairView pair = { .logp = { -50, -60 },
                      .reference = { -50, -60 },
                      .tokens = { 10, 12 } }; /* policy = reference: h = 0 */
    static const struct {
        double offset, loss, factor;
    } known[] = {
        { 0, 0.6931472, 0.5 }, { 1, 1.3133, 0.7311 },     { 2, 2.1269, 0.8808 },
        { 5, 5.0067, 0.9933 }, { 10, 10.00005, 0.99995 },
    };
    for (int k = 0; k < 5; k++) {
        PairTerms t = terms("safedpo", 0.1, known[k].offset, &pair);
        assert_true(t.h == 0 && t.reward[PAIR_CHOSEN] == 0 && t.reward[PAIR_REJECTED] == 0);
        assert_close(t.loss, known[k].loss, 6e-5);
        assert_close(t.coefficient[PAIR_CHOSEN], -0.1 * known[k].factor, 6e-6);
        assert_close(t.coefficient[PAIR_REJECTED], 0.1 * known[k].factor, 6e-6);
    }
}

static void offset_zero_is_dpo_bit_for_bit(void **state)
{
    (void)state;
    static const char *const names[] = { "dpo", "safedpo", "catdpo", "cdpo", "robust" }; /* without label smoothing */
    Rng rng = rng_stream(1, 0);
    for (int i = 0; i < 1000; i++) {
        PairView p = random_pair(&rng);
        double h = (p.logp[0] - p.reference[0]) - (p.logp[1] - p.reference[1]), z = 0.1 * h;
        const PairTerms dpo = { .loss = softplus(-z),
                                .coefficient = { -0.1 * sigmoid(-z), 0.1 * sigmoid(-z) },
                                .reward = { 0.1 * (p.logp[0] - p.reference[0]), 0.1 * (p.logp[1] - p.reference[1]) },
                                .h = h,
                                .excess = h };
        for (int k = 0; k < 5; k++) {
            PairTerms t = terms(names[k], 0.1, 0, &p);
            assert_memory_equal(&t, &dpo, sizeof dpo);
        }
    }
}

static void offset_raises_the_margin_that_is_asked_for(void **state)
{
    (void)state;
    PairView pair = { .logp = { -40, -80 }, .reference = { -50, -70 }, .tokens = { 10, 10 } }; /* h = 20, z = 2 */
    PairTerms dpo = terms("catdpo", 0.1, 0, &pair), safe = terms("catdpo", 0.1, 2, &pair),
              more = terms("catdpo", 0.1, 5, &pair);
    assert_true(dpo.loss < safe.loss && safe.loss < more.loss);
    assert_close(safe.loss, log(2), 1e-15); /* the margin is met exactly */
    assert_true(dpo.coefficient[PAIR_REJECTED] < safe.coefficient[PAIR_REJECTED] &&
                safe.coefficient[PAIR_REJECTED] < more.coefficient[PAIR_REJECTED]);
}

/* Of every objective of the table: central difference with respect to L_w, then L_l. */
static void coefficients_are_the_derivatives(void **state)
{
    (void)state;
    Rng rng = rng_stream(2, 0);
    const double step = 1e-4;
    for (int type = 0; objective_choice(type).name; type++)
        for (int i = 0; i < 300; i++) {
            PairView p = random_pair(&rng);
            ObjectiveSettings settings = random_settings(type, &rng);
            double offset = 10 * rng_uniform(&rng);
            PairTerms t = terms_of(settings, offset, &p);
            int parts = objective_of(&settings)->segments ? SEGMENTS : 1;
            for (int k = 0; k < PAIR_SIDES * parts; k++) { /* a token of the first segment, then of the answer */
                int side = k % PAIR_SIDES, answer = k / PAIR_SIDES;
                PairView up = p, down = p;
                up.logp[side] += step, up.answer[side] += answer * step;
                down.logp[side] -= step, down.answer[side] -= answer * step;
                PairTerms above = terms_of(settings, offset, &up), below = terms_of(settings, offset, &down);
                double slope = answer ? t.answer[side] : t.coefficient[side];
                if (above.coefficient[side] != slope && t.loss * above.loss == 0) continue; /* a kink */
                /* rounding of the losses over the step, and a third derivative below 1 */
                double noise = (fabs(above.loss) + fabs(below.loss)) * DBL_EPSILON / step + step * step;
                assert_close((above.loss - below.loss) / (2 * step), slope, 4 * noise);
            }
        }
}

/* Somebody else's numbers: worked by hand from the formulas in print. */
static void losses_have_their_published_values(void **state)
{
    (void)state;
    const PairView start = { .logp = { -50, -60 }, .reference = { -50, -60 }, .tokens = { 10, 12 } }; /* h = 0 */
    const PairView led = { .logp = { -40, -80 },
                           .reference = { -50, -70 },
                           .tokens = { 10, 10 } }; /* h = 20, z = 2, d = 2 */
    const double beta = 0.1, e = 0.1;
    ObjectiveSettings s = { .beta = beta, .label_smoothing = e, .length_average = true };

    s.type = objective_find("ipo");
    assert_close(terms_of(s, 0, &start).loss, 25, 1e-12); /* (1 / (2 beta))^2 */
    assert_close(terms_of(s, 0, &led).loss, 9, 1e-12);    /* (2 - 5)^2 */
    assert_close(terms_of(s, 0, &led).coefficient[0], -0.6, 1e-12);
    assert_close(terms_of(s, 0.3, &led).loss, 36, 1e-12); /* asks for 8 */
    s.length_average = false;
    assert_close(terms_of(s, 0, &led).loss, 225, 1e-12); /* (20 - 5)^2 */
    assert_true(terms_of(s, 0, &led).h == 20);

    s.type = objective_find("hinge");
    assert_close(terms_of(s, 0, &start).loss, 1, 0);
    assert_close(terms_of(s, 0, &start).coefficient[1], beta, 0);
    assert_close(terms_of(s, 0, &led).loss, 0, 0);
    assert_close(terms_of(s, 0, &led).coefficient[1], 0, 0);
    assert_close(terms_of(s, 3, &led).loss, 2, 1e-12);

    s.type = objective_find("cdpo");
    assert_close(terms_of(s, 0, &start).loss, log(2), 1e-15);
    assert_close(terms_of(s, 0, &led).loss, 0.9 * log1p(exp(-2)) + 0.1 * log1p(exp(2)), 1e-15);
    PairView best = led; /* at beta h = log((1 - e) / e) it pulls no more */
    best.logp[0] = best.reference[0] + log((1 - e) / e) / beta;
    best.logp[1] = best.reference[1];
    assert_close(terms_of(s, 0, &best).coefficient[0], 0, 1e-16);

    s.type = objective_find("robust");
    assert_close(terms_of(s, 0, &led).loss, (0.9 * log1p(exp(-2)) - 0.1 * log1p(exp(2))) / 0.8, 1e-15);
    best.logp[0] = best.reference[0] + 1e5;
    assert_close(terms_of(s, 0, &best).coefficient[0], -beta * e / (1 - 2 * e), 1e-15); /* its floor */
}

/* Without a reference: a mean of -0.5 nats a token against -1. */
static void losses_without_reference_have_their_published_values(void **state)
{
    (void)state;
    const PairView led = { .logp = { -5, -20 }, .reference = { NAN, NAN }, .tokens = { 10, 20 } };
    ObjectiveSettings s = { .type = objective_find("simpo"), .beta = 2, .simpo_gamma = 0.5 };
    PairTerms t = terms_of(s, 0, &led);
    assert_close(t.loss, log1p(exp(0.5 - 1)), 1e-15);
    assert_close(t.coefficient[0], -0.2 / (1 + exp(0.5)), 1e-15);
    assert_close(t.coefficient[1], 0.1 / (1 + exp(0.5)), 1e-15);
    assert_true(t.reward[0] == -1 && t.reward[1] == -2 && t.h == 0.5 && t.excess == 0.5);
    assert_close(terms_of(s, 0.3, &led).loss, log1p(exp(0.8 - 1)), 1e-15);

    s = (ObjectiveSettings){ .type = objective_find("orpo"), .beta = 0.1 };
    double o = (-0.5 - log(1 - exp(-0.5))) - (-1 - log(1 - exp(-1)));
    t = terms_of(s, 0, &led);
    assert_close(t.loss, 0.5 + 0.1 * log1p(exp(-o)), 1e-15);
    assert_close(terms_of(s, 0.3, &led).loss, 0.5 + 0.1 * log1p(exp(0.3 - o)), 1e-15);
    PairView sure = led; /* a completion that is certain has finite terms */
    sure.logp[0] = sure.logp[1] = 0;
    t = terms_of(s, 0, &sure);
    assert_true(isfinite(t.loss) && isfinite(t.coefficient[0]) && isfinite(t.coefficient[1]));
}

/* Targets of the table in the paper, at tau = 0.01: 50, 100, -100, -50 nats. */
static void bfpo_has_the_targets_in_print(void **state)
{
    (void)state;
    const ObjectiveSettings s = { .type = objective_find("bfpo"), .beta = 0.01, .bfpo_alpha = 0.5, .bfpo_ratio = 3 };
    static const struct {
        uint8_t chosen, rejected;
        double target;
    } rows[] = { { 1, 1, 50 }, { 1, 0, 100 }, { 0, 1, -100 }, { 0, 0, -50 } };
    for (int i = 0; i < 4; i++) {
        PairView pair = { .logp = { -40, -80 },
                          .reference = { -50, -70 },
                          .safe = { rows[i].chosen, rows[i].rejected } };
        PairTerms t = terms_of(s, 0, &pair); /* h = 20 */
        assert_close(t.loss, (20 - rows[i].target) * (20 - rows[i].target), 1e-9);
        assert_close(t.coefficient[0], 2 * (20 - rows[i].target), 1e-12);
    }
}

static void kto_weighs_each_side_against_the_baseline(void **state)
{
    (void)state;
    const ObjectiveSettings s = {
        .type = objective_find("kto"), .beta = 0.1, .desirable_weight = 1, .undesirable_weight = 1.5
    };
    const PairView pair = { .logp = { -40, -80 }, .reference = { -50, -70 }, .baseline = 5 }; /* a = 10, b = -10 */
    PairTerms t = terms_of(s, 0, &pair);
    double w = 1 / (1 + exp(-0.5)), l = 1 / (1 + exp(-1.5));
    assert_close(t.loss, (1 - w + 1.5 * (1 - l)) / 2, 1e-15);
    assert_close(t.coefficient[0], -0.05 * w * (1 - w), 1e-16);
    assert_close(t.coefficient[1], 0.075 * l * (1 - l), 1e-16);
}

static void modpo_has_the_second_models_margin(void **state)
{
    (void)state;
    ObjectiveSettings s = { .type = objective_find("modpo"), .beta = 0.1, .modpo_weight = 0.5, .modpo_beta = 0.2 };
    const PairView pair = { .logp = { -40, -80 }, .reference = { -50, -70 }, .second = { -55, -60 } };
    /* beta h = 2, m_w - m_l = 0.2 (-5 - 10) = -3: z = (2 + 1.5) / 0.5 */
    assert_close(terms_of(s, 0, &pair).loss, log1p(exp(-7)), 1e-15);
    assert_close(terms_of(s, 0, &pair).coefficient[0], -0.2 / (1 + exp(7)), 1e-15);
    s.modpo_weight = 1;
    PairTerms one = terms_of(s, 0, &pair), dpo = terms("dpo", 0.1, 0, &pair);
    assert_memory_equal(&one, &dpo, sizeof one);
}

static void segments_have_weights_of_their_own(void **state)
{
    (void)state;
    ObjectiveSettings s = { .type = objective_find("awdpo"), .beta = 0.1, .segment_form = SEGMENTS_INSIDE };
    Rng rng = rng_stream(4, 0);
    for (int i = 0; i < 200; i++) {
        PairView p = random_pair(&rng);
        p.segment_weight[0] = p.segment_weight[1] = 1; /* inside: dpo to the last bit, in both segments */
        double offset = 3 * rng_uniform(&rng);
        s.segment_form = SEGMENTS_INSIDE;
        PairTerms one = terms_of(s, offset, &p), dpo = terms("dpo", 0.1, offset, &p);
        assert_memory_equal(one.answer, dpo.coefficient, sizeof one.answer);
        memcpy(dpo.answer, one.answer, sizeof one.answer);
        assert_memory_equal(&one, &dpo, sizeof one);

        s.segment_form = SEGMENTS_OUTSIDE;
        PairTerms two = terms_of(s, offset, &p);
        assert_true(two.loss >= one.loss - 1e-12); /* not dpo: two losses, of which each saturates by itself */
        p.segment_weight[1] = 0;                   /* all of the weight on the reasoning: the answer is not moved */
        PairTerms first = terms_of(s, offset, &p);
        assert_true(first.answer[0] == 0 && first.answer[1] == 0);
        for (int side = 0; side < PAIR_SIDES; side++)
            p.answer[side] = p.answer_reference[side] = 0; /* an empty answer: dpo, and a constant for it */
        p.segment_weight[1] = 1;
        PairTerms empty = terms_of(s, 0, &p), plain = terms("dpo", 0.1, 0, &p);
        assert_close(empty.loss, plain.loss + log(2), 1e-12 * (1 + plain.loss));
        assert_close(empty.coefficient[0], plain.coefficient[0], 1e-15);
        p.segment_weight[0] = -0.5; /* the rejected response's reasoning is the better one */
        assert_true(terms_of(s, 0, &p).coefficient[0] > 0 && terms_of(s, 0, &p).coefficient[1] < 0);
    }
    /* by hand: h = 20 of the reasoning, -5 of the answer */
    const PairView p = { .logp = { -40, -75 },
                         .reference = { -50, -70 },
                         .answer = { -10, -30 },
                         .answer_reference = { -12, -37 },
                         .segment_weight = { 0.75, 0.25 } };
    PairTerms t = terms_of(s, 0, &p);
    assert_close(t.loss, 0.75 * log1p(exp(-2)) + 0.25 * log1p(exp(0.5)), 1e-15);
    assert_close(t.coefficient[0], -0.075 / (1 + exp(2)), 1e-16);
    assert_close(t.answer[1], 0.025 / (1 + exp(-0.5)), 1e-16);
    s.segment_form = SEGMENTS_INSIDE;
    assert_close(terms_of(s, 0, &p).loss, log1p(exp(-0.1 * (0.75 * 20 - 0.25 * 5))), 1e-15);
    assert_true(terms_of(s, 0, &p).h == 15);
}

static PairView scored(const PairView *pair, const double chosen[], const double rejected[], const double weight[],
                       int count)
{
    PairView view = *pair;
    view.score_count = count;
    view.score[PAIR_CHOSEN] = chosen;
    view.score[PAIR_REJECTED] = rejected;
    view.score_weight = weight;
    return view;
}

static void scores_choose_or_divide(void **state)
{
    (void)state;
    ObjectiveSettings s = { .type = objective_find("mo-odpo"), .beta = 0.1 };
    const PairView led = { .logp = { -40, -80 }, .reference = { -50, -70 } }; /* z = 2 */
    const double good[] = { 3, 1 }, bad[] = { 1, 2 }, weight[] = { 0.75, 0.25 }, even[] = { 0.5, 0.5 };
    PairView split = scored(&led, good, bad, weight, 2), opposed = scored(&led, bad, good, weight, 2),
             tied = scored(&led, good, good, weight, 2);
    Rng rng = rng_stream(5, 0);
    for (int form = 0; form < 2; form++) {
        s.score_form = form;
        for (int i = 0; i < 200; i++) { /* one score alone: dpo to the last bit, margin and all */
            PairView p = random_pair(&rng), one = scored(&p, good, bad, (const double[]){ 1 }, 1);
            double offset = 3 * rng_uniform(&rng);
            PairTerms t = terms_of(s, offset, &one), dpo = terms("dpo", 0.1, offset, &p);
            assert_memory_equal(&t, &dpo, sizeof dpo);
        }
        assert_close(terms_of(s, 0, &tied).loss, log(2), 1e-15); /* neither is better: nothing is learned */
        assert_close(terms_of(s, 0, &tied).coefficient[0], 0, 0);
    }
    s.score_form = SCORES_SCALARISED; /* 0.75 * 2 - 0.25 * 1 > 0: all of the loss is for chosen, with the margin */
    assert_close(terms_of(s, 0.5, &split).loss, log1p(exp(0.5 - 2)), 1e-15);
    assert_close(terms_of(s, 0.5, &opposed).loss, log1p(exp(2)), 1e-15); /* and for rejected without it */
    s.score_form = SCORES_TERMS;                                         /* cDPO with the weight of the dissent */
    assert_close(terms_of(s, 0, &split).loss, 0.75 * log1p(exp(-2)) + 0.25 * log1p(exp(2)), 1e-15);
    assert_close(terms_of(s, 0.5, &split).loss, 0.75 * log1p(exp(0.5 - 2)) + 0.25 * log1p(exp(2)), 1e-15);
    ObjectiveSettings cdpo = { .type = objective_find("cdpo"), .beta = 0.1, .label_smoothing = 0.25 };
    assert_close(terms_of(s, 0, &split).coefficient[0], terms_of(cdpo, 0, &led).coefficient[0], 1e-16);
    PairView start = scored(&led, good, bad, even, 2); /* as many for as against: h = 0 is where it stays */
    start.logp[0] = start.reference[0], start.logp[1] = start.reference[1];
    assert_close(terms_of(s, 0, &start).coefficient[0], 0, 1e-17);
    const double scaled[] = { 3, 1 }, less[] = { 1, 20 }; /* one score on another scale: terms do not see it */
    PairView larger = scored(&led, scaled, less, weight, 2);
    assert_close(terms_of(s, 0, &larger).loss, terms_of(s, 0, &split).loss, 0);
    s.score_form = SCORES_SCALARISED; /* the sum does: 0.75 * 2 - 0.25 * 19 < 0 */
    assert_close(terms_of(s, 0, &larger).loss, log1p(exp(2)), 1e-15);
}

/* An offset is the margin that the logit is asked for: with it the loss is that of a logit smaller by it. */
static void offsets_shift_the_logit(void **state)
{
    (void)state;
    Rng rng = rng_stream(3, 0);
    for (int type = 0; objective_choice(type).name; type++)
        for (int i = 0; i < 100; i++) {
            ObjectiveSettings settings = random_settings(type, &rng);
            const Objective *objective = objective_of(&settings);
            if (objective->margins == MARGINS_NONE || objective->margins == MARGINS_GROUPS || objective->no_reference)
                continue;
            if (objective->segments || objective->scores) continue;
            settings.modpo_weight = 1; /* its logit is beta h */
            settings.length_average = false;
            double offset = 5 * rng_uniform(&rng);
            PairView p = random_pair(&rng), behind = p;
            behind.logp[PAIR_CHOSEN] -= offset / settings.beta;
            PairTerms with = terms_of(settings, offset, &p), without = terms_of(settings, 0, &behind);
            assert_close(with.loss, without.loss, 1e-9 * (1 + fabs(without.loss)));
            assert_close(with.excess, without.excess, 1e-9 * (1 + fabs(without.excess)));
        }
}

static void softplus_and_sigmoid_hold_for_any_argument(void **state)
{
    (void)state;
    assert_true(softplus(1e300) == 1e300 && softplus(-1e300) == 0 && isinf(softplus(INFINITY)) &&
                softplus(-INFINITY) == 0);
    assert_true(sigmoid(1e300) == 1 && sigmoid(-1e300) == 0 && sigmoid(INFINITY) == 1 && sigmoid(-INFINITY) == 0 &&
                sigmoid(0) == 0.5);
    assert_true(isnan(softplus(NAN)) && isnan(sigmoid(NAN)));
    assert_close(softplus(-50) / exp(-50), 1, 1e-14); /* digits that log(1 + e^t) would lose */
    assert_close(sigmoid(-50) / exp(-50), 1, 1e-14);
    for (double t = -40; t <= 40; t += 0.37) {
        assert_close(softplus(t) - softplus(-t), t, 1e-14 * (1 + fabs(t)));
        assert_close(sigmoid(t) + sigmoid(-t), 1, 1e-15);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_of_training_has_the_known_values),
        cmocka_unit_test(offset_zero_is_dpo_bit_for_bit),
        cmocka_unit_test(offset_raises_the_margin_that_is_asked_for),
        cmocka_unit_test(coefficients_are_the_derivatives),
        cmocka_unit_test(losses_have_their_published_values),
        cmocka_unit_test(losses_without_reference_have_their_published_values),
        cmocka_unit_test(bfpo_has_the_targets_in_print),
        cmocka_unit_test(kto_weighs_each_side_against_the_baseline),
        cmocka_unit_test(modpo_has_the_second_models_margin),
        cmocka_unit_test(segments_have_weights_of_their_own),
        cmocka_unit_test(scores_choose_or_divide),
        cmocka_unit_test(offsets_shift_the_logit),
        cmocka_unit_test(softplus_and_sigmoid_hold_for_any_argument),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
