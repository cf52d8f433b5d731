/* Promises: every byte of an Architecture belongs to one attribute of the list that files are read and models are
 * compared by; two models that differ in any attribute that enters the computation are told apart, with its name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/model/architecture.h"

static const Architecture some = { .name = "llama",
                                   .hidden = 8,
                                   .mlp = 8,
                                   .vocab = 8,
                                   .layers = 2,
                                   .heads = 2,
                                   .groups = 1,
                                   .head_dim = 4,
                                   .max_positions = 8,
                                   .norm_epsilon = 1e-5,
                                   .rope = { .theta = 1e4, .factor = 1 } };

/* Another value than the one that is there, and a valid one. */
static void change(const Field *f, Architecture *a)
{
    char *value = (char *)a + f->offset;
    switch (f->kind) {
    case FIELD_TEXT: strcpy(value, strcmp(value, "llama") == 0 ? "mistral" : "sf"); break;
    case FIELD_COUNT: *(int *)value += 1; break;
    case FIELD_FLAG: *(bool *)value = !*(bool *)value; break;
    case FIELD_NUMBER: *(double *)value += 1e-7; break;
    case FIELD_CHOICE: *(int *)value += 1; break;
    default: fail_msg("a kind that an Architecture does not have");
    }
}

static void no_field_is_outside_of_the_list(void **state)
{
    (void)state;
    unsigned char owners[sizeof(Architecture)] = { 0 };
    size_t end = 0;
    for (const Field *f = architecture_fields; f->kind != FIELD_END; f++) {
        for (size_t j = 0; j < f->size; j++) owners[f->offset + j]++;
        end = f->offset + f->size > end ? f->offset + f->size : end;
    }
    for (size_t j = 0; j < end; j++)
        if (owners[j] != 1) fail_msg("byte %zu of Architecture belongs to %d attributes", j, owners[j]);
    assert_true(sizeof(Architecture) - end < _Alignof(Architecture)); /* padding */
}

static void a_difference_in_any_attribute_is_named(void **state)
{
    (void)state;
    for (const Field *f = architecture_fields; f->kind != FIELD_END; f++) {
        Architecture other = some;
        char difference[192] = "";
        bool may_differ =
            strcmp(f->attribute, "architecture") == 0 || strcmp(f->attribute, "max_position_embeddings") == 0;
        change(f, &other);
        assert_int_equal(architecture_same(&some, &other, difference, sizeof difference), may_differ);
        if (!may_differ) assert_ptr_equal(strstr(difference, f->attribute), difference);
    }
    assert_true(architecture_same(&some, &some, NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_field_is_outside_of_the_list),
        cmocka_unit_test(a_difference_in_any_attribute_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
