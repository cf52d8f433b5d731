/* Promise: phases exclude each other and add up to the time since the reset, whatever their nesting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/core/timer.h"

static void spin(double seconds)
{
    for (double end = seconds_now() + seconds; seconds_now() < end;) continue;
}

enum { ATTENTION, REDUCE, OTHER, PHASES };
static const char *const names[PHASES] = { "attention", "reduce", "other" };

static void inner_phase_pauses_the_outer_one(void **state)
{
    (void)state;
    double before = seconds_now();
    Timer *timer = timer_new(PHASES, names);
    double after = seconds_now();
    timer_start(timer, ATTENTION);
    spin(0.02);
    timer_start(timer, REDUCE);
    spin(0.05);
    timer_stop(timer);
    spin(0.02);
    timer_stop(timer);
    spin(0.01);

    double read = seconds_now(), seconds[PHASES], sum = timer_read(timer, seconds), elapsed = seconds_now() - before;
    assert_true(seconds[ATTENTION] >= 0.04 && seconds[REDUCE] >= 0.05 && seconds[OTHER] >= 0.01);
    assert_true(fabs(seconds[ATTENTION] + seconds[REDUCE] + seconds[OTHER] - sum) < 1e-12);
    assert_true(sum <= elapsed && sum >= read - after);
    assert_int_equal(timer_count(timer), PHASES);
    assert_string_equal(timer_names(timer)[REDUCE], "reduce");
    timer_free(timer);
}

static void open_phase_counts_up_to_now_and_goes_on_after_a_reset(void **state)
{
    (void)state;
    Timer *timer = timer_new(PHASES, names);
    double seconds[PHASES];
    timer_start(timer, REDUCE);
    spin(0.02);
    timer_read(timer, seconds);
    assert_true(seconds[REDUCE] >= 0.02);
    double reset = seconds_now();
    timer_reset(timer);
    spin(0.01);
    timer_read(timer, seconds);
    assert_true(seconds[REDUCE] >= 0.01 && seconds[REDUCE] <= seconds_now() - reset && seconds[OTHER] == 0);
    timer_stop(timer);
    timer_free(timer);
}

static void no_timer_is_no_trouble(void **state)
{
    (void)state;
    timer_start(NULL, ATTENTION);
    timer_stop(NULL);
    timer_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inner_phase_pauses_the_outer_one),
        cmocka_unit_test(open_phase_counts_up_to_now_and_goes_on_after_a_reset),
        cmocka_unit_test(no_timer_is_no_trouble),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
