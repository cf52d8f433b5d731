/* pairs.h5 into memory: one rank of each node reads, the ranks beside it look on. */
#include "catdpo/files/pairs_file.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the format -------------------------------------------------------------------------------------------------- */

static const FieldAxis axes[PAIRS_AXES] = {
    [PAIRS_CATEGORY] = { .label = "category", .scale = "/categories/name", .least = 1, .most = CATEGORIES_MAX },
    [PAIRS_PAIR] = { .label = "pair", .most = INT64_MAX },
    [PAIRS_SIDE] = { .label = "side", .least = PAIR_SIDES, .most = PAIR_SIDES },
    [PAIRS_SEGMENT] = { .label = "segment", .least = SEGMENTS, .most = SEGMENTS },
    [PAIRS_SCORE] = { .label = "objective", .scale = "/scores/name", .least = 1, .most = SCORES_MAX },
    [PAIRS_BOUND] = { .least = 1, .most = INT64_MAX },
    [PAIRS_CHOSEN] = { .most = INT64_MAX },
    [PAIRS_REJECTED] = { .most = INT64_MAX },
};

#define MEMBER(member) .offset = offsetof(Pairs, member)
#define DIGEST(name)                                                                                                   \
    {                                                                                                                  \
        "/", #name, FIELD_TEXT, MEMBER(name), .size = PAIRS_DIGEST                                                     \
    }
#define ARRAY(name, data, along, member, unit_, text)                                                                  \
    {                                                                                                                  \
        name, NULL, FIELD_ARRAY, MEMBER(member), .type = data, .axes = 1, .axis = { along }, .units = unit_,           \
                                                 .description = text, .tag = PAIRS_ARRAYS                              \
    }
#define TABLE(name, data, across, member, tag_, unit_, text, ...)                                                      \
    {                                                                                                                  \
        name, NULL, FIELD_ARRAY, MEMBER(member), .type = data, .axes = 2, .axis = { PAIRS_PAIR, across },              \
                                                 .units = unit_, .description = text, .tag = tag_, __VA_ARGS__         \
    }
#define SEQUENCES(name, side, along)                                                                                   \
    ARRAY("@/" name "/offsets", DATA_INT64, PAIRS_BOUND, side.offsets, "tokens",                                       \
          "where each one's tokens start; the last entry is the total"),                                               \
        ARRAY("@/" name "/tokens", DATA_INT32, along, side.tokens, "1",                                                \
              "token ids of prompt + completion of all pairs, one after another"),                                     \
        ARRAY("@/" name "/prompt_length", DATA_INT32, PAIRS_PAIR, side.prompt_length, "tokens",                        \
              "tokens before the completion")

/* pairs_check has the bounds of the arrays, and says which pair is outside of them. */
static const Field fields[] = {
    { "@", "pairs", FIELD_INT, MEMBER(count), .most = (double)(INT64_MAX / 16) },
    { "/", "vocab_size", FIELD_INT, MEMBER(vocab_size), .least = 1, .most = INT32_MAX },
    { "/", "max_length", FIELD_INT, MEMBER(max_length), .most = INT32_MAX },
    DIGEST(data_digest),
    DIGEST(tokenizer_digest),
    DIGEST(template_digest),
    { "/", "settings", FIELD_STRING, MEMBER(settings), .size = 1 << 20 },

    { "/categories/name", NULL, FIELD_NAMES, MEMBER(category_name), .size = CATEGORY_NAME, .axes = 1,
      .axis = { PAIRS_CATEGORY }, .tag = PAIRS_ARRAYS },
    ARRAY("/categories/harm", DATA_UINT8, PAIRS_CATEGORY, category_harm, "1",
          "1 if a pair with a safe chosen and an unsafe rejected response has the category"),
    SEQUENCES("chosen", side[PAIR_CHOSEN], PAIRS_CHOSEN),
    SEQUENCES("rejected", side[PAIR_REJECTED], PAIRS_REJECTED),
    TABLE("@/category_mask", DATA_UINT8, PAIRS_CATEGORY, category_mask, PAIRS_ARRAYS, "1",
          "1 where the pair has the category", ),
    ARRAY("@/chosen_safe", DATA_UINT8, PAIRS_PAIR, chosen_safe, "1", "1 safe, 0 unsafe, 255 unknown"),
    ARRAY("@/rejected_safe", DATA_UINT8, PAIRS_PAIR, rejected_safe, "1", "1 safe, 0 unsafe, 255 unknown"),
    ARRAY("@/chosen_better", DATA_INT8, PAIRS_PAIR, chosen_better, "1",
          "helpfulness: 1 chosen is better, 0 rejected, -1 unknown"),
    TABLE("@/segment_end", DATA_INT32, PAIRS_SIDE, segment_end, PAIRS_SEGMENTED, "tokens",
          "tokens of the reasoning in the chosen and the rejected completion", ),
    TABLE("@/segment_weight", DATA_FLOAT64, PAIRS_SEGMENT, segment_weight, PAIRS_SEGMENTED, "1",
          "weights of reasoning and answer in the loss", .least = -2, .most = 2),
    { "/scores/name", NULL, FIELD_NAMES, MEMBER(score_name), .size = SCORE_NAME, .axes = 1, .axis = { PAIRS_SCORE },
      .tag = PAIRS_SCORED },
    TABLE("@/score_chosen", DATA_FLOAT64, PAIRS_SCORE, score[PAIR_CHOSEN], PAIRS_SCORED, "1",
          "scores of the chosen response, larger is better", ),
    TABLE("@/score_rejected", DATA_FLOAT64, PAIRS_SCORE, score[PAIR_REJECTED], PAIRS_SCORED, "1",
          "scores of the rejected response", ),
    TABLE("@/score_weight", DATA_FLOAT64, PAIRS_SCORE, score_weight, PAIRS_SCORED, "1", "weights of the objectives",
          .most = 1),
    { .kind = FIELD_END },
};

const Format pairs_format = {
    PAIRS_FORMAT, 1, fields, axes, PAIRS_AXES, "prepare it again with catdpo-analysis prepare"
};

void pairs_lengths(const PairsShape *shape, int64_t lengths[PAIRS_AXES])
{
    lengths[PAIRS_CATEGORY] = shape->category_count;
    lengths[PAIRS_PAIR] = shape->count;
    lengths[PAIRS_SIDE] = PAIR_SIDES;
    lengths[PAIRS_SEGMENT] = SEGMENTS;
    lengths[PAIRS_SCORE] = shape->score_count;
    lengths[PAIRS_BOUND] = shape->count + 1;
    lengths[PAIRS_CHOSEN] = shape->tokens[PAIR_CHOSEN];
    lengths[PAIRS_REJECTED] = shape->tokens[PAIR_REJECTED];
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* What has to be known before there is memory for the arrays. */
typedef struct Sizes {
    Pairs head; /* its attributes */
    PairsShape shape;
    int64_t lengths[PAIRS_AXES], settings_bytes;
} Sizes;

static bool find_group(H5File *file, const char *group, Error *err)
{
    char name[256];
    bool exists = false;
    snprintf(name, sizeof name, "/%.200s", group);
    return h5_exists(file, name, &exists, err) &&
           (exists || error_usage(err,
                                  "%s: has no pairs called \"%.200s\"; there are \"train\" and \"heldout\", and "
                                  "\"probe\" where it was prepared with --probe",
                                  file->path, group));
}

/* The rows of the arrays that this file has. */
static void table_of(GroupFormat *table, const char *group, bool segments, bool scores)
{
    format_of_group(table, &pairs_format, group,
                    1u << PAIRS_ARRAYS | (segments ? 1u << PAIRS_SEGMENTED : 0) | (scores ? 1u << PAIRS_SCORED : 0));
}

static bool has_array(H5File *file, const GroupFormat *table, const char *name, bool *there, Error *err)
{
    char path[FORMAT_OBJECT + 32];
    snprintf(path, sizeof path, "%s/%s", table->group, name);
    return h5_exists(file, path, there, err);
}

static bool read_sizes(H5File *file, const char *group, Sizes *sizes, char **settings, Error *err)
{
    GroupFormat table;
    bool scored = false;
    PairsShape *shape = &sizes->shape;
    format_of_group(&table, &pairs_format, group, 1u << PAIRS_HEAD);
    if (!fields_read(file, &table.format, &sizes->head, NULL, err)) return false;
    *settings = sizes->head.settings;
    sizes->head.settings = NULL;
    sizes->settings_bytes = (int64_t)strlen(*settings) + 1;
    shape->count = sizes->head.count;
    if (!has_array(file, &table, "segment_end", &shape->has_segments, err) ||
        !has_array(file, &table, "score_chosen", &scored, err))
        return false;
    shape->score_count = scored ? -1 : 0;
    shape->category_count = shape->tokens[PAIR_CHOSEN] = shape->tokens[PAIR_REJECTED] = -1; /* not known yet */
    pairs_lengths(shape, sizes->lengths);
    table_of(&table, group, shape->has_segments, scored);
    if (!fields_measure(file, &table.format, sizes->lengths, err)) return false;
    shape->category_count = (int)sizes->lengths[PAIRS_CATEGORY];
    shape->score_count = (int)sizes->lengths[PAIRS_SCORE];
    shape->tokens[PAIR_CHOSEN] = sizes->lengths[PAIRS_CHOSEN];
    shape->tokens[PAIR_REJECTED] = sizes->lengths[PAIRS_REJECTED];
    return true;
}

static bool read_arrays(H5File *file, const char *group, Pairs *pairs, const int64_t lengths[], Error *err)
{
    GroupFormat table;
    table_of(&table, group, pairs->has_segments, pairs->score_count > 0);
    return fields_read(file, &table.format, pairs, lengths, err);
}

/* The readers' verdict and what they found, to the ranks beside them; and all readers must have found the same. */
static bool share_sizes(Sizes *sizes, char **settings, bool reader, MPI_Comm node, MPI_Comm comm, const char *path,
                        Error *err)
{
    if (comm == MPI_COMM_NULL) return true;
    CHECK_MPI(MPI_Bcast(sizes, (int)sizeof *sizes, MPI_BYTE, 0, node));
    if (!reader) *settings = malloc(sizes->settings_bytes);
    if (!error_agree(comm, *settings || error_fault(err, "%s: no memory for its settings", path), err)) return false;
    CHECK_MPI(MPI_Bcast(*settings, (int)sizes->settings_bytes, MPI_BYTE, 0, node));
    Sizes first = *sizes;
    CHECK_MPI(MPI_Bcast(&first, (int)sizeof first, MPI_BYTE, 0, comm));
    bool same = memcmp(&first, sizes, sizeof first) == 0;
    return error_agree(comm, same || error_usage(err, "%s: the nodes see different files", path), err);
}

bool pairs_load(Pairs *pairs, const char *path, const char *group, MPI_Comm comm, Error *err)
{
    *pairs = (Pairs){ 0 };
    MPI_Comm node = MPI_COMM_NULL;
    int node_rank = 0;
    bool alone = comm == MPI_COMM_NULL;
    if (!alone) CHECK_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
    if (!alone) CHECK_MPI(MPI_Comm_rank(node, &node_rank));
    bool reader = node_rank == 0, ok = true;
    H5File file;
    Sizes sizes;
    char *settings = NULL;
    memset(&sizes, 0, sizeof sizes);
    if (reader) {
        ok = h5_open(&file, path, MPI_COMM_NULL, err) &&
             h5_check_format(&file, pairs_format.name, pairs_format.version, err) && find_group(&file, group, err) &&
             read_sizes(&file, group, &sizes, &settings, err);
    }
    ok = error_agree(comm, ok, err) && share_sizes(&sizes, &settings, reader, node, comm, path, err) &&
         pairs_allocate(pairs, &sizes.shape, comm, err);
    if (ok) {
        pairs->vocab_size = sizes.head.vocab_size;
        pairs->max_length = sizes.head.max_length;
        pairs->settings = settings;
        settings = NULL;
        memcpy(pairs->data_digest, sizes.head.data_digest, PAIRS_DIGEST);
        memcpy(pairs->tokenizer_digest, sizes.head.tokenizer_digest, PAIRS_DIGEST);
        memcpy(pairs->template_digest, sizes.head.template_digest, PAIRS_DIGEST);
        char where[FILE_PATH + 256];
        snprintf(where, sizeof where, "%s: /%.200s", path, group);
        if (reader) ok = read_arrays(&file, group, pairs, sizes.lengths, err) && pairs_check(pairs, where, err);
        if (!alone) CHECK_MPI(MPI_Bcast(&pairs->longest, 1, MPI_INT64_T, 0, node));
        ok = error_agree(comm, ok, err);
        pairs_publish(pairs);
    }
    if (reader) h5_close(&file);
    free(settings);
    if (!alone) CHECK_MPI(MPI_Comm_free(&node));
    if (!ok) pairs_free(pairs);
    return ok;
}

bool templates_read(H5File *file, Blobs *templates, Error *err)
{
    bool exists = false;
    *templates = (Blobs){ 0 };
    return h5_exists(file, "/templates", &exists, err) &&
           (!exists || h5_read_blobs(file, "/templates", templates, err));
}
