/* Promise: only the root prints; a progress line holds what fits its width and never more; plain lines come at sensible
 * intervals; a message wipes the bar that stands on its line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/core/log.h"

typedef struct Capture {
    char *text;
    size_t size;
    FILE *file;
} Capture;

static Log capture(Capture *c, int rank)
{
    c->file = open_memstream(&c->text, &c->size);
    Log log;
    log = (Log){ .stream = c->file, .root = rank == 0, .terminal = -1 };
    return log;
}

static void release(Capture *c)
{
    fclose(c->file);
    free(c->text);
}

static void assert_printed(Capture *c, const char *expected)
{
    fflush(c->file);
    assert_string_equal(c->text, expected);
}

static void only_the_root_prints(void **state)
{
    (void)state;
    for (int rank = 0; rank < 2; rank++) {
        Capture c;
        Log log = capture(&c, rank);
        Error err = { EXIT_USAGE, "no such key" };
        log_info(&log, "%d pairs", 3);
        log_warn(&log, "slow");
        log_error(&log, &err);
        Progress p;
        progress_begin(&p, &log, PROGRESS_PLAIN, "train", 0, 1);
        progress_update(&p, 1, NULL);
        progress_end(&p);
        assert_printed(&c, rank == 0 ? "3 pairs\nwarning: slow\ncatdpo: no such key\ntrain 1/1  in 0:00\n" : "");
        release(&c);
    }
}

static void line_fits_every_width(void **state)
{
    (void)state;
    Progress p = { .title = "train", .total = 1200, .began = 100 };
    ProgressFields fields = { 0.69314, 12345.6, "Privat\303\244sph\303\244re und Datenschutz", 0.625, "epoch 1" };
    char text[512];
    int columns = progress_line(&p, 300, 160, &fields, 0, text, sizeof text);
    assert_int_equal(columns, (int)strlen(text) - 2); /* two letters take two bytes each */
    assert_string_equal(
        text, "train  300/1200  loss 0.6931  12.3k tok/s  worst Privat\303\244sph\303\244re und Datens 62% violated"
              "  epoch 1  3:00 left");
    for (int width = 20; width < 200; width++) {
        columns = progress_line(&p, 300, 160, &fields, width, text, sizeof text);
        assert_true(columns < width);
        assert_true(strncmp(text, "train  300/1200", 15) == 0);
        assert_true((width < 27) == !strstr(text, "3:00 left"));
    }
    progress_line(&p, 300, 160, &fields, 80, text, sizeof text);
    assert_string_equal(
        text, "train  300/1200  loss 0.6931  12.3k tok/s  worst Privat\303\244sph\303\244re u 62%  3:00 left");
    ProgressFields none = { NAN, NAN, NULL, NAN, NULL };
    progress_line(&p, 1200, 3800, &none, 80, text, sizeof text);
    assert_string_equal(text, "train 1200/1200 [########################################]  in 1:01:40");
    assert_int_equal(progress_line(&p, 0, 100, NULL, 80, text, 10), 9); /* cut, not overrun */
}

static void time_left_counts_from_the_resumed_step(void **state)
{
    (void)state;
    Progress p = { .title = "train", .first = 100, .total = 200, .began = 0 };
    char text[512];
    progress_line(&p, 110, 10, NULL, 0, text, sizeof text);
    assert_string_equal(text, "train 110/200  1:30 left");
}

static void plain_lines_are_few(void **state)
{
    (void)state;
    Capture c;
    Log log = capture(&c, 0);
    Progress p;
    progress_begin(&p, &log, PROGRESS_AUTO, "reference", 0, 1000);            /* no terminal: plain */
    for (int done = 1; done <= 1000; done++) progress_update(&p, done, NULL); /* takes far less than a second */
    progress_end(&p);
    fflush(c.file);
    int lines = 0;
    for (const char *t = c.text; *t; t++) lines += *t == '\n';
    assert_int_equal(lines, 2); /* the first and the last */
    release(&c);

    log = capture(&c, 0);
    progress_begin(&p, &log, PROGRESS_PLAIN, "reference", 0, 100);
    progress_update(&p, 1, NULL);
    p.last -= 2;                  /* two seconds later */
    progress_update(&p, 5, NULL); /* less than a twentieth */
    progress_update(&p, 6, NULL);
    p.last -= 61;
    progress_update(&p, 7, NULL); /* a minute is long enough by itself */
    progress_update(&p, 7, NULL);
    fflush(c.file);
    assert_non_null(strstr(c.text, "  1/100"));
    assert_null(strstr(c.text, "  5/100"));
    assert_non_null(strstr(c.text, "  6/100"));
    assert_non_null(strstr(c.text, "  7/100"));
    release(&c);
}

static void message_wipes_the_bar(void **state)
{
    (void)state;
    Capture c;
    Log log = capture(&c, 0);
    Progress p;
    progress_begin(&p, &log, PROGRESS_BAR, "train", 0, 1);
    progress_update(&p, 0, NULL);
    assert_true(log.shown > 0);
    log_info(&log, "note");
    assert_int_equal(log.shown, 0);
    fflush(c.file);
    const char *wiped = strrchr(c.text, '\r');
    assert_string_equal(wiped, "\rnote\n");
    progress_update(&p, 1, NULL);
    progress_end(&p);
    fflush(c.file);
    assert_int_equal(c.text[strlen(c.text) - 1], '\n');
    release(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_root_prints),
        cmocka_unit_test(line_fits_every_width),
        cmocka_unit_test(time_left_counts_from_the_resumed_step),
        cmocka_unit_test(plain_lines_are_few),
        cmocka_unit_test(message_wipes_the_bar),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
