/* Promises: the prompts of every group of a pairs.h5 arrive complete on every rank; a group that breaks a rule of the
 * format is refused with one message that names file, dataset, index and remedy, the same on all ranks. */
#include "catdpo/files/prompts_file.h"
#include "catdpo/h5/h5.h"
#include "scratch.h"

enum { P = 3, K = 2, TOKENS = 6, BYTES = 5, VOCABULARY = 50 };

/* What test_refused changes, one thing at a time. */
typedef struct Content {
    int64_t prompts, offsets[P + 1], text_offsets[P + 1], source_row[P];
    int32_t tokens[TOKENS], source_file[P];
    uint8_t mask[P * K], benign[P], text[BYTES];
} Content;

static const Content good = {
    .prompts = P,
    .offsets = { 0, 1, 4, 6 },
    .text_offsets = { 0, 0, 2, 5 },
    .source_row = { 4, 7, 9 },
    .tokens = { 49, 0, 1, 2, 3, 4 },
    .source_file = { 0, 0, 1 },
    .mask = { 1, 0, 0, 1, 1, 1 },
    .benign = { 0, 1, 255 },
    .text = { 'a', 'b', 'c', 'd', 'e' },
};

static bool write_group(H5File *file, const char *group, const Content *c, Error *err)
{
    const int64_t rows = P, bounds = P + 1, tokens = TOKENS, bytes = BYTES, mask[2] = { P, K };
    const struct {
        const char *name;
        DataType type;
        int axes;
        const int64_t *dims;
        const void *values;
    } arrays[] = {
        { "offsets", DATA_INT64, 1, &bounds, c->offsets },
        { "tokens", DATA_INT32, 1, &tokens, c->tokens },
        { "category_mask", DATA_UINT8, 2, mask, c->mask },
        { "benign", DATA_UINT8, 1, &rows, c->benign },
        { "source_file", DATA_INT32, 1, &rows, c->source_file },
        { "source_row", DATA_INT64, 1, &rows, c->source_row },
        { "text_offsets", DATA_INT64, 1, &bounds, c->text_offsets },
        { "text", DATA_UINT8, 1, &bytes, c->text },
    };
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof arrays / sizeof *arrays; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s/%s", group, arrays[i].name);
        ok = h5_write_array(file, name, arrays[i].type, arrays[i].axes, arrays[i].dims, arrays[i].values, err);
    }
    return ok && h5_write_int64(file, group, "prompts", c->prompts, err);
}

static void write_file(const char *path, const char *group, const Content *c)
{
    static const char names[K][CATEGORY_NAME] = { "violence", "privacy" };
    static const uint8_t harm[K] = { 1, 0 };
    const int64_t k = K;
    Error err = { 0 };
    H5File file;
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_write_format(&file, "catdpo-pairs", 1, &err));
    CHECK(h5_write_string(&file, "/", "data_digest", "d1", &err) &&
          h5_write_string(&file, "/", "tokenizer_digest", "d2", &err) &&
          h5_write_string(&file, "/", "template_digest", "d3", &err) &&
          h5_write_int64(&file, "/", "vocab_size", VOCABULARY, &err));
    CHECK(h5_write_strings(&file, "/categories/name", K, CATEGORY_NAME, names[0], &err) &&
          h5_write_array(&file, "/categories/harm", DATA_UINT8, 1, &k, harm, &err));
    CHECK(write_group(&file, group, c, &err) && h5_commit(&file, &err));
}

static void test_load(Scratch *scratch)
{
    static const char *const groups[][2] = { { "prompts", "/prompts" },
                                             { "train", "/train/prompts" },
                                             { "heldout", "/heldout/prompts" },
                                             { "probe", "/probe/prompts" } };
    const char *path = scratch_file(scratch, "prompts.h5");
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        Error err = { 0 };
        Prompts p;
        bool there = false;
        write_file(path, groups[i][1], &good);
        CHECK(prompts_exist(path, groups[i][0], &there, MPI_COMM_WORLD, &err) && there);
        CHECK(prompts_load(&p, path, groups[i][0], MPI_COMM_WORLD, &err));
        CHECK(p.count == P && p.category_count == K && p.vocab_size == VOCABULARY && p.longest == 3);
        CHECK(strcmp(p.category_name[1], "privacy") == 0 && p.category_harm[0] == 1);
        CHECK(strcmp(p.data_digest, "d1") == 0 && strcmp(p.tokenizer_digest, "d2") == 0 &&
              strcmp(p.template_digest, "d3") == 0);
        CHECK(prompts_length(&p, 1) == 3 && prompts_tokens(&p, 2)[1] == 4 && prompts_categories(&p, 2)[0] == 1);
        CHECK(memcmp(p.benign, good.benign, P) == 0 && p.source_row[2] == 9 && p.source_file[2] == 1);
        CHECK(p.text_offsets[2] == 2 && memcmp(p.text + 2, "cde", 3) == 0);
        prompts_free(&p);
        prompts_free(&p);
    }
    CHECK(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
}

static void check_refused(const char *path, const char *group, const char *words)
{
    Error err = { 0 };
    Prompts p;
    bool ok = prompts_load(&p, path, group, MPI_COMM_WORLD, &err);
    if (world_rank() == 0 && getenv("VERBOSE")) printf("%s\n", err.message);
    if (ok || !strstr(err.message, words)) fatal(__FILE__, __LINE__, "expected \"%s\", got \"%s\"", words, err.message);
    CHECK(err.exit_status == EXIT_USAGE && strstr(err.message, path) && p.count == 0 && !p.tokens);
    Error first = err;
    CHECK_MPI(MPI_Bcast(&first, sizeof first, MPI_BYTE, 0, MPI_COMM_WORLD));
    CHECK(strcmp(first.message, err.message) == 0 && H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
}

#define REFUSED(change, words)                                                                                         \
    do {                                                                                                               \
        Content c = good;                                                                                              \
        change;                                                                                                        \
        write_file(path, "/prompts", &c);                                                                              \
        check_refused(path, "prompts", words);                                                                         \
    } while (0)

static void test_refused(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "bad.h5");
    REFUSED(c.prompts = 2, "/prompts: its arrays are not of 2 prompts; prepare it again");
    REFUSED(c.prompts = -1, "attribute \"prompts\" of /prompts is -1");
    REFUSED(c.offsets[0] = 1, "/prompts/offsets: goes from 1 to 6 of 6; prepare it again");
    REFUSED(c.offsets[3] = 5, "/prompts/offsets: goes from 0 to 5 of 6");
    REFUSED(c.offsets[2] = 1, "/prompts/offsets: entry 2 is 1, after 1 of 6");
    REFUSED(c.offsets[1] = -4, "/prompts/offsets: entry 1 is -4");
    REFUSED(c.offsets[1] = INT64_MAX, "/prompts/offsets: entry 1 is 9223372036854775807");
    REFUSED(c.text_offsets[1] = 3, "/prompts/text_offsets: entry 2 is 2, after 3 of 5");
    REFUSED(c.tokens[0] = VOCABULARY, "/prompts/tokens: entry 0 is 50, outside the vocabulary of 50 tokens");
    REFUSED(c.tokens[5] = -1, "/prompts/tokens: entry 5 is -1");
    REFUSED(c.mask[0] = 0, "/prompts/category_mask: prompt 0 has no category");
    REFUSED(c.mask[3] = 2, "entry 3 of /prompts/category_mask is 2");
    REFUSED(c.benign[2] = 2, "/prompts/benign: entry 2 is 2, not 0, 1 or 255");
    REFUSED(c.source_row[1] = -1, "entry 1 of /prompts/source_row is -1");
    REFUSED(c.text[3] = 0, "/prompts/text: byte 3 is NUL");
    write_file(path, "/prompts", &good);
    check_refused(path, "validation", "has no prompts called \"validation\"; there may be \"prompts\"");
    check_refused(path, "probe", "has no /probe/prompts");
    check_refused(scratch_file(scratch, "nothing.h5"), "train", "No such file");
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    Scratch scratch = scratch_make();
    test_load(&scratch);
    test_refused(&scratch);
    scratch_remove(&scratch);
    MPI_Finalize();
    return 0;
}
