/* Promises: checksum and digest are those of the file format (values from an independent implementation), and the sum
 * over any partition of a tensor is that of the whole. */
#include "catdpo/h5/checksum.h"

#include <string.h>

static void test_known_values(void)
{
    const float floats[6] = { 0.0f, 1.0f, -2.5f, 3e38f, -0.0f, 1e-40f };
    const double doubles[2] = { 1.0, -3.25 };
    uint32_t zero = 0, words[1000];
    for (uint32_t i = 0; i < 1000; i++) words[i] = i;
    CHECK(checksum_words(NULL, 0, 0, 1) == 0);
    CHECK(checksum_words(&zero, 1, 0, 1) == 0xe220a8397b1dcdafu);
    CHECK(checksum_words(floats, 6, 0, 1) == 0xc8a0c58459c5cf40u);
    CHECK(checksum_words(words, 1000, 0, 1) == 0x37d1510aabcd7961u);
    CHECK(checksum_words(doubles, 4, 0, 1) == 0x555dbf920cdff1a2u);
}

static void test_digest(void)
{
    const char *const names[4] = { "model.norm.weight", "lm_head.weight", "model.layers.10.mlp.up_proj.weight",
                                   "model.layers.2.mlp.up_proj.weight" };
    const uint64_t sums[4] = { 0x1234, UINT64_MAX, 0, 7 };
    char digest[WEIGHTS_DIGEST];
    weights_digest(0, NULL, NULL, digest);
    CHECK(strcmp(digest, "cbf29ce484222325") == 0);
    weights_digest(4, names, sums, digest);
    CHECK(strcmp(digest, "6992ec72b71cd51c") == 0);
    const char *const other[4] = { names[3], names[2], names[1], names[0] };
    const uint64_t same[4] = { 7, 0, UINT64_MAX, 0x1234 };
    weights_digest(4, other, same, digest);
    CHECK(strcmp(digest, "6992ec72b71cd51c") == 0);
}

/* A 13 x 10 tensor of doubles, block-cyclic over 3 x 2 processes, column-major on each. */
static void test_partition(void)
{
    enum { ROWS = 13, COLUMNS = 10 };
    double whole[ROWS * COLUMNS], local[ROWS * COLUMNS];
    uint64_t sum = 0;
    for (int i = 0; i < ROWS * COLUMNS; i++) whole[i] = 1.0 / (i + 3);
    for (int p = 0; p < 3; p++)
        for (int q = 0; q < 2; q++) {
            Axis row = axis_make(ROWS, 2, 3, p), column = axis_make(COLUMNS, 3, 2, q);
            Slab slab = slab_matrix(&row, &column, row.local);
            for (int j = 0; j < column.local; j++)
                for (int i = 0; i < row.local; i++)
                    local[i + j * row.local] = whole[axis_global(&row, i) * COLUMNS + axis_global(&column, j)];
            sum += checksum_slab(&slab, DATA_FLOAT64, local);
        }
    CHECK(sum == checksum_words(whole, 2 * ROWS * COLUMNS, 0, 1));
    whole[77] = -whole[77];
    CHECK(sum != checksum_words(whole, 2 * ROWS * COLUMNS, 0, 1));
    Slab none = slab_none();
    CHECK(checksum_slab(&none, DATA_FLOAT32, NULL) == 0);
}

int main(void)
{
    test_known_values();
    test_digest();
    test_partition();
    return 0;
}
