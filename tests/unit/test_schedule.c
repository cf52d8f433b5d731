/* Promise: the learning rate rises from 0 over ceil(warmup x steps) steps and falls to its floor as transformers'
 * schedules do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <cmocka.h>

#include "catdpo/optim/schedule.h"

static void assert_factors(ScheduleType type, double warmup, double floor, int steps, const double *expected)
{
    for (int step = 1; step <= steps; step++) {
        double factor = schedule_factor(type, warmup, floor, step, steps);
        if (!(fabs(factor - expected[step - 1]) <= 1e-12))
            fail_msg("step %d: %.17g instead of %.17g", step, factor, expected[step - 1]);
    }
}

static void schedules_have_the_values_reckoned_by_hand(void **state)
{
    (void)state;
    /* 10 steps, 2 of them warm-up: linear is (10 - t) / 8, cosine (1 + cos(pi (t - 2) / 8)) / 2 for t = 2 .. 9 */
    const double linear[] = { 0, .5, 1, .875, .75, .625, .5, .375, .25, .125 };
    const double cosine[] = { 0,
                              .5,
                              1,
                              0.9619397662556434,
                              0.8535533905932737,
                              0.6913417161825449,
                              .5,
                              0.3086582838174551,
                              0.1464466094067263,
                              0.0380602337443566 };
    const double constant[] = { 0, .5, 1, 1, 1, 1, 1, 1, 1, 1 };
    assert_factors(SCHEDULE_LINEAR, .2, 0, 10, linear);
    assert_factors(SCHEDULE_COSINE, .2, 0, 10, cosine);
    assert_factors(SCHEDULE_CONSTANT, .2, 0, 10, constant);

    double floored[10];
    for (int k = 0; k < 10; k++) floored[k] = k < 2 ? linear[k] : .1 + .9 * linear[k];
    assert_factors(SCHEDULE_LINEAR, .2, .1, 10, floored);
    for (int k = 2; k < 10; k++) floored[k] = .1 + .9 * cosine[k];
    assert_factors(SCHEDULE_COSINE, .2, .1, 10, floored);
}

static void warm_up_is_rounded_up(void **state)
{
    (void)state;
    assert_int_equal(schedule_warmup_steps(.1, 101), 11);
    assert_int_equal(schedule_warmup_steps(.1, 100), 10);
    assert_int_equal(schedule_warmup_steps(0, 100), 0);
    assert_int_equal(schedule_warmup_steps(1, 7), 7);
    assert_true(schedule_factor(SCHEDULE_LINEAR, 0, 0, 1, 4) ==
                1); /* without warm-up the first step has the full rate */
    assert_true(schedule_factor(SCHEDULE_LINEAR, .1, 0, 1, 1) == 0);
    assert_true(fabs(schedule_factor(SCHEDULE_COSINE, 1, 0, 4, 4) - .75) < 1e-15); /* all of it warm-up */
}

static void factor_stays_in_range(void **state)
{
    (void)state;
    for (int type = SCHEDULE_CONSTANT; type <= SCHEDULE_COSINE; type++)
        for (double warmup = 0; warmup <= 1; warmup += .25)
            for (int steps = 1; steps <= 40; steps++)
                for (int step = 1; step <= steps; step++) {
                    double factor = schedule_factor((ScheduleType)type, warmup, .05, step, steps);
                    assert_true(factor >= 0 && factor <= 1);
                }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedules_have_the_values_reckoned_by_hand),
        cmocka_unit_test(warm_up_is_rounded_up),
        cmocka_unit_test(factor_stays_in_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
