/* Models and data that are planned for but not there yet. */
#include "catdpo/plan/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *shape;
} presets[] = {
    { "1b", "hidden=2048,mlp=8192,layers=16,heads=32,groups=8,head=64,vocab=128256,tied=1" },
    { "8b", "hidden=4096,mlp=14336,layers=32,heads=32,groups=8,head=128,vocab=128256,tied=0" },
    { "70b", "hidden=8192,mlp=28672,layers=80,heads=64,groups=8,head=128,vocab=128256,tied=0" },
    { "gemma3-1b", "family=gemma3_text,hidden=1152,mlp=6912,layers=26,heads=4,groups=1,head=256,vocab=262144,tied=1,"
                   "window=512,full=6" },
    { "gemma3-4b", "family=gemma3_text,hidden=2560,mlp=10240,layers=34,heads=8,groups=4,head=256,vocab=262208,tied=1,"
                   "window=1024,full=6" },
    { "gemma3-12b", "family=gemma3_text,hidden=3840,mlp=15360,layers=48,heads=16,groups=8,head=256,vocab=262208,tied=1,"
                    "window=1024,full=6" },
    { "gemma3-27b", "family=gemma3_text,hidden=5376,mlp=21504,layers=62,heads=32,groups=16,head=128,vocab=262208,"
                    "tied=1,window=1024,full=6" },
};

/* Every `full`th layer sees all tokens, the others a window. */
static void lay_windows(Architecture *a, int full)
{
    for (int l = 0; a->window > 0 && l < a->layers && l < LAYERS_MAX; l++)
        a->layer_types[l] = full > 0 && (l + 1) % full == 0 ? 'f' : 's';
    if (!strchr(a->layer_types, 's')) a->window = 0;
}

static bool set_family(Architecture *a, const char *name, size_t length)
{
    snprintf(a->name, sizeof a->name, "%.*s", (int)length, name);
    const Family *family = family_find(a->name);
    if (!family) return false;
    a->attention_bias = family->attention_bias;
    a->qk_norm = family->qk_norm;
    return true;
}

bool shape_parse(Architecture *a, const char *text, Error *err)
{
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(text, presets[i].name) == 0) return shape_parse(a, presets[i].shape, err);
    *a = (Architecture){
        .name = "llama", .max_positions = 131072, .norm_epsilon = 1e-5, .rope = { .theta = 500000, .factor = 1 }
    };
    int tied = 0, full = 0;
    struct {
        const char *name;
        int *value;
    } fields[] = { { "hidden", &a->hidden }, { "mlp", &a->mlp },       { "layers", &a->layers }, { "heads", &a->heads },
                   { "groups", &a->groups }, { "head", &a->head_dim }, { "vocab", &a->vocab },   { "tied", &tied },
                   { "window", &a->window }, { "full", &full } };
    enum { FIELDS = sizeof fields / sizeof *fields };
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, "="), i = 0, end = strcspn(at, ",");
        const char *word = at + length + 1;
        bool known = length < end && length == strlen("family") && strncmp(at, "family", length) == 0 &&
                     set_family(a, word, end - length - 1);
        while (i < FIELDS && (strlen(fields[i].name) != length || strncmp(at, fields[i].name, length) != 0)) i++;
        if (i < FIELDS && length + 1 < end) {
            char *stop;
            long value = strtol(word, &stop, 10);
            known = stop == at + end && value >= 0 && value <= 1 << 28;
            *fields[i].value = known ? (int)value : 0;
        }
        if (!known)
            return error_usage(err, "--model-size %s: not 1b, 8b, 70b, gemma3-1b, -4b, -12b, -27b or a list like %s",
                               text, presets[0].shape);
        at += at[end] ? end + 1 : end;
    }
    a->tied = tied != 0;
    lay_windows(a, full);
    return architecture_check(a, "--model-size", err);
}

/* Lengths go up and down through the data, so that every part of them has all lengths. */
static int length_of(int64_t i, int64_t count, double mean)
{
    double place = count > 1 ? (double)(i * 7919 % count) / (double)(count - 1) : 0.5;
    return (int)(mean * (0.5 + place) + 0.5);
}

bool pairs_invent(Pairs *pairs, int64_t count, double tokens, double completion, int vocab, Error *err)
{
    PairsShape shape = { .count = count, .category_count = 1 };
    for (int64_t i = 0; i < count; i++)
        for (int side = 0; side < PAIR_SIDES; side++) {
            int length = length_of(i, count, tokens / 2);
            shape.tokens[side] += length < 2 ? 2 : length;
        }
    if (!pairs_allocate(pairs, &shape, MPI_COMM_NULL, err)) return false;
    for (int side = 0; side < PAIR_SIDES; side++) {
        PairSide *s = &pairs->side[side];
        s->offsets[0] = 0;
        for (int64_t i = 0; i < count; i++) {
            int length = length_of(i, count, tokens / 2), prompt;
            length = length < 2 ? 2 : length;
            prompt = (int)(length * (1 - completion));
            s->prompt_length[i] = prompt < 1 ? 1 : prompt > length - 1 ? length - 1 : prompt;
            s->offsets[i + 1] = s->offsets[i] + length;
            for (int t = 0; t < length; t++) s->tokens[s->offsets[i] + t] = (int)((i * 31 + t * 7) % vocab);
            s->tokens[s->offsets[i] + s->prompt_length[i]] = side; /* the responses begin differently */
            pairs->longest = length > pairs->longest ? length : pairs->longest;
        }
    }
    for (int64_t i = 0; i < count; i++) pairs->category_mask[i] = 1;
    snprintf(pairs->category_name[0], CATEGORY_NAME, "all");
    pairs->vocab_size = vocab;
    return true;
}
