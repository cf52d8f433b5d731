/* Promise: of the names that are known the one that was meant is found, and none where nothing is near. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "catdpo/core/nearest.h"

static void nearest_names(void **state)
{
    (void)state;
    assert_int_equal(edit_distance("eta", "eta"), 0);
    assert_int_equal(edit_distance("Eta", "eta"), 0);
    assert_int_equal(edit_distance("eat", "eta"), 1);
    assert_int_equal(edit_distance("", "eta"), 3);
    assert_int_equal(edit_distance("kitten", "sitting"), 3);
    const char *const names[] = { "train", "eval" };
    assert_int_equal(nearest_name("tarin", names, 2), 0);
    assert_int_equal(nearest_name("evaluate", names, 2), 1);
    assert_int_equal(nearest_name("x", names, 0), -1);
    assert_true(is_likely_meant("tarin", "train"));
    assert_false(is_likely_meant("xyz", "train"));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(nearest_names) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
