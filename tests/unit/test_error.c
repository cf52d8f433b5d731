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
    assert_int_equal(strlen(err.message), ERROR_LINE - 1);
    assert_string_equal(err.message + ERROR_LINE - 4, "...");
}

static void faults_of_one_kind_are_lines_as_many_as_fit(void **state)
{
    (void)state;
    Error all = { 0 }, one = { 0 };
    error_usage(&one, "one");
    assert_false(error_also(&all, &one));
    assert_string_equal(all.message, "one");
    assert_int_equal(all.exit_status, EXIT_USAGE);
    one = (Error){ 0 };
    error_fault(&one, "two");
    assert_false(error_also(&all, &one));
    assert_string_equal(all.message, "one\ntwo");
    assert_int_equal(all.exit_status, EXIT_USAGE);
    char long_text[ERROR_LINE];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    for (int i = 0; i < 10; i++) {
        one = (Error){ 0 };
        error_fault(&one, "%s", long_text);
        error_also(&all, &one);
    }
    assert_int_equal(strlen(all.message), strlen("one\ntwo") + 3 * ERROR_LINE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_message_wins),
        cmocka_unit_test(message_is_one_line),
        cmocka_unit_test(long_message_is_cut),
        cmocka_unit_test(faults_of_one_kind_are_lines_as_many_as_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
