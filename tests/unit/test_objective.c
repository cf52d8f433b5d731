/* Promises: the loss of a pair has its published values and the gradient of that loss; margins of zero are DPO and a
 * constant is SafeDPO, to the last bit; no argument overflows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <cmocka.h>

#include "catdpo/objective/objective.h"
#include "catdpo/core/rng.h"

static PairLogProbs random_pair(Rng *rng)
{
    PairLogProbs pair;
    for (int side = 0; side < PAIR_SIDES; side++) {
        pair.logp[side] = -200 * rng_uniform(rng);
        pair.reference[side] = -200 * rng_uniform(rng);
        pair.tokens[side] = 1 + (int)rng_below(rng, 100);
    }
    return pair;
}

static PairTerms terms(const char *objective, double beta, double offset, const PairLogProbs *pair)
{
    ObjectiveSettings settings = { .type = objective_find(objective), .beta = beta };
    return objective_of(&settings)->pair(&settings, offset, pair);
}

static void assert_close(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance)) fail_msg("%.17g instead of %.17g", value, expected);
}

static void start_of_training_has_the_known_values(void **state)
{
    (void)state;
    PairLogProbs pair = { { -50, -60 }, { -50, -60 }, { 10, 12 } }; /* policy = reference: h = 0 */
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
    static const char *const names[] = { "dpo", "safedpo", "catdpo" };
    Rng rng = rng_stream(1, 0);
    for (int i = 0; i < 1000; i++) {
        PairLogProbs p = random_pair(&rng);
        double h = (p.logp[0] - p.reference[0]) - (p.logp[1] - p.reference[1]), z = 0.1 * h;
        const PairTerms dpo = { .loss = softplus(-z),
                                .coefficient = { -0.1 * sigmoid(-z), 0.1 * sigmoid(-z) },
                                .reward = { 0.1 * (p.logp[0] - p.reference[0]), 0.1 * (p.logp[1] - p.reference[1]) },
                                .h = h };
        for (int k = 0; k < 3; k++) {
            PairTerms t = terms(names[k], 0.1, 0, &p);
            assert_memory_equal(&t, &dpo, sizeof dpo);
        }
    }
}

static void offset_raises_the_margin_that_is_asked_for(void **state)
{
    (void)state;
    PairLogProbs pair = { { -40, -80 }, { -50, -70 }, { 10, 10 } }; /* h = 20, z = 2 */
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
            const char *name = objective_choice(type).name;
            PairLogProbs p = random_pair(&rng);
            double offset = 10 * rng_uniform(&rng), beta = 0.05 + rng_uniform(&rng);
            PairTerms t = terms(name, beta, offset, &p);
            for (int side = 0; side < PAIR_SIDES; side++) {
                PairLogProbs up = p, down = p;
                up.logp[side] += step;
                down.logp[side] -= step;
                double rise = terms(name, beta, offset, &up).loss - terms(name, beta, offset, &down).loss;
                assert_close(rise / (2 * step), t.coefficient[side], 1e-7);
            }
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
        cmocka_unit_test(softplus_and_sigmoid_hold_for_any_argument),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
