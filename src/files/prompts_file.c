/* Prompts of a pairs.h5: one table, for each of the groups that hold prompts. */
#include "catdpo/files/prompts_file.h"

#include "catdpo/h5/fields.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---- the format -------------------------------------------------------------------------------------------------- */

enum { CATEGORY, PROMPT, BOUND, TOKEN, BYTE, AXES };

static const FieldAxis axes[AXES] = {
    [CATEGORY] = { .label = "category", .scale = "/categories/name", .least = 1, .most = CATEGORIES_MAX },
    [PROMPT] = { .label = "prompt", .most = INT32_MAX },
    [BOUND] = { .least = 1, .most = INT64_MAX },
    [TOKEN] = { .most = INT64_MAX },
    [BYTE] = { .most = INT64_MAX },
};

#define MEMBER(member) .offset = offsetof(Prompts, member)
#define ARRAY(name, data, along, member, text, ...)                                                                    \
    {                                                                                                                  \
        name, NULL, FIELD_ARRAY, MEMBER(member), .type = data, .axes = 1, .axis = { along }, .units = "1",             \
                                                 .description = text, __VA_ARGS__                                      \
    }
#define DIGEST(name)                                                                                                   \
    {                                                                                                                  \
        "/", #name, FIELD_TEXT, MEMBER(name), .size = PAIRS_DIGEST                                                     \
    }

/* "@" stands for the group. */
static const Field fields[] = {
    DIGEST(data_digest),
    DIGEST(tokenizer_digest),
    DIGEST(template_digest),
    { "/", "vocab_size", FIELD_INT, MEMBER(vocab_size), .least = 1, .most = INT32_MAX },
    { "/categories/name", NULL, FIELD_NAMES, MEMBER(category_name), .size = CATEGORY_NAME, .axes = 1,
      .axis = { CATEGORY } },
    ARRAY("/categories/harm", DATA_UINT8, CATEGORY, category_harm,
          "1 if a pair with a safe chosen and an unsafe rejected response has the category", .most = 1),
    { "@", "prompts", FIELD_INT, MEMBER(count), .most = INT32_MAX },
    ARRAY("@/offsets", DATA_INT64, BOUND, offsets, "where each prompt's tokens start; the last entry is the total", ),
    ARRAY("@/tokens", DATA_INT32, TOKEN, tokens, "token ids of all prompts, one after another", ),
    { "@/category_mask", NULL, FIELD_ARRAY, MEMBER(category_mask), .type = DATA_UINT8, .axes = 2,
      .axis = { PROMPT, CATEGORY }, .most = 1, .units = "1", .description = "1 where the prompt has the category" },
    ARRAY("@/benign", DATA_UINT8, PROMPT, benign, "1 a safe prompt, 0 a harmful one, 255 unknown", ),
    ARRAY("@/source_file", DATA_INT32, PROMPT, source_file, "index into the attribute inputs", .most = INT32_MAX),
    ARRAY("@/source_row", DATA_INT64, PROMPT, source_row, "0-based row of that file", .most = INT64_MAX),
    ARRAY("@/text_offsets", DATA_INT64, BOUND, text_offsets, "where each text starts; the last entry is the total", ),
    ARRAY("@/text", DATA_UINT8, BYTE, text, "UTF-8 of what is asked, one after another", ),
    { .kind = FIELD_END },
};

enum { FIELDS = sizeof fields / sizeof *fields };

/* The table for one group: rows with the names of its objects. */
typedef struct Table {
    char object[FIELDS][64], group[32];
    Field field[FIELDS];
    Format format;
} Table;

static const char *const groups[] = { "prompts", "train", "heldout", "probe" };

static bool table_make(Table *table, const char *path, const char *group, Error *err)
{
    bool known = false;
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) known = known || strcmp(groups[i], group) == 0;
    if (!known)
        return error_usage(err,
                           "%s: has no prompts called \"%.200s\"; there may be \"prompts\", \"train\", \"heldout\" and "
                           "\"probe\"",
                           path, group);
    snprintf(table->group, sizeof table->group, "/%.16s%s", group, strcmp(group, "prompts") == 0 ? "" : "/prompts");
    for (int i = 0; i < FIELDS; i++) {
        table->field[i] = fields[i];
        if (!fields[i].object || fields[i].object[0] != '@') continue;
        snprintf(table->object[i], sizeof table->object[i], "%.31s%.32s", table->group, fields[i].object + 1);
        table->field[i].object = table->object[i];
    }
    table->format = (Format){ "catdpo-pairs", 1, table->field, axes, AXES };
    return true;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static bool group_exists(H5File *file, const Table *table, bool *there, Error *err)
{
    return h5_check_format(file, table->format.name, table->format.version, err) &&
           h5_exists(file, table->group, there, err);
}

static bool read_group(H5File *file, const Table *table, Prompts *prompts, Error *err)
{
    bool there;
    int64_t lengths[AXES] = { -1, -1, -1, -1, -1 };
    if (!group_exists(file, table, &there, err)) return false;
    if (!there)
        return error_usage(
            err, "%s: has no %s; rows that are prompts only make \"prompts\", prepare --probe makes \"probe\"",
            file->path, table->group);
    if (!fields_measure(file, &table->format, lengths, err) ||
        !fields_read(file, &table->format, prompts, lengths, err))
        return false;
    prompts->category_count = (int)lengths[CATEGORY];
    char where[FILE_PATH + sizeof table->group + 2];
    snprintf(where, sizeof where, "%s: %s", file->path, table->group);
    if (prompts->count != lengths[PROMPT] || lengths[BOUND] != prompts->count + 1)
        return error_usage(err, "%s: its arrays are not of %lld prompts; prepare it again with catdpo-analysis prepare",
                           where, (long long)prompts->count);
    return prompts_check(prompts, lengths[TOKEN], lengths[BYTE], where, err);
}

bool prompts_load(Prompts *prompts, const char *path, const char *group, MPI_Comm comm, Error *err)
{
    Table table;
    H5File file;
    *prompts = (Prompts){ 0 };
    if (!table_make(&table, path, group, err)) return false;
    bool ok = h5_open(&file, path, comm, err) && read_group(&file, &table, prompts, err);
    h5_close(&file);
    if (!ok) prompts_free(prompts);
    return ok;
}

bool prompts_exist(const char *path, const char *group, bool *there, MPI_Comm comm, Error *err)
{
    Table table;
    H5File file;
    if (!table_make(&table, path, group, err)) return false;
    bool ok = h5_open(&file, path, comm, err) && group_exists(&file, &table, there, err);
    h5_close(&file);
    return ok;
}

void prompts_free(Prompts *prompts)
{
    const Format all = { "catdpo-pairs", 1, fields, axes, AXES };
    fields_free(&all, prompts);
    *prompts = (Prompts){ 0 };
}
