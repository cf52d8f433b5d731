/* pairs.h5 into memory: one rank of each node reads, the ranks beside it look on. */
#include "catdpo/files/pairs_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAIRS_VERSION = 1, SETTINGS_MOST = 1 << 20 };

/* What has to be known before there is memory for the arrays. */
typedef struct Sizes {
    PairsShape shape;
    int64_t vocab_size, max_length, settings_bytes;
    char data_digest[PAIRS_DIGEST], tokenizer_digest[PAIRS_DIGEST], template_digest[PAIRS_DIGEST];
} Sizes;

static const char *const side_name[PAIR_SIDES] = { "chosen", "rejected" };

/* "/group/name" */
static const char *in_group(char path[FILE_PATH], const char *group, const char *side, const char *name)
{
    snprintf(path, FILE_PATH, "/%.200s%s%s/%s", group, side ? "/" : "", side ? side : "", name);
    return path;
}

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

static bool read_sizes(H5File *file, const char *group, Sizes *sizes, char **settings, Error *err)
{
    char path[FILE_PATH], group_path[256];
    snprintf(group_path, sizeof group_path, "/%.200s", group);
    int64_t categories = 0;
    PairsShape *shape = &sizes->shape;
    bool ok = h5_count_strings(file, "/categories/name", 1, CATEGORIES_MAX, &categories, err) &&
              h5_read_int64(file, group_path, "pairs", 0, INT64_MAX / 16, &shape->count, err) &&
              h5_read_int64(file, "/", "vocab_size", 1, INT32_MAX, &sizes->vocab_size, err) &&
              h5_read_int64(file, "/", "max_length", 0, INT32_MAX, &sizes->max_length, err) &&
              h5_read_string(file, "/", "data_digest", sizes->data_digest, PAIRS_DIGEST, err) &&
              h5_read_string(file, "/", "tokenizer_digest", sizes->tokenizer_digest, PAIRS_DIGEST, err) &&
              h5_read_string(file, "/", "template_digest", sizes->template_digest, PAIRS_DIGEST, err) &&
              h5_read_text(file, "/", "settings", SETTINGS_MOST, settings, err);
    for (int side = 0; ok && side < PAIR_SIDES; side++) {
        int64_t offsets = shape->count + 1; /* no more pairs than the file has bytes for */
        shape->tokens[side] = -1;
        ok =
            h5_expect(file, in_group(path, group, side_name[side], "offsets"), DATA_INT64, 1, &offsets, err) &&
            h5_expect(file, in_group(path, group, side_name[side], "tokens"), DATA_INT32, 1, &shape->tokens[side], err);
    }
    int64_t mask[2] = { shape->count, categories };
    shape->category_count = (int)categories;
    ok = ok && h5_expect(file, in_group(path, group, NULL, "category_mask"), DATA_UINT8, 2, mask, err) &&
         h5_exists(file, in_group(path, group, NULL, "segment_end"), &shape->has_segments, err);
    if (ok) sizes->settings_bytes = (int64_t)strlen(*settings) + 1;
    return ok;
}

static bool read_arrays(H5File *file, const char *group, Pairs *pairs, Error *err)
{
    char path[FILE_PATH];
    const int64_t n = pairs->count, k = pairs->category_count, mask[2] = { n, k }, offsets = n + 1;
    bool ok = h5_read_strings(file, "/categories/name", k, CATEGORY_NAME, pairs->category_name[0], err) &&
              h5_read_array(file, "/categories/harm", DATA_UINT8, 1, &k, pairs->category_harm, err);
    for (int i = 0; ok && i < PAIR_SIDES; i++) {
        PairSide *side = &pairs->side[i];
        ok = h5_read_array(file, in_group(path, group, side_name[i], "offsets"), DATA_INT64, 1, &offsets, side->offsets,
                           err) &&
             h5_read_array(file, in_group(path, group, side_name[i], "tokens"), DATA_INT32, 1, &side->token_count,
                           side->tokens, err) &&
             h5_read_array(file, in_group(path, group, side_name[i], "prompt_length"), DATA_INT32, 1, &n,
                           side->prompt_length, err);
    }
    const int64_t both[2] = { n, 2 };
    ok = ok && (!pairs->has_segments || (h5_read_array(file, in_group(path, group, NULL, "segment_end"), DATA_INT32, 2,
                                                       both, pairs->segment_end, err) &&
                                         h5_read_array(file, in_group(path, group, NULL, "segment_weight"),
                                                       DATA_FLOAT64, 2, both, pairs->segment_weight, err)));
    return ok &&
           h5_read_array(file, in_group(path, group, NULL, "category_mask"), DATA_UINT8, 2, mask, pairs->category_mask,
                         err) &&
           h5_read_array(file, in_group(path, group, NULL, "chosen_safe"), DATA_UINT8, 1, &n, pairs->chosen_safe,
                         err) &&
           h5_read_array(file, in_group(path, group, NULL, "rejected_safe"), DATA_UINT8, 1, &n, pairs->rejected_safe,
                         err) &&
           h5_read_array(file, in_group(path, group, NULL, "chosen_better"), DATA_INT8, 1, &n, pairs->chosen_better,
                         err);
}

/* What is wrong with a file of ours that was opened all right is mended by making it again. */
static bool with_remedy(bool ok, Error *err)
{
    static const char remedy[] = "; prepare it again with catdpo-analysis prepare";
    size_t length = strlen(err->message);
    if (!ok && err->exit_status == EXIT_USAGE && !strstr(err->message, remedy) &&
        length + sizeof remedy <= sizeof err->message)
        memcpy(err->message + length, remedy, sizeof remedy);
    return ok;
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
        ok = h5_open(&file, path, MPI_COMM_NULL, err) && h5_check_format(&file, "catdpo-pairs", PAIRS_VERSION, err) &&
             find_group(&file, group, err) && with_remedy(read_sizes(&file, group, &sizes, &settings, err), err);
    }
    ok = error_agree(comm, ok, err) && share_sizes(&sizes, &settings, reader, node, comm, path, err) &&
         pairs_allocate(pairs, &sizes.shape, comm, err);
    if (ok) {
        pairs->vocab_size = sizes.vocab_size;
        pairs->max_length = sizes.max_length;
        pairs->settings = settings;
        settings = NULL;
        memcpy(pairs->data_digest, sizes.data_digest, PAIRS_DIGEST);
        memcpy(pairs->tokenizer_digest, sizes.tokenizer_digest, PAIRS_DIGEST);
        memcpy(pairs->template_digest, sizes.template_digest, PAIRS_DIGEST);
        char where[FILE_PATH + 256];
        snprintf(where, sizeof where, "%s: /%.200s", path, group);
        if (reader) ok = with_remedy(read_arrays(&file, group, pairs, err), err) && pairs_check(pairs, where, err);
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
