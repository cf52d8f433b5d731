/* Promises: a training that goes as it should is never warned of, also while margins and so the loss grow; one whose
 * loss is far above that of the start, whose gradient has vanished, or whose gradients are all clipped and grow is,
 * once for each sign; a resumed one is measured by the run's first step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/train/health.h"

static Health begin(double first_loss, double first_norm, int aggregation)
{
    Health h;
    Config config;
    memset(&config, 0, sizeof config);
    config.margin.aggregation = aggregation;
    health_begin(&h, &config, 200, first_loss, first_norm);
    return h;
}

typedef struct Seen {
    int steps, news; /* with a warning; with one for the first time */
    char text[HEALTH_TEXT];
} Seen;

/* `count` equal steps. */
static Seen run(Health *h, int count, double loss, double norm, bool clipped, double margin)
{
    const double margins[2] = { margin, margin / 2 };
    Seen seen = { 0 };
    for (int i = 0; i < count; i++) {
        bool news;
        StepMetrics row = { .loss = loss, .grad_norm = norm, .clipped = clipped, .margin = margins };
        seen.steps += health_step(h, &row, 2, seen.text, &news);
        seen.news += news;
    }
    return seen;
}

static void good_trainings_are_not_warned_of(void **state)
{
    (void)state;
    Health h = begin(NAN, NAN, AGGREGATE_MAX);
    assert_int_equal(run(&h, 100, 0.69, 20, true, 0).steps, 0); /* clipped all the time, as with small beta */
    assert_int_equal(run(&h, 100, 3.2, 20, true, 2).steps, 0);  /* the margins have grown */
    assert_int_equal(run(&h, 100, 0.01, 1e-3, false, 2).steps, 0);
    assert_int_equal(run(&h, 100, 0, 0, false, 2).steps, 0); /* all is learned */
}

static void a_loss_that_margins_do_not_explain(void **state)
{
    (void)state;
    Health h = begin(NAN, NAN, AGGREGATE_MAX);
    run(&h, 1, 0.69, 5, true, 0);
    Seen seen = run(&h, 60, 2.3, 5, true, 0.1);
    assert_int_equal(seen.news, 1);
    assert_true(seen.steps > 30 && strstr(seen.text, "the loss is 2.3, that of the start was 0.69"));
    assert_int_equal(run(&h, 40, 0.7, 5, true, 0.1).news, 0);
    assert_int_equal(run(&h, 20, 0.7, 5, true, 0.1).steps, 0); /* it came back */

    h = begin(NAN, NAN, AGGREGATE_MAX);
    run(&h, 1, 0.69, 5, true, 0);
    assert_true(run(&h, 60, 3.9, 5, true, 2).steps > 0);
    h = begin(NAN, NAN, AGGREGATE_SUM); /* a pair of both categories has the sum of their margins */
    run(&h, 1, 0.69, 5, true, 0);
    assert_int_equal(run(&h, 60, 3.9, 5, true, 2).steps, 0);
}

static void a_gradient_that_has_vanished(void **state)
{
    (void)state;
    Health h = begin(NAN, NAN, AGGREGATE_MAX);
    run(&h, 5, 0.69, 5, false, 0);
    assert_int_equal(run(&h, 2, 0.9, 0, false, 0).steps, 0);
    Seen seen = run(&h, 10, 0.9, 0, false, 0);
    assert_int_equal(seen.steps, 10);
    assert_int_equal(seen.news, 1);
    assert_non_null(strstr(seen.text, "the gradient is zero"));
}

static void clipped_gradients_that_grow(void **state)
{
    (void)state;
    Health h = begin(NAN, NAN, AGGREGATE_MAX);
    run(&h, 5, 0.69, 20, true, 0);
    Seen seen = run(&h, 50, 0.8, 500, true, 0);
    assert_int_equal(seen.news, 1);
    assert_non_null(strstr(seen.text, "norm of 500 is 25 times that of the start"));
    h = begin(NAN, NAN, AGGREGATE_MAX);
    run(&h, 5, 0.69, 20, true, 0);
    assert_int_equal(run(&h, 50, 0.8, 500, false, 0).steps, 0); /* max_grad_norm = 0 */
}

static void a_resumed_run_is_measured_by_its_first_step(void **state)
{
    (void)state;
    Health h = begin(0.69, 5, AGGREGATE_MAX);
    assert_true(run(&h, 60, 2.3, 5, true, 0.1).steps > 0);
    h = begin(NAN, NAN, AGGREGATE_MAX);
    assert_int_equal(run(&h, 60, 2.3, 5, true, 0.1).steps, 0);
}

static void steps_that_are_skipped_do_not_count(void **state)
{
    (void)state;
    Health h = begin(NAN, NAN, AGGREGATE_MAX);
    bool news;
    char text[HEALTH_TEXT];
    const double margins[2] = { 0, 0 };
    StepMetrics row = { .loss = NAN, .grad_norm = INFINITY, .skipped = 1, .margin = margins };
    for (int i = 0; i < 50; i++) assert_false(health_step(&h, &row, 2, text, &news));
    assert_int_equal(run(&h, 50, 0.69, 5, false, 0).steps, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_trainings_are_not_warned_of),
        cmocka_unit_test(a_loss_that_margins_do_not_explain),
        cmocka_unit_test(a_gradient_that_has_vanished),
        cmocka_unit_test(clipped_gradients_that_grow),
        cmocka_unit_test(a_resumed_run_is_measured_by_its_first_step),
        cmocka_unit_test(steps_that_are_skipped_do_not_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
