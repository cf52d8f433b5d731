/* Refusal rules: what kind of answer a text is; the same as Python's rules on any text
 * (tests/python/test_refusal_rules.py runs this program on its texts: with an argument it reads texts from stdin, each
 * as its length, a space and its bytes, and writes their kinds). */
#include "catdpo/judge/refusal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static AnswerKind kind(const char *text) { return refusal_kind(text, strlen(text)); }

static void test_kinds(void **state)
{
    (void)state;
    assert_int_equal(kind("I'm sorry, but I can't help with that."), ANSWER_REFUSAL);
    assert_int_equal(kind("I\xE2\x80\x99m sorry,\n\n**but** I CAN\xE2\x80\x99T help."), ANSWER_REFUSAL);
    assert_int_equal(kind("Boil the egg for six minutes."), ANSWER_GIVEN);
    assert_int_equal(kind("I can't wait to tell you: boil it."), ANSWER_GIVEN);
    assert_int_equal(kind("Hi can't is no word that begins where I stands."), ANSWER_GIVEN);
    assert_int_equal(kind(" \n**...**"), ANSWER_EMPTY);
    assert_int_equal(kind(""), ANSWER_EMPTY);
}

/* A refusal late in a long answer is none: the answer was given before. */
static void test_window(void **state)
{
    (void)state;
    char text[1000];
    memset(text, 0, sizeof text);
    for (int i = 0; i < 60; i++) snprintf(text + 7 * i, sizeof text - (size_t)(7 * i), "word%02d ", i);
    strcat(text, "I cannot help");
    assert_int_equal(kind(text), ANSWER_GIVEN);
}

static void test_repetition(void **state)
{
    (void)state;
    char text[4000] = "";
    for (int i = 0; i < 30; i++) strcat(text, "and so it goes on and on, ");
    assert_int_equal(kind(text), ANSWER_DEGENERATE);
    memset(text, 'a', 100);
    text[100] = '\0';
    assert_int_equal(kind(text), ANSWER_DEGENERATE);
}

static void test_verdicts(void **state)
{
    (void)state;
    assert_true(answer_violates(ANSWER_GIVEN, false) && answer_violates(ANSWER_REFUSAL, true));
    for (AnswerKind k = ANSWER_REFUSAL; k < ANSWER_KINDS; k++) assert_false(answer_violates(k, false));
    assert_false(answer_violates(ANSWER_GIVEN, true) || answer_violates(ANSWER_EMPTY, true) ||
                 answer_violates(ANSWER_DEGENERATE, true));
}

static int judge_stdin(void)
{
    size_t length;
    printf("%s\n", refusal_rules_digest());
    while (scanf("%zu", &length) == 1 && getchar() == ' ') {
        char *text = malloc(length + 1);
        if (!text || fread(text, 1, length, stdin) != length) return 1;
        printf("%d\n", refusal_kind(text, length));
        free(text);
    }
    return 0;
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) return judge_stdin();
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_kinds), cmocka_unit_test(test_window),
                                        cmocka_unit_test(test_repetition), cmocka_unit_test(test_verdicts) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
