/* Promises: the prompts of every group of a pairs.h5 arrive complete on every rank; a group that breaks a rule of the
 * format is refused with one message that names file, dataset, index and remedy, the same on all ranks. */
#include "../common/sample_files.h"
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

/* `group` as a path. */
static void write_file(const char *path, const char *group, const Content *c)
{
    char names[K][CATEGORY_NAME] = { "violence", "privacy" };
    uint8_t harm[K] = { 1, 0 };
    Content *v = (Content *)c; /* only read */
    const SampleShape shape = { K, P, TOKENS, BYTES };
    const Prompts prompts = { .count = c->prompts,
                              .vocab_size = VOCABULARY,
                              .data_digest = "d1",
                              .tokenizer_digest = "d2",
                              .template_digest = "d3",
                              .category_name = names,
                              .category_harm = harm,
                              .offsets = v->offsets,
                              .tokens = v->tokens,
                              .category_mask = v->mask,
                              .benign = v->benign,
                              .source_file = v->source_file,
                              .source_row = v->source_row,
                              .text_offsets = v->text_offsets,
                              .text = v->text };
    Error err = { 0 };
    H5File file;
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) &&
          h5_write_format(&file, prompts_format.name, prompts_format.version, &err) &&
          sample_prompts(&file, group + 1, true, &prompts, &shape, &err) && h5_commit(&file, &err));
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
