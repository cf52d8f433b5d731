/* Promises: values come out as one valid JSON text in order, whatever a string holds; a number reads back to the same
 * bits; what JSON has no number for is null. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/core/json.h"

static char *written(void (*write)(Json *j))
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    Json j = json_begin(out);
    write(&j);
    assert_int_equal(j.depth, 0);
    fclose(out);
    return text;
}

static void check(void (*write)(Json *j), const char *expected)
{
    char *text = written(write);
    assert_string_equal(text, expected);
    free(text);
}

static void nested(Json *j)
{
    json_object(j, NULL);
    json_text(j, "a", "b");
    json_array(j, "list");
    json_integer(j, NULL, INT64_MIN);
    json_bool(j, NULL, false);
    json_object(j, NULL);
    json_close(j);
    json_array(j, NULL);
    json_close(j);
    json_close(j);
    json_break(j);
    json_null(j, "c");
    json_bool(j, "d", true);
    json_close(j);
}

static void commas_stand_between_values(void **state)
{
    (void)state;
    check(nested, "{\"a\":\"b\",\"list\":[-9223372036854775808,false,{},[]],\n\"c\":null,\"d\":true}");
}

static void strings(Json *j)
{
    json_array(j, NULL);
    json_text(j, NULL, "quote \" back \\ tab \t bell \a del \x7f");
    json_text(j, NULL, "\xc3\x84rzte \xe2\x82\xac \xf0\x9f\x98\x80");
    json_text(j, NULL, "\xff cut \xe2\x82");                      /* no character; one cut short */
    json_text(j, NULL, "\xc0\xaf \xed\xa0\x80 \xf4\x90\x80\x80"); /* too long, a surrogate, beyond Unicode */
    json_close(j);
}

static void strings_are_whole_utf8(void **state)
{
    (void)state;
    check(strings, "[\"quote \\\" back \\\\ tab \\u0009 bell \\u0007 del \\u007f\","
                   "\"\xc3\x84rzte \xe2\x82\xac \xf0\x9f\x98\x80\","
                   "\"\xef\xbf\xbd cut \xef\xbf\xbd\xef\xbf\xbd\","
                   "\"\xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd "
                   "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"]");
}

static double number;

static void one_number(Json *j) { json_number(j, NULL, number); }

static void numbers_read_back(void **state)
{
    (void)state;
    const double values[] = { 0.1, 1.0 / 3, 1e-6, DBL_MAX, DBL_MIN, -0.0, 123456789.125, nextafter(1, 2) };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        number = values[i];
        char *text = written(one_number);
        double back = strtod(text, NULL);
        assert_memory_equal(&back, &values[i], sizeof back);
        free(text);
    }
    number = 0.1;
    check(one_number, "0.1");
    number = NAN;
    check(one_number, "null");
    number = -INFINITY;
    check(one_number, "null");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commas_stand_between_values),
        cmocka_unit_test(strings_are_whole_utf8),
        cmocka_unit_test(numbers_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
