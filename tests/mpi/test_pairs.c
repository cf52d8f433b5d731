/* Promises: pairs.h5 arrives complete on every rank, once a node; a file that breaks any rule of the format is refused
 * with one message that names file, dataset, index and remedy, the same on all ranks. */
#include "../common/sample_files.h"
#include "scratch.h"

enum { N = 4, K = 3, VOCABULARY = 100 };

/* What test_refused changes, one thing at a time. */
typedef struct Content {
    int64_t pairs, vocab_size, chosen_offsets[N + 1], rejected_offsets[N + 1];
    int32_t chosen_tokens[14], rejected_tokens[12], chosen_prompt[N], rejected_prompt[N];
    uint8_t mask[N * K], chosen_safe[N], rejected_safe[N], harm[K];
    int8_t better[N];
    char names[K][CATEGORY_NAME];
} Content;

static const Content good = {
    .pairs = N,
    .vocab_size = VOCABULARY,
    .chosen_offsets = { 0, 3, 7, 9, 14 },
    .rejected_offsets = { 0, 2, 4, 9, 12 },
    .chosen_tokens = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 99 },
    .rejected_tokens = { 99, 98, 97, 96, 5, 4, 3, 2, 1, 0, 7, 7 },
    .chosen_prompt = { 1, 3, 1, 2 },
    .rejected_prompt = { 1, 1, 3, 2 },
    .mask = { 1, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 1 },
    .chosen_safe = { 1, 1, 0, 255 },
    .rejected_safe = { 0, 1, 0, 0 },
    .harm = { 1, 0, 0 },
    .better = { 1, 0, -1, 1 },
    .names = { "violence", "privacy", "benign" },
};

/* The values of a Content where a table of the format looks for them. */
static Pairs pairs_of(const Content *c)
{
    Pairs p = { .count = c->pairs,
                .vocab_size = c->vocab_size,
                .max_length = 512,
                .data_digest = "d1",
                .tokenizer_digest = "d2",
                .template_digest = "d3",
                .settings = (char *)"{\"a\": 1}" };
    Content *v = (Content *)c; /* only read */
    p.category_name = v->names;
    p.category_harm = v->harm;
    p.side[PAIR_CHOSEN] = (PairSide){ v->chosen_offsets, 14, v->chosen_tokens, v->chosen_prompt };
    p.side[PAIR_REJECTED] = (PairSide){ v->rejected_offsets, 12, v->rejected_tokens, v->rejected_prompt };
    p.category_mask = v->mask;
    p.chosen_safe = v->chosen_safe;
    p.rejected_safe = v->rejected_safe;
    p.chosen_better = v->better;
    return p;
}

static void write_pairs(const char *path, const Content *c)
{
    Error err = { 0 };
    H5File file;
    int64_t start[1] = { 0 };
    const Pairs train = pairs_of(c), none = { .side = { { .offsets = start }, { .offsets = start } } };
    const PairsShape shape = { N, K, { 14, 12 }, false }, empty = { 0, K, { 0, 0 }, false };
    CHECK(h5_create(&file, path, NULL, MPI_COMM_WORLD, &err) &&
          h5_write_format(&file, pairs_format.name, pairs_format.version, &err));
    CHECK(sample_pairs(&file, "train", true, &train, &shape, &err) &&
          sample_pairs(&file, "heldout", false, &none, &empty, &err) && h5_commit(&file, &err));
}

static void test_load(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "pairs.h5");
    Error err = { 0 };
    Pairs p;
    write_pairs(path, &good);
    CHECK(pairs_load(&p, path, "train", MPI_COMM_WORLD, &err));
    CHECK(p.count == N && p.category_count == K && p.vocab_size == VOCABULARY && p.max_length == 512 && p.longest == 5);
    CHECK(strcmp(p.data_digest, "d1") == 0 && strcmp(p.tokenizer_digest, "d2") == 0 &&
          strcmp(p.template_digest, "d3") == 0);
    CHECK(strcmp(p.settings, "{\"a\": 1}") == 0 && strcmp(p.category_name[2], "benign") == 0 &&
          p.category_harm[0] == 1);
    CHECK(pairs_length(&p, PAIR_CHOSEN, 1) == 4 && pairs_prompt(&p, PAIR_CHOSEN, 1) == 3 &&
          pairs_completion(&p, PAIR_CHOSEN, 1) == 1);
    CHECK(pairs_tokens(&p, PAIR_CHOSEN, 3)[4] == 99 && pairs_tokens(&p, PAIR_REJECTED, 2)[0] == 5);
    CHECK(memcmp(p.category_mask, good.mask, sizeof good.mask) == 0 && pairs_categories(&p, 2)[2] == 1);
    CHECK(memcmp(p.margin_applies, (uint8_t[]){ 1, 0, 0, 0 }, N) == 0 && memcmp(p.chosen_better, good.better, N) == 0);
    CHECK(memcmp(p.chosen_safe, good.chosen_safe, N) == 0 && memcmp(p.rejected_safe, good.rejected_safe, N) == 0);

    int node_size, ours = 0; /* one copy: what the writer puts there is seen by the others */
    CHECK_MPI(MPI_Comm_size(p.node, &node_size));
    if (pairs_is_writer(&p)) p.side[0].tokens[0] = 42, ours = 1;
    pairs_publish(&p);
    CHECK(p.side[0].tokens[0] == 42);
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &ours, 1, MPI_INT, MPI_SUM, p.node));
    CHECK(ours == 1 && node_size >= 1);
    pairs_free(&p);
    pairs_free(&p);

    CHECK(pairs_load(&p, path, "heldout", MPI_COMM_WORLD, &err) && p.count == 0 && p.longest == 0);
    pairs_free(&p);
    CHECK(H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
}

#define REMEDY "; prepare it again with catdpo-analysis prepare"

static void check_refused(const char *path, const char *group, const char *words, const char *remedy)
{
    Error err = { 0 };
    Pairs p;
    bool ok = pairs_load(&p, path, group, MPI_COMM_WORLD, &err);
    if (world_rank() == 0 && getenv("VERBOSE")) printf("%s\n", err.message);
    if (ok || !strstr(err.message, words)) fatal(__FILE__, __LINE__, "expected \"%s\", got \"%s\"", words, err.message);
    CHECK(err.exit_status == EXIT_USAGE && strstr(err.message, path) && (!remedy || strstr(err.message, remedy)));
    Error first = err;
    CHECK_MPI(MPI_Bcast(&first, sizeof first, MPI_BYTE, 0, MPI_COMM_WORLD));
    CHECK(strcmp(first.message, err.message) == 0);
    CHECK(p.count == 0 && H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
    pairs_free(&p);
}

#define REFUSED(change, words)                                                                                         \
    do {                                                                                                               \
        Content c = good;                                                                                              \
        change;                                                                                                        \
        write_pairs(path, &c);                                                                                         \
        check_refused(path, "train", words, REMEDY);                                                                   \
    } while (0)

static void test_refused(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "bad.h5");
    REFUSED(c.pairs = 5, "/train/chosen/offsets has the shape [5]; [6] is needed");
    REFUSED(c.pairs = -1, "attribute \"pairs\" of /train is -1");
    REFUSED(c.pairs = INT64_MAX, "must be in [0,");
    REFUSED(c.pairs = INT64_MAX / 16, "is needed");
    REFUSED(c.vocab_size = 0, "attribute \"vocab_size\" of / is 0");
    REFUSED(c.vocab_size = 99,
            "/train/chosen/tokens: entry 13 is 99, outside the vocabulary of 99 tokens; prepare it again");
    REFUSED(c.rejected_tokens[4] = -1, "/train/rejected/tokens: entry 4 is -1");
    REFUSED(c.chosen_offsets[0] = 1, "/train/chosen/offsets: goes from 1 to 14");
    REFUSED(c.chosen_offsets[4] = 13, "goes from 0 to 13, but there are 14 tokens");
    REFUSED(c.chosen_offsets[2] = 2, "/train/chosen/offsets: entry 2 is 2, outside [3, 14]; prepare it again");
    REFUSED(c.chosen_offsets[1] = -5, "/train/chosen/offsets: entry 1 is -5");
    REFUSED(c.rejected_offsets[2] = INT64_MAX, "/train/rejected/offsets: entry 2 is 9223372036854775807");
    REFUSED(c.rejected_offsets[1] = 1, "sequence 0 has 1 tokens; prompt and completion need one each");
    REFUSED(c.chosen_prompt[2] = 0, "/train/chosen/prompt_length: entry 2 is 0, outside [1, 1]");
    REFUSED(c.rejected_prompt[3] = 3, "/train/rejected/prompt_length: entry 3 is 3, outside [1, 2]");
    REFUSED(c.mask[4] = 2, "/train/category_mask: entry [1, 1] is 2");
    REFUSED(memset(c.mask + 9, 0, 3), "/train/category_mask: pair 3 has no category");
    REFUSED(c.chosen_safe[1] = 2, "/train/chosen_safe: entry 1 is 2");
    REFUSED(c.rejected_safe[0] = 254, "/train/rejected_safe: entry 0 is 254");
    REFUSED(c.better[3] = -2, "/train/chosen_better: entry 3 is -2");
    REFUSED(c.harm[2] = 9, "harm flag of category 2 is 9");
    REFUSED(strcpy(c.names[1], "violence"), "categories 0 and 1 are both called \"violence\"");
    REFUSED(strcpy(c.names[1], ""), "category 1 has no name");
    REFUSED(strcpy(c.names[1], "a\nb"), "control characters");
    REFUSED(strcpy(c.names[1], "a\033b"), "not UTF-8");
    Content c = good;
    write_pairs(path, &c);
    check_refused(path, "validation", "has no pairs called \"validation\"; there are \"train\" and \"heldout\"", NULL);
    check_refused(scratch_file(scratch, "nothing.h5"), "train", "No such file", NULL);
}

/* Every dataset and attribute missing in turn. */
static void test_missing(Scratch *scratch)
{
    static const char *const objects[] = { "/train",
                                           "/train/chosen/offsets",
                                           "/train/rejected/tokens",
                                           "/train/rejected/prompt_length",
                                           "/train/category_mask",
                                           "/train/chosen_safe",
                                           "/train/rejected_safe",
                                           "/train/chosen_better",
                                           "/categories/name",
                                           "/categories/harm" };
    static const char *const attributes[] = { "format",          "format_version", "data_digest", "tokenizer_digest",
                                              "template_digest", "vocab_size",     "max_length",  "settings" };
    const char *path = scratch_file(scratch, "missing.h5");
    for (size_t i = 0; i < sizeof objects / sizeof objects[0]; i++) {
        Error err = { 0 };
        H5File file;
        write_pairs(path, &good);
        CHECK(h5_modify(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_delete(&file, objects[i], &err) &&
              h5_commit(&file, &err));
        bool all = strcmp(objects[i], "/train") == 0;
        check_refused(path, "train", all ? "has no pairs called" : objects[i], all ? NULL : REMEDY);
    }
    for (size_t i = 0; i < sizeof attributes / sizeof attributes[0]; i++) {
        Error err = { 0 };
        H5File file;
        write_pairs(path, &good);
        CHECK(h5_modify(&file, path, NULL, MPI_COMM_WORLD, &err));
        if (world_rank() == 0) CHECK(H5Adelete(file.meta, attributes[i]) >= 0);
        CHECK(h5_commit(&file, &err));
        check_refused(path, "train", attributes[i], strncmp(attributes[i], "format", 6) == 0 ? NULL : REMEDY);
    }
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    Scratch scratch = scratch_make();
    if (argc > 2) { /* a file from elsewhere: test_pairs FILE GROUP */
        Error err = { 0 };
        Pairs p;
        if (!pairs_load(&p, argv[1], argv[2], MPI_COMM_WORLD, &err)) fatal(__FILE__, __LINE__, "%s", err.message);
        if (world_rank() == 0)
            printf("%lld pairs, %d categories, longest %lld\n", (long long)p.count, p.category_count,
                   (long long)p.longest);
        pairs_free(&p);
    } else {
        test_load(&scratch);
        test_refused(&scratch);
        test_missing(&scratch);
    }
    scratch_remove(&scratch);
    MPI_Finalize();
    return 0;
}
