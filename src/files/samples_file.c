#include "catdpo/files/samples_file.h"

#include "version.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the format -------------------------------------------------------------------------------------------------- */

enum { CATEGORY, PROMPT, PROMPT_END, PROMPT_TOKEN, SAMPLE, SAMPLE_END, TOKEN, AXES };

static const FieldAxis axes[AXES] = {
    [CATEGORY] = { .label = "category", .scale = "/categories/name", .least = 1, .most = CATEGORIES_MAX },
    [PROMPT] = { .label = "prompt", .most = INT32_MAX },
    [PROMPT_END] = { .most = INT32_MAX },
    [PROMPT_TOKEN] = { .label = "token", .most = INT64_MAX },
    [SAMPLE] = { .label = "sample", .most = INT64_MAX },
    [SAMPLE_END] = { .most = INT64_MAX },
    [TOKEN] = { .label = "token", .most = INT64_MAX },
};

#define MEMBER(member) .offset = offsetof(Samples, member)
#define STRING(name, member, bytes)                                                                                    \
    {                                                                                                                  \
        "/", name, FIELD_STRING, MEMBER(member), .size = bytes                                                         \
    }
#define ARRAY(name, data, along, member, unit, text, ...)                                                              \
    {                                                                                                                  \
        name, NULL, FIELD_ARRAY, MEMBER(member), .type = data, .axes = 1, .axis = { along }, .units = unit,            \
                                                 .description = text, __VA_ARGS__                                      \
    }

static const Field fields[] = {
    STRING("model", model, 4096),
    STRING("prompts", prompts, 4096),
    STRING("weights_digest", weights_digest, DIGEST_TEXT),
    STRING("data_digest", data_digest, DIGEST_TEXT),
    STRING("tokenizer_digest", tokenizer_digest, DIGEST_TEXT),
    STRING("template_digest", template_digest, DIGEST_TEXT),
    STRING("settings", settings, 1 << 16),
    { "/config", NULL, FIELD_STRING, MEMBER(config), .size = 1 << 20 },
    { "/", "samples_per_prompt", FIELD_INT, MEMBER(samples), .least = 1, .most = INT32_MAX },
    { "/", "total", FIELD_INT, MEMBER(total), .most = INT64_MAX },

    { "/categories/name", NULL, FIELD_NAMES, MEMBER(category_name), .size = CATEGORY_NAME, .axes = 1,
      .axis = { CATEGORY } },
    ARRAY("/prompts/offset", DATA_INT64, PROMPT_END, prompt_offset, "token",
          "where each prompt's tokens start; the last entry is the total", .most = INT64_MAX),
    ARRAY("/prompts/token", DATA_INT32, PROMPT_TOKEN, prompt_token, "1", "token ids of all prompts, one after another",
          .most = INT32_MAX),
    ARRAY("/prompts/row", DATA_INT64, PROMPT, prompt_row, "1", "row of the group that the prompts come from",
          .most = INT64_MAX),
    ARRAY("/prompts/benign", DATA_UINT8, PROMPT, benign, "1",
          "1: a harmless prompt, a refusal is one too many; 0: a harmful one; 255: unknown", .most = 255),
    { "/prompts/category_mask", NULL, FIELD_ARRAY, MEMBER(category_mask), .type = DATA_UINT8, .axes = 2,
      .axis = { PROMPT, CATEGORY }, .most = 1, .units = "1", .description = "1 where the prompt has the category" },

    ARRAY("/samples/prompt", DATA_INT32, SAMPLE, prompt, "1", "index of the prompt", .most = INT32_MAX),
    ARRAY("/samples/sample", DATA_INT32, SAMPLE, sample, "1", "which answer to the prompt, from 0", .most = INT32_MAX),
    ARRAY("/samples/offset", DATA_INT64, SAMPLE_END, offset, "token",
          "where each answer's tokens start; the last entry is the total", .most = INT64_MAX),
    ARRAY("/samples/finish", DATA_UINT8, SAMPLE, finish, "1",
          "0: a stop token; 1: generate.max_tokens; 2: the model's longest context", .most = 2),
    ARRAY("/samples/token", DATA_INT32, TOKEN, token, "1",
          "token ids of all answers, one after another, stop tokens included", .most = INT32_MAX),
    ARRAY("/samples/logp", DATA_FLOAT32, TOKEN, logp, "nat",
          "log-probability of the token under the model, at temperature 1 and with nothing left out", ),
    ARRAY("/samples/entropy", DATA_FLOAT32, TOKEN, entropy, "nat", "entropy of that distribution", ),
    { .kind = FIELD_END },
};

const Format samples_format = { SAMPLES_FORMAT, 1, fields, axes, AXES, NULL };

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Texts of any length in a dataset as wide as the longest. Only rank 0 has them. */
static bool write_texts(H5File *file, const char *name, const char *text, const int64_t *at, int64_t count, Error *err)
{
    size_t width = 1;
    char *values = NULL;
    for (int64_t i = 0; i < count && file->rank == 0; i++) {
        size_t bytes = strlen(text + at[i]) + 1;
        width = bytes > width ? bytes : width;
    }
    if (file->rank == 0) values = calloc((size_t)count + 1, width);
    if (!h5_agree(file, file->rank != 0 || values || error_fault(err, "%s: out of memory for %s", file->path, name),
                  err))
        return false;
    bool ok = h5_share(file, true, &width, sizeof width, err);
    for (int64_t i = 0; i < count && values; i++) strcpy(values + (size_t)i * width, text + at[i]);
    ok = ok && h5_write_strings(file, name, count, width, values, err);
    free(values);
    return ok;
}

static bool write_scores(H5File *file, const SampleScores *s, int64_t count, Error *err)
{
    char group[128], name[160];
    snprintf(group, sizeof group, "/scores/%.64s", s->name);
    const struct {
        const char *name, *text;
        DataType type;
        const void *values;
    } arrays[] = {
        { "score", "probability that the answer is unsafe (harmful prompt) or a refusal (safe prompt); NaN: not judged",
          DATA_FLOAT32, s->score },
        { "verdict", "1: unsafe, or a refusal too many; 0: neither; -1: not judged", DATA_INT8, s->verdict },
        { "kind", "0: answer, 1: refusal, 2: empty, 3: degenerate; 255: unknown", DATA_UINT8, s->kind },
    };
    bool ok = h5_create_group(file, "/scores", err) && h5_create_group(file, group, err) &&
              h5_write_string(file, group, "judge", s->name, err) &&
              h5_write_string(file, group, "version", CATDPO_VERSION, err) &&
              h5_write_string(file, group, "settings", s->settings, err) &&
              h5_write_string(file, group, "digest", s->digest, err) &&
              h5_write_double(file, group, "threshold", s->threshold, err);
    for (size_t i = 0; ok && i < sizeof arrays / sizeof *arrays; i++) {
        snprintf(name, sizeof name, "%s/%s", group, arrays[i].name);
        ok = h5_write_array(file, name, arrays[i].type, 1, &count, arrays[i].values, err) &&
             h5_describe(file, name, "1", arrays[i].text, err);
    }
    return ok;
}

bool samples_write(const char *path, const char *folder, const Samples *s, MPI_Comm comm, Error *err)
{
    H5File file;
    const int64_t lengths[AXES] = { [CATEGORY] = s->category_count,
                                    [PROMPT] = s->prompt_count,
                                    [PROMPT_END] = s->prompt_count + 1,
                                    [PROMPT_TOKEN] = s->prompt_offset[s->prompt_count],
                                    [SAMPLE] = s->count,
                                    [SAMPLE_END] = s->count + 1,
                                    [TOKEN] = s->tokens };
    bool ok = h5_create(&file, path, folder, comm, err) &&
              h5_write_format(&file, samples_format.name, samples_format.version, err) &&
              fields_write(&file, &samples_format, s, lengths, err);
    if (ok && s->has_text)
        ok = write_texts(&file, "/prompts/text", s->prompt_text, s->prompt_text_at, s->prompt_count, err) &&
             h5_describe(&file, "/prompts/text", NULL, "the prompts, special tokens left out", err) &&
             write_texts(&file, "/samples/text", s->text, s->text_at, s->count, err) &&
             h5_describe(&file, "/samples/text", NULL, "the answers, special tokens left out", err);
    ok = ok && (!s->scores || write_scores(&file, s->scores, s->count, err)) && h5_commit(&file, err);
    h5_close(&file);
    return ok;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static bool check_offsets(const H5File *file, const char *name, const int64_t *offset, int64_t count, int64_t total,
                          int64_t least, Error *err)
{
    bool ok = offset[0] == 0 && offset[count] == total;
    for (int64_t i = 0; ok && i < count; i++) ok = offset[i + 1] - offset[i] >= least;
    return ok || error_usage(err, "%s: %s does not cut %" PRId64 " tokens into %" PRId64 " texts: damaged", file->path,
                             name, total, count);
}

static bool check_answers(const H5File *file, const Samples *s, Error *err)
{
    int64_t last = -1;
    for (int64_t i = 0; i < s->count; i++) {
        int64_t place = s->prompt[i] * s->samples + s->sample[i];
        if (s->prompt[i] >= s->prompt_count || s->sample[i] >= s->samples || place <= last)
            return error_usage(err,
                               "%s: entry %" PRId64 " of /samples is answer %d to prompt %d, which it cannot be: "
                               "damaged",
                               file->path, i, s->sample[i], s->prompt[i]);
        last = place;
    }
    return true;
}

bool samples_read(H5File *file, Samples *s, Error *err)
{
    *s = (Samples){ 0 };
    int64_t lengths[AXES];
    for (int i = 0; i < AXES; i++) lengths[i] = -1;
    if (!h5_check_format(file, samples_format.name, samples_format.version, err) ||
        !fields_measure(file, &samples_format, lengths, err) || !fields_read(file, &samples_format, s, lengths, err))
        return false;
    s->category_count = (int)lengths[CATEGORY];
    s->prompt_count = lengths[PROMPT];
    s->count = lengths[SAMPLE];
    s->tokens = lengths[TOKEN];
    bool ok = (lengths[PROMPT_END] == s->prompt_count + 1 && lengths[SAMPLE_END] == s->count + 1 &&
               s->total == s->prompt_count * s->samples && s->count <= s->total) ||
              error_usage(err, "%s: its arrays do not fit each other: damaged", file->path);
    ok = ok &&
         check_offsets(file, "/prompts/offset", s->prompt_offset, s->prompt_count, lengths[PROMPT_TOKEN], 1, err) &&
         check_offsets(file, "/samples/offset", s->offset, s->count, lengths[TOKEN], 0, err) &&
         check_answers(file, s, err);
    if (!ok) samples_free(s);
    return ok;
}

void samples_free(Samples *s) { fields_free(&samples_format, s); }
