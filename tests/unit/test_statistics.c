/* Promise: Wilson intervals have their published values and stay in [0, 1]; the summary over categories is what it
 * says, without the categories that have no data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <cmocka.h>

#include "catdpo/objective/statistics.h"

static void assert_close(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance)) fail_msg("%.17g instead of %.17g", value, expected);
}

static void wilson_has_the_known_values(void **state)
{
    (void)state;
    static const struct {
        int hits, n;
        double low, high;
    } known[] = {
        { 45, 50, .7864, .9565 }, { 90, 100, .8256, .9448 }, { 450, 500, .8706, .9233 }, { 48, 50, .8654, .9890 },
        { 50, 50, .9287, 1 },     { 29, 30, .8333, .9941 },  { 30, 30, .8865, 1 },
    };
    for (int k = 0; k < 7; k++) {
        Interval yes = wilson_interval(known[k].hits, known[k].n),
                 no = wilson_interval(known[k].n - known[k].hits, known[k].n);
        assert_close(yes.low, known[k].low, 5e-5);
        assert_close(yes.high, known[k].high, 5e-5);
        assert_close(no.low, 1 - yes.high, 1e-15); /* the interval of the opposite is the mirror image */
        assert_close(no.high, 1 - yes.low, 1e-15);
    }
    assert_true(isnan(wilson_interval(0, 0).low) && isnan(wilson_interval(0, 0).high));
    for (int n = 1; n <= 40; n++)
        for (int halves = 0; halves <= 2 * n; halves++) {
            Interval i = wilson_interval(halves / 2.0, n);
            assert_true(i.low >= 0 && i.low <= halves / 2.0 / n && i.high >= halves / 2.0 / n && i.high <= 1);
        }
}

static void fairness_is_over_categories_with_data(void **state)
{
    (void)state;
    const double hits[] = { 9, 5, 0, 30 };
    const int64_t n[] = { 10, 10, 0, 40 }; /* rates .9, .5, none, .75 */
    Fairness f = fairness(hits, n, NULL, 4, WORST_IS_LOWEST);
    assert_close(f.micro, 44.0 / 60, 1e-15);
    assert_close(f.macro, (.9 + .5 + .75) / 3, 1e-15);
    assert_close(f.gap, .4, 1e-15);
    double mean = 2.15 / 3;
    assert_close(f.variance, ((.9 - mean) * (.9 - mean) + (.5 - mean) * (.5 - mean) + (.75 - mean) * (.75 - mean)) / 3,
                 1e-15);
    assert_true(f.worst == .5 && f.worst_category == 1 && f.categories == 3);

    f = fairness(hits, n, NULL, 4, WORST_IS_HIGHEST);
    assert_true(f.worst == .9 && f.worst_category == 0);

    const unsigned char harm[] = { 1, 0, 1, 1 }; /* without the second */
    f = fairness(hits, n, harm, 4, WORST_IS_LOWEST);
    assert_true(f.worst == .75 && f.worst_category == 3 && f.categories == 2);

    f = fairness(hits, n, NULL, 1, WORST_IS_LOWEST); /* one category: nothing differs */
    assert_true(f.gap == 0 && f.variance == 0 && f.micro == f.macro);

    const int64_t none[4] = { 0 };
    f = fairness(hits, none, NULL, 4, WORST_IS_LOWEST);
    assert_true(isnan(f.micro) && isnan(f.macro) && isnan(f.worst) && isnan(f.gap) && isnan(f.variance));
    assert_true(f.worst_category == -1 && f.categories == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wilson_has_the_known_values),
        cmocka_unit_test(fairness_is_over_categories_with_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
