#include "catdpo/model/architecture.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const char *const rope_types[] = {
    [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3", NULL
};

enum { MAY_DIFFER = 1 }; /* tag: two models that differ in it alone compute the same */

#define FIELD(text, type, member, ...)                                                                                 \
    {                                                                                                                  \
        "/model", text, .kind = FIELD_##type, .offset = offsetof(Architecture, member),                                \
                        .size = sizeof(((Architecture *)0)->member), __VA_ARGS__                                       \
    }

const Field architecture_fields[] = {
    FIELD("architecture", TEXT, name, .tag = MAY_DIFFER), /* see architecture_same */
    FIELD("hidden_size", COUNT, hidden),
    FIELD("intermediate_size", COUNT, mlp),
    FIELD("num_hidden_layers", COUNT, layers),
    FIELD("num_attention_heads", COUNT, heads),
    FIELD("num_key_value_heads", COUNT, groups),
    FIELD("head_dim", COUNT, head_dim),
    FIELD("vocab_size", COUNT, vocab),
    FIELD("max_position_embeddings", COUNT, max_positions, .tag = MAY_DIFFER),
    FIELD("rms_norm_eps", NUMBER, norm_epsilon, .least = 1e-30, .most = 1),
    FIELD("tie_word_embeddings", FLAG, tied),
    FIELD("attention_bias", FLAG, attention_bias),
    FIELD("qk_norm", FLAG, qk_norm),
    FIELD("rope_type", CHOICE, rope.type, .choices = rope_types),
    FIELD("rope_theta", NUMBER, rope.theta, .least = 1e-6, .most = 1e30),
    FIELD("rope_factor", NUMBER, rope.factor, .least = 1e-6, .most = 1e9),
    FIELD("rope_low_freq_factor", NUMBER, rope.low_frequency_factor, .least = 1e-6, .most = 1e9),
    FIELD("rope_high_freq_factor", NUMBER, rope.high_frequency_factor, .least = 1e-6, .most = 1e9),
    FIELD("rope_original_max_position", COUNT, rope.original_max_positions),
    FIELD("rope_local_base_freq", NUMBER, local_theta, .most = 1e30, .optional = true),
    FIELD("query_pre_attn_scalar", NUMBER, query_scalar, .most = 1e9, .optional = true),
    FIELD("sliding_window", COUNT, window, .optional = true),
    FIELD("layer_types", TEXT, layer_types, .optional = true),
    { .kind = FIELD_END },
};

const Family *architecture_family(const Architecture *a)
{
    const Family *family = family_find(a->name);
    CHECK(family != NULL);
    return family;
}

/* ---- comparing -------------------------------------------------------------------------------------------------- */

static void field_text(const Field *f, const Architecture *a, char *text, size_t size)
{
    const void *value = (const char *)a + f->offset;
    switch (f->kind) {
    case FIELD_TEXT: snprintf(text, size, "\"%s\"", (const char *)value); break;
    case FIELD_COUNT: snprintf(text, size, "%d", *(const int *)value); break;
    case FIELD_FLAG: snprintf(text, size, "%d", *(const bool *)value); break;
    case FIELD_NUMBER: snprintf(text, size, "%.9g", *(const double *)value); break;
    case FIELD_CHOICE: snprintf(text, size, "\"%s\"", f->choices[*(const int *)value]); break;
    default: CHECK(!"a kind that a model has");
    }
}

static bool field_same(const Field *f, const Architecture *a, const Architecture *b)
{
    const char *x = (const char *)a + f->offset, *y = (const char *)b + f->offset;
    return f->kind == FIELD_TEXT ? strcmp(x, y) == 0 : memcmp(x, y, f->size) == 0;
}

bool architecture_same(const Architecture *a, const Architecture *b, char *difference, size_t size)
{
    const Family *x = architecture_family(a), *y = architecture_family(b);
    bool same_rules = x->layer == y->layer && x->model == y->model; /* as Llama's and Mistral's */
    for (const Field *f = architecture_fields; f->kind != FIELD_END; f++) {
        bool ignored = f->tag == MAY_DIFFER && (f->kind != FIELD_TEXT || same_rules);
        if (ignored || field_same(f, a, b)) continue;
        char one[64], other[64];
        field_text(f, a, one, sizeof one);
        field_text(f, b, other, sizeof other);
        snprintf(difference, size, "%s is %s and %s", f->attribute, one, other);
        return false;
    }
    return true;
}

/* ---- checking --------------------------------------------------------------------------------------------------- */

bool architecture_check(const Architecture *a, const char *where, Error *err)
{
    char known[256];
    if (!family_find(a->name))
        return error_usage(err, "%s: architecture \"%s\" is not supported (%s)", where, a->name,
                           family_names(known, sizeof known));
    if (a->hidden < 1 || a->mlp < 1 || a->vocab < 1 || a->layers < 1 || a->heads < 1 || a->groups < 1 ||
        a->head_dim < 1)
        return error_usage(
            err,
            "%s: a size of the model is not positive (hidden %d, MLP %d, vocabulary %d, layers %d, heads %d, key/value "
            "heads %d, head size %d): import the model again",
            where, a->hidden, a->mlp, a->vocab, a->layers, a->heads, a->groups, a->head_dim);
    if (a->heads % a->groups != 0)
        return error_usage(err, "%s: %d attention heads cannot be shared by %d key/value heads: import the model again",
                           where, a->heads, a->groups);
    if (a->head_dim % 2 != 0)
        return error_usage(err, "%s: head size %d is odd, rotary embedding needs an even one", where, a->head_dim);
    size_t types = strlen(a->layer_types), sliding = 0;
    for (size_t i = 0; i < types; i++) sliding += a->layer_types[i] == 's';
    if ((types > 0 && types != (size_t)a->layers) || strspn(a->layer_types, "fs") != types ||
        (sliding > 0) != (a->window > 0))
        return error_usage(err,
                           "%s: layer_types \"%.64s\" with sliding_window %d is not one letter, f or s, for each of %d "
                           "layers: import the model again",
                           where, a->layer_types, a->window, a->layers);
    if (!(a->norm_epsilon > 0) || !(a->rope.theta > 0) || !(a->rope.factor > 0))
        return error_usage(err, "%s: rms_norm_eps, rope_theta and rope_factor must be positive", where);
    int64_t widest = ((int64_t)a->heads + 2 * (int64_t)a->groups) * a->head_dim;
    if (widest > 1 << 24 || a->hidden > 1 << 24 || a->mlp > 1 << 24 || a->vocab > 1 << 26 || a->layers > LAYERS_MAX)
        return error_usage(err, "%s: a size of the model is beyond what this program was made for", where);
    return true;
}

bool architecture_fits(const Architecture *a, int rows, int columns, int ranks, Error *err)
{
    if (rows <= a->groups) return true;
    char valid[256] = "";
    size_t used = 0;
    for (int r = 1; r <= a->groups && r <= ranks; r++)
        for (int c = 1; r * c <= ranks; c++)
            if (ranks % (r * c) == 0 && used + 16 < sizeof valid)
                used += (size_t)snprintf(valid + used, sizeof valid - used, "%s%dx%d", used ? ", " : "", r, c);
    return error_usage(err,
                       "parallel.grid %dx%d has more rows than the model's %d key/value heads; valid for %d ranks "
                       "(rows x columns): %s",
                       rows, columns, a->groups, ranks, valid);
}
