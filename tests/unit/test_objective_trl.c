/* Promise: losses have TRL's values, and TRL's gradients with respect to the log-probs of the sequences. The numbers
 * are of real pairs under SmolLM2; TRL itself is not needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <cmocka.h>

#include "trl_values.h"

/* TRL computes losses in float32: 2^-24 of each of a few terms. */
static const double tolerance = 1e-6;

static void assert_near(const char *name, const char *what, double value, double expected)
{
    if (!(fabs(value - expected) <= tolerance * fabs(expected)))
        fail_msg("%s: %s is %.17g, TRL has %.17g", name, what, value, expected);
}

static void losses_and_gradients_are_trls(void **state)
{
    (void)state;
    for (size_t v = 0; v < sizeof trl_values / sizeof *trl_values; v++) {
        const struct TrlValue *value = &trl_values[v];
        ObjectiveSettings settings = value->settings;
        settings.type = objective_find(value->name);
        assert_true(settings.type >= 0);
        double loss = 0;
        for (int i = 0; i < TRL_PAIRS; i++) {
            PairView pair = { .baseline = value->baseline };
            for (int side = 0; side < PAIR_SIDES; side++) {
                pair.logp[side] = trl_logps[i][side];
                pair.reference[side] = trl_reference[i][side];
                pair.tokens[side] = trl_tokens[i][side];
            }
            PairTerms terms = objective_of(&settings)->pair(&settings, 0, &pair);
            loss += terms.loss / TRL_PAIRS;
            for (int side = 0; side < PAIR_SIDES; side++)
                assert_near(value->name, "a gradient", terms.coefficient[side] / TRL_PAIRS, value->gradient[i][side]);
        }
        assert_near(value->name, "the loss", loss, value->loss);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(losses_and_gradients_are_trls) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
