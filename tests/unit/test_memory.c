/* Promise: views of an arena are aligned, apart from each other and zero; measuring and carving agree; too little
 * memory is an error with words; the table adds up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/core/memory.h"

typedef struct Views {
    float *weights;  /* [7] */
    double *moments; /* [100] */
    char *bytes;     /* [1] */
    float *none;     /* [0] */
    float *last;     /* [16] */
} Views;

static void carve(Arena *arena, Views *v)
{
    v->weights = arena_floats(arena, 7);
    v->moments = arena_take(arena, 100, sizeof(double));
    v->bytes = arena_take(arena, 1, 1);
    v->none = arena_floats(arena, 0);
    v->last = arena_floats(arena, 16);
}

static void measured_size_is_enough_and_views_are_apart(void **state)
{
    (void)state;
    Error err = { 0 };
    Views v;
    Arena measure = { 0 };
    carve(&measure, &v);
    assert_null(v.weights);
    assert_int_equal(measure.used, 64 + 832 + 64 + 0 + 64);

    char *memory = memory_allocate(measure.used, "weights", &err);
    assert_non_null(memory);
    Arena arena = { memory, 0 };
    carve(&arena, &v);
    assert_int_equal(arena.used, measure.used);
    assert_int_equal((uintptr_t)v.weights % MEMORY_ALIGNMENT, 0);
    assert_int_equal((uintptr_t)v.moments % MEMORY_ALIGNMENT, 0);
    assert_int_equal((uintptr_t)v.last % MEMORY_ALIGNMENT, 0);
    assert_true((char *)(v.weights + 7) <= (char *)v.moments && (char *)(v.moments + 100) <= v.bytes);
    assert_true(v.bytes + 1 <= (char *)v.last && (char *)(v.last + 16) <= memory + measure.used);
    memory_free(memory);
}

static void memory_is_zero_to_its_end(void **state)
{
    (void)state;
    Error err = { 0 };
    const int64_t sizes[] = { 0, 1, 4096, (9 << 20) + 3 };
    for (int s = 0; s < 4; s++) {
        char *memory = memory_allocate(sizes[s], "activations", &err);
        assert_non_null(memory);
        int64_t others = 0;
        for (int64_t k = 0; k < sizes[s]; k++) others += memory[k] != 0;
        assert_int_equal(others, 0);
        memory_free(memory);
    }
    memory_free(NULL);
}

static void too_much_is_an_error_with_words(void **state)
{
    (void)state;
    const int64_t sizes[] = { INT64_MAX, INT64_MAX / 4, INT64_C(1) << 47 };
    for (int k = 0; k < 3; k++) {
        Error err = { 0 };
        assert_null(memory_allocate(sizes[k], "gradients (use more ranks)", &err));
        assert_int_equal(err.exit_status, EXIT_FAULT);
        assert_non_null(strstr(err.message, "no memory left for "));
        assert_non_null(strstr(err.message, " of gradients (use more ranks)"));
    }
}

static void table_reads_well(void **state)
{
    (void)state;
    MemoryTable table = { 0 };
    char line[128], text[16];
    assert_string_equal(memory_line(&table, line, sizeof line), "");
    memory_note(&table, "weights", 512999999);
    assert_string_equal(memory_line(&table, line, sizeof line), "weights 513 MB");
    memory_note(&table, "gradients", 500000000);
    memory_note(&table, "nothing", 0);
    memory_note(&table, "gradients", 12999999);
    assert_string_equal(memory_line(&table, line, sizeof line), "weights 513 MB + gradients 513 MB = 1.03 GB");
    char tight[12];
    assert_string_equal(memory_line(&table, tight, sizeof tight), "weights 513"); /* cut, not overrun */
    assert_string_equal(memory_text(0, text), "0 B");
    assert_string_equal(memory_text(999, text), "999 B");
    assert_string_equal(memory_text(999.6, text), "1.00 kB");
    assert_string_equal(memory_text(12345, text), "12.3 kB");
    assert_string_equal(memory_text(999600, text), "1.00 MB");
}

static void peak_is_known(void **state)
{
    (void)state;
    assert_true(memory_peak() > 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measured_size_is_enough_and_views_are_apart),
        cmocka_unit_test(memory_is_zero_to_its_end),
        cmocka_unit_test(too_much_is_an_error_with_words),
        cmocka_unit_test(table_reads_well),
        cmocka_unit_test(peak_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
