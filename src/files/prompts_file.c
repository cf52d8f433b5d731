/* Prompts of a pairs.h5: one table, for each of the groups that hold prompts. */
#include "catdpo/files/prompts_file.h"

#include "catdpo/h5/fields.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---- the format -------------------------------------------------------------------------------------------------- */

static const FieldAxis axes[PROMPTS_AXES] = {
    [PROMPTS_CATEGORY] = { .label = "category", .scale = "/categories/name", .least = 1, .most = CATEGORIES_MAX },
    [PROMPTS_PROMPT] = { .label = "prompt", .most = INT32_MAX },
    [PROMPTS_BOUND] = { .least = 1, .most = INT64_MAX },
    [PROMPTS_TOKEN] = { .most = INT64_MAX },
    [PROMPTS_BYTE] = { .most = INT64_MAX },
};

#define MEMBER(member) .offset = offsetof(Prompts, member)
#define ARRAY(name, data, along, member, unit_, text, ...)                                                             \
    {                                                                                                                  \
        name, NULL, FIELD_ARRAY, MEMBER(member), .type = data, .axes = 1, .axis = { along }, .units = unit_,           \
                                                 .description = text, __VA_ARGS__                                      \
    }
#define DIGEST(name)                                                                                                   \
    {                                                                                                                  \
        "/", #name, FIELD_TEXT, MEMBER(name), .size = PAIRS_DIGEST                                                     \
    }

static const Field fields[] = {
    DIGEST(data_digest),
    DIGEST(tokenizer_digest),
    DIGEST(template_digest),
    { "/", "vocab_size", FIELD_INT, MEMBER(vocab_size), .least = 1, .most = INT32_MAX },
    { "/categories/name", NULL, FIELD_NAMES, MEMBER(category_name), .size = CATEGORY_NAME, .axes = 1,
      .axis = { PROMPTS_CATEGORY } },
    ARRAY("/categories/harm", DATA_UINT8, PROMPTS_CATEGORY, category_harm, "1",
          "1 if a pair with a safe chosen and an unsafe rejected response has the category", .most = 1),
    { "@", "prompts", FIELD_INT, MEMBER(count), .most = INT32_MAX },
    ARRAY("@/offsets", DATA_INT64, PROMPTS_BOUND, offsets, "tokens",
          "where each one's tokens start; the last entry is the total", ),
    ARRAY("@/tokens", DATA_INT32, PROMPTS_TOKEN, tokens, "1", "token ids of all prompts, one after another", ),
    { "@/category_mask", NULL, FIELD_ARRAY, MEMBER(category_mask), .type = DATA_UINT8, .axes = 2,
      .axis = { PROMPTS_PROMPT, PROMPTS_CATEGORY }, .most = 1, .units = "1",
      .description = "1 where the prompt has the category" },
    ARRAY("@/benign", DATA_UINT8, PROMPTS_PROMPT, benign, "1", "1 a safe prompt, 0 a harmful one, 255 unknown", ),
    ARRAY("@/source_file", DATA_INT32, PROMPTS_PROMPT, source_file, "1", "index into the attribute inputs",
          .most = INT32_MAX),
    ARRAY("@/source_row", DATA_INT64, PROMPTS_PROMPT, source_row, "1", "0-based row of that file",
          .most = (double)INT64_MAX),
    ARRAY("@/text_offsets", DATA_INT64, PROMPTS_BOUND, text_offsets, "bytes",
          "where each text starts; the last entry is the total", ),
    ARRAY("@/text", DATA_UINT8, PROMPTS_BYTE, text, "1", "UTF-8 of what is asked, one after another", ),
    { .kind = FIELD_END },
};

const Format prompts_format = { PAIRS_FORMAT, 1,
                                fields,       axes,
                                PROMPTS_AXES, "prepare it again with catdpo-analysis prepare" };

static const char *const groups[] = { "prompts", "train", "heldout", "probe" };

/* The table for one of them. */
static bool table_of(GroupFormat *table, const char *path, const char *group, Error *err)
{
    bool known = false;
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) known = known || strcmp(groups[i], group) == 0;
    if (!known)
        return error_usage(err,
                           "%s: has no prompts called \"%.200s\"; there may be \"prompts\", \"train\", \"heldout\" and "
                           "\"probe\"",
                           path, group);
    char name[32];
    snprintf(name, sizeof name, "%.16s%s", group, strcmp(group, "prompts") == 0 ? "" : "/prompts");
    format_of_group(table, &prompts_format, name, ~0u);
    return true;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static bool group_exists(H5File *file, const GroupFormat *table, bool *there, Error *err)
{
    return h5_check_format(file, table->format.name, table->format.version, err) &&
           h5_exists(file, table->group, there, err);
}

static bool read_group(H5File *file, const GroupFormat *table, Prompts *prompts, Error *err)
{
    bool there;
    int64_t lengths[PROMPTS_AXES] = { -1, -1, -1, -1, -1 };
    if (!group_exists(file, table, &there, err)) return false;
    if (!there)
        return error_usage(
            err, "%s: has no %s; rows that are prompts only make \"prompts\", prepare --probe makes \"probe\"",
            file->path, table->group);
    if (!fields_measure(file, &table->format, lengths, err) ||
        !fields_read(file, &table->format, prompts, lengths, err))
        return false;
    prompts->category_count = (int)lengths[PROMPTS_CATEGORY];
    char where[FILE_PATH + sizeof table->group + 2];
    snprintf(where, sizeof where, "%s: %s", file->path, table->group);
    if (prompts->count != lengths[PROMPTS_PROMPT] || lengths[PROMPTS_BOUND] != prompts->count + 1)
        return error_usage(err, "%s: its arrays are not of %lld prompts; prepare it again with catdpo-analysis prepare",
                           where, (long long)prompts->count);
    return prompts_check(prompts, lengths[PROMPTS_TOKEN], lengths[PROMPTS_BYTE], where, err);
}

bool prompts_load(Prompts *prompts, const char *path, const char *group, MPI_Comm comm, Error *err)
{
    GroupFormat table;
    H5File file;
    *prompts = (Prompts){ 0 };
    if (!table_of(&table, path, group, err)) return false;
    bool ok = h5_open(&file, path, comm, err) && read_group(&file, &table, prompts, err);
    h5_close(&file);
    if (!ok) prompts_free(prompts);
    return ok;
}

bool prompts_exist(const char *path, const char *group, bool *there, MPI_Comm comm, Error *err)
{
    GroupFormat table;
    H5File file;
    if (!table_of(&table, path, group, err)) return false;
    bool ok = h5_open(&file, path, comm, err) && group_exists(&file, &table, there, err);
    h5_close(&file);
    return ok;
}

void prompts_free(Prompts *prompts)
{
    fields_free(&prompts_format, prompts);
    *prompts = (Prompts){ 0 };
}
