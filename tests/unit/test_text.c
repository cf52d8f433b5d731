/* Promise: a text's columns are those that a terminal draws, and no cut tears a character or leaves half of a wide one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/core/text.h"

static void columns_are_those_of_a_terminal(void **state)
{
    (void)state;
    assert_int_equal(text_columns(""), 0);
    assert_int_equal(text_columns("plain"), 5);
    assert_int_equal(text_columns("\xc3\x84rzte"), 5);             /* Ä */
    assert_int_equal(text_columns("A\xcc\x88rzte"), 5);            /* A and a mark on it */
    assert_int_equal(text_columns("\xe6\xbc\xa2\xe5\xad\x97"), 4); /* two characters of East Asia */
    assert_int_equal(text_columns("\xf0\x9f\x98\x80"), 2);         /* an emoji */
    assert_int_equal(text_columns("a\xff\xc3"), 3);                /* no UTF-8: a byte is a column */
}

static void cuts_stand_between_characters(void **state)
{
    (void)state;
    const char *text = "\xc3\x84\xe6\xbc\xa2z";
    const int bytes[] = { 0, 2, 2, 5, 6, 6 };
    for (int most = 0; most < 6; most++) assert_int_equal(text_bytes(text, most), bytes[most]);
    assert_int_equal(text_bytes("A\xcc\x88", 1), 3); /* the mark stays with its letter */
    assert_int_equal(text_bytes("\xe6\xbc", 1), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_those_of_a_terminal),
        cmocka_unit_test(cuts_stand_between_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
