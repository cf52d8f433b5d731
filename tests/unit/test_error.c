/* Promise: an Error holds one line, the first failure wins, and a message that is too long is cut, not overrun. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/core/error.h"

static void first_message_wins(void **state)
{
    (void)state;
    Error err = { 0 };
    assert_false(error_usage(&err, "key '%s' is unknown", "x"));
    assert_false(error_fault(&err, "later"));
    assert_int_equal(err.exit_status, EXIT_USAGE);
    assert_string_equal(err.message, "key 'x' is unknown");
}

static void message_is_one_line(void **state)
{
    (void)state;
    Error err = { 0 };
    assert_false(error_fault(&err, "a\nb\tc\n"));
    assert_int_equal(err.exit_status, EXIT_FAULT);
    assert_string_equal(err.message, "a b c");
}

static void long_message_is_cut(void **state)
{
    (void)state;
    Error err = { 0 };
    char long_text[4096];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    assert_false(error_fault(&err, "%s", long_text));
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_string_equal(err.message + sizeof err.message - 4, "...");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_message_wins),
        cmocka_unit_test(message_is_one_line),
        cmocka_unit_test(long_message_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
