/* Checkpoints: written with all ranks' shares of the model and of its moments, read back onto any grid. */
#include "catdpo/files/checkpoint.h"

#include "catdpo/config/config.h"
#include "catdpo/config/options.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the format -------------------------------------------------------------------------------------------------- */

enum { CATEGORY, COUNT, AXES };

/* steps, tokens, pairs: more than any run has, and sums do not overflow */
#define COUNTS_MOST ((double)((int64_t)1 << 48))
#define UNITS_MOST  ((double)((int64_t)1 << 62))

static const FieldAxis axes[AXES] = {
    [CATEGORY] = { .least = 1, .most = CATEGORIES_MAX },
    [COUNT] = { .least = 2, .most = 2 * CATEGORIES_MAX },
};

#define MEMBER(member) .offset = offsetof(Checkpoint, member)
#define COUNTER(group, name, member)                                                                                   \
    {                                                                                                                  \
        group, name, FIELD_INT, MEMBER(member), .most = COUNTS_MOST                                                    \
    }
#define STRING(name, member)                                                                                           \
    {                                                                                                                  \
        "/", name, FIELD_STRING, MEMBER(member), .size = DIGEST_TEXT                                                   \
    }
#define ARRAY(name, data, along, member, unit_, text, ...)                                                             \
    {                                                                                                                  \
        name, NULL, FIELD_ARRAY, MEMBER(member), .type = data, .axes = 1, .axis = { along }, .units = unit_,           \
                                                 .description = text, __VA_ARGS__                                      \
    }

static const Field fields[] = {
    COUNTER("/", "step", step),
    COUNTER("/", "total_steps", total_steps),
    COUNTER("/", "num_tokens", num_tokens),
    COUNTER("/", "skipped", skipped),
    { "/", "safe_probes", FIELD_INT, MEMBER(safe_probes), .most = COUNTS_MOST, .since = 2 },
    { "/", "heldout_worst", FIELD_NUMBER, MEMBER(heldout_worst), .least = -1, .most = 1 },
    STRING("version", version),
    STRING("layout", layout),
    STRING("data_digest", data_digest),
    STRING("tokenizer_digest", tokenizer_digest),
    STRING("template_digest", template_digest),
    STRING("start_digest", start_digest),
    STRING("reference_digest", reference_digest),
    { "/config", NULL, FIELD_STRING, MEMBER(config), .size = 1 << 20 },

    COUNTER("/sampler", "step", sampler_step),
    { "/sampler", "seed", FIELD_UINT, MEMBER(seed) },
    { "/sampler", "kind", FIELD_STRING, MEMBER(sampling), .size = 32 },
    COUNTER("/optimizer", "updates", optimizer_updates),

    { "/margins/category", NULL, FIELD_NAMES, MEMBER(category_name), .size = CATEGORY_NAME, .axes = 1,
      .axis = { CATEGORY } },
    ARRAY("/margins/margin", DATA_FLOAT64, CATEGORY, margin, "nat",
          "safety margin of each category, in units of beta * h", .most = 1e300),
    ARRAY("/margins/violation_rate", DATA_FLOAT64, CATEGORY, violation_rate, "1",
          "running violation rate of each category", .most = 1),
    ARRAY("/margins/standard_error", DATA_FLOAT64, CATEGORY, standard_error, "1", "standard error of violation_rate",
          .most = 1, .since = 2),
    ARRAY("/margins/n", DATA_INT64, CATEGORY, n, "1", "pairs counted since the beginning", .most = COUNTS_MOST),
    ARRAY("/margins/violations", DATA_INT64, CATEGORY, violations, "1",
          "their violations, in the attribute `unit` of the group", .most = UNITS_MOST),
    ARRAY("/margins/pending", DATA_INT64, COUNT, pending, "1",
          "counts and violations that have not entered an update yet", .most = UNITS_MOST),
    { "/margins", "unit", FIELD_NUMBER, MEMBER(unit), .least = 0x1p-32, .most = 0.5 },
    { "/margins", "pooled_rate", FIELD_NUMBER, MEMBER(pooled_rate), .most = 1 },
    { "/margins", "pooled_error", FIELD_NUMBER, MEMBER(pooled_error), .most = 1, .since = 2 },
    COUNTER("/margins", "updates", margin_updates),
    COUNTER("/margins", "last_update", last_update),
    { .kind = FIELD_END },
};

const Format checkpoint_format = { CHECKPOINT_FORMAT, CHECKPOINT_VERSION, fields, axes, AXES, NULL };

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* What the adapters of the run are of: base as a path that does not depend on the working directory. */
static bool describe_adapter(const Transformer *t, const Checkpoint *c, const char *model_path, AdapterInfo *info,
                             Error *err)
{
    char *whole = realpath(model_path, NULL);
    *info = (AdapterInfo){ .settings = t->adapters.settings };
    snprintf(info->base_digest, sizeof info->base_digest, "%s", c->base_digest);
    bool fits = snprintf(info->base, sizeof info->base, "%s", whole ? whole : model_path) < FILE_PATH;
    free(whole);
    return fits || error_usage(err, "%.200s...: the path is too long", model_path);
}

/* The weights' tensors, or the adapters', with the digest that they give. */
static bool lay_out_weights(H5File *file, const Transformer *t, const Checkpoint *c, const char *model_path,
                            const uint64_t *checksums, Error *err)
{
    char digest[WEIGHTS_DIGEST];
    AdapterInfo adapter;
    bool adapters = t->trained != &t->parameters,
         ok = adapters ? describe_adapter(t, c, model_path, &adapter, err) &&
                             adapter_digest(t->trained, &adapter, checksums, digest, err)
                       : parts_digest(&t->parameters, checksums, digest, err);
    return error_agree(t->grid->world, ok, err) && h5_write_string(file, "/model", "weights_digest", digest, err) &&
           (adapters ? adapter_create(file, t, &adapter, checksums, err)
                     : tensors_create(file, &t->parameters, "/model", checksums, err));
}

/* /model's attributes and the tokenizer as in the file that the run's model came from, with today's weights. */
static bool lay_out_model(H5File *file, H5File *source, const Transformer *t, const Checkpoint *c,
                          const char *model_path, const uint64_t *checksums, Error *err)
{
    return h5_create_group(file, "/model", err) && h5_copy_attributes(source, file, "/model", err) &&
           lay_out_weights(file, t, c, model_path, checksums, err) && h5_copy_group(source, file, "/tokenizer", err);
}

/* The chat templates of the data, or those that the model was trained with before. */
static bool lay_out_templates(H5File *file, H5File *source, const Blobs *templates, Error *err)
{
    bool exists = false;
    if (templates && templates->count > 0) return h5_write_blobs(file, "/templates", templates, err);
    return h5_exists(source, "/templates", &exists, err) && (!exists || h5_copy_group(source, file, "/templates", err));
}

/* What the run says of itself, with what its optimizer and its margins have. */
static Checkpoint describe(const Checkpoint *about, const Optimizer *o, const MarginState *m)
{
    Checkpoint c = *about;
    c.sampler_step = c.step;
    c.optimizer_updates = o->updates;
    c.category_count = m->category_count;
    c.margin = m->margin;
    c.violation_rate = m->violation_rate;
    c.standard_error = m->standard_error;
    c.n = m->n;
    c.violations = m->violations;
    c.pending = m->pending;
    c.unit = margin_unit(m);
    c.pooled_rate = m->pooled_rate;
    c.pooled_error = m->pooled_error;
    c.margin_updates = m->updates;
    c.last_update = m->last_update;
    return c;
}

/* Everything that the layout needs before the first tensor is written. */
static bool lay_out(H5File *file, const char *model_path, const Transformer *t, const Checkpoint *c,
                    const uint64_t *checksums, int parts, Error *err)
{
    H5File source;
    const int64_t lengths[AXES] = { c->category_count, 2 * c->category_count };
    bool ok = h5_open(&source, model_path, t->grid->world, err) &&
              h5_write_format(file, checkpoint_format.name, checkpoint_format.version, err) &&
              fields_write(file, &checkpoint_format, c, lengths, err) &&
              lay_out_model(file, &source, t, c, model_path, checksums, err) &&
              lay_out_templates(file, &source, c->templates, err) &&
              tensors_create(file, t->trained, "/optimizer/m", checksums + parts, err) &&
              tensors_create(file, t->trained, "/optimizer/v", checksums + 2 * parts, err);
    h5_close(&source);
    return ok;
}

bool checkpoint_write(const char *path, const char *folder, const char *model_path, const Transformer *t,
                      const Optimizer *o, const MarginState *margins, const Checkpoint *about, Error *err)
{
    /* replicas hold the same weights: each writes its share, as it does with its moments */
    int64_t first = o->bounds[t->grid->replica], end = o->bounds[t->grid->replica + 1];
    const ShardedArray arrays[] = { { t->trained_weights + first, first, end },
                                    { o->m + (first - o->first), first, end },
                                    { o->v + (first - o->first), first, end } };
    const char *const groups[] = { t->trained == &t->parameters ? "/model" : "/adapter", "/optimizer/m",
                                   "/optimizer/v" };
    const Checkpoint c = describe(about, o, margins);
    int parts = parts_count(t->trained);
    uint64_t *checksums = calloc(3 * (size_t)parts, sizeof *checksums);
    H5File file;
    bool ok = error_agree(t->grid->world,
                          checksums || error_fault(err, "out of memory for the checksums of a checkpoint"), err) &&
              h5_create(&file, path, folder, t->grid->world, err);
    if (ok) {
        for (int i = 0; i < 3; i++) tensors_checksums(t, t->trained, &arrays[i], checksums + i * parts);
        ok = lay_out(&file, model_path, t, &c, checksums, parts, err);
        for (int i = 0; ok && i < 3; i++) ok = tensors_write(&file, t, t->trained, groups[i], &arrays[i], err);
        ok = h5_commit_if(ok, &file, err);
    }
    free(checksums);
    return ok;
}

/* ---- what a good one is ----------------------------------------------------------------------------------------- */

/* A pair has at most one violation, and what is pending has been counted. */
static bool check_category(const H5File *file, const Checkpoint *c, int k, Error *err)
{
    const int64_t all = c->category_count, n = c->n[k], violations = c->violations[k], pending = c->pending[k],
                  pending_violations = c->pending[all + k];
    bool ok = (double)violations * c->unit <= (double)n + 1e-6 && pending <= n && pending_violations <= violations &&
              (double)pending_violations * c->unit <= (double)pending + 1e-6;
    return ok ||
           error_usage(err,
                       "%s: /margins: category %d (%s) has %lld pairs and %lld violations, of which %lld and %lld "
                       "are pending: damaged, use another checkpoint",
                       file->path, k, c->category_name[k], (long long)n, (long long)violations, (long long)pending,
                       (long long)pending_violations);
}

static bool check_position(const H5File *file, const Checkpoint *c, Error *err)
{
    bool ok = c->step <= c->total_steps && c->skipped <= c->step && c->sampler_step == c->step &&
              c->optimizer_updates <= c->step && c->margin_updates <= c->step && c->last_update <= c->step;
    return ok || error_usage(err,
                             "%s: is of step %lld of %lld, with %lld skipped, the sampler at %lld, %lld updates of the "
                             "weights, %lld of the margins and the last one at step %lld: damaged, use another "
                             "checkpoint",
                             file->path, (long long)c->step, (long long)c->total_steps, (long long)c->skipped,
                             (long long)c->sampler_step, (long long)c->optimizer_updates, (long long)c->margin_updates,
                             (long long)c->last_update);
}

static bool check_sampling(const H5File *file, const Checkpoint *c, Error *err)
{
    const Option *option = option_at(option_find("batch.sampling"));
    for (int i = 0; i < option_choices(option); i++)
        if (strcmp(c->sampling, option_choice(option, i).name) == 0) return true;
    return error_usage(err, "%s: /sampler is of the unknown kind \"%s\": use another checkpoint", file->path,
                       c->sampling);
}

static bool check_values(const H5File *file, const Checkpoint *c, Error *err)
{
    Config config;
    if (c->unit != 0.5 && c->unit != 0x1p-32)
        return error_usage(err, "%s: /margins counts in units of %g; it must be 0.5 or 2^-32: damaged", file->path,
                           c->unit);
    for (int k = 0; k < c->category_count; k++)
        if (!check_category(file, c, k, err)) return false;
    return check_position(file, c, err) && check_sampling(file, c, err) &&
           config_load_text(&config, c->config, file->path, err);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

bool checkpoint_read(H5File *file, Checkpoint *c, Error *err)
{
    int64_t lengths[AXES] = { -1, -1 };
    *c = (Checkpoint){ 0 };
    if (!h5_check_format(file, checkpoint_format.name, checkpoint_format.version, err) ||
        !fields_measure(file, &checkpoint_format, lengths, err))
        return false;
    if (lengths[COUNT] != 2 * lengths[CATEGORY])
        return error_usage(err, "%s: /margins/pending has not two numbers for each of %lld categories: damaged",
                           file->path, (long long)lengths[CATEGORY]);
    if (!fields_read(file, &checkpoint_format, c, lengths, err)) return false;
    c->category_count = (int)lengths[CATEGORY];
    if (check_values(file, c, err)) return true;
    checkpoint_free(c);
    return false;
}

bool checkpoint_open(const char *path, Checkpoint *c, MPI_Comm comm, Error *err)
{
    H5File file;
    *c = (Checkpoint){ 0 };
    bool ok = h5_open(&file, path, comm, err) && checkpoint_read(&file, c, err);
    h5_close(&file);
    return ok;
}

void checkpoint_free(Checkpoint *c) { fields_free(&checkpoint_format, c); }

static bool same_categories(const H5File *file, const Checkpoint *c, int count, const char (*name)[CATEGORY_NAME],
                            Error *err)
{
    if (c->category_count != count)
        return error_usage(err, "%s: has margins of %d categories, the data has %d", file->path, c->category_count,
                           count);
    for (int k = 0; k < count; k++)
        if (strcmp(c->category_name[k], name[k]) != 0)
            return error_usage(err,
                               "%s: category %d is \"%s\", in the data it is \"%s\": margins belong to categories, so "
                               "this data needs a run of "
                               "its own",
                               file->path, k, c->category_name[k], name[k]);
    return true;
}

/* Counts of violations in the run's own units. */
static bool convert(const H5File *file, const int64_t *from, int64_t *to, int count, double factor, Error *err)
{
    for (int i = 0; i < count; i++) {
        if ((double)from[i] * factor >= UNITS_MOST)
            return error_usage(err, "%s: has too many violations to be gone on with as soft counts", file->path);
        to[i] = factor == 1 ? from[i] : (int64_t)llround((double)from[i] * factor);
    }
    return true;
}

static bool take_margins(const H5File *file, const Checkpoint *c, MarginState *m, Error *err)
{
    size_t k = (size_t)m->category_count;
    double factor = c->unit / margin_unit(m);
    memcpy(m->margin, c->margin, k * sizeof *m->margin);
    memcpy(m->violation_rate, c->violation_rate, k * sizeof *m->violation_rate);
    memcpy(m->n, c->n, k * sizeof *m->n);
    memcpy(m->pending, c->pending, k * sizeof *m->pending);
    m->pooled_rate = c->pooled_rate;
    m->pooled_error = c->standard_error ? c->pooled_error : margin_initial_error(c->pooled_rate);
    for (size_t i = 0; i < k; i++)
        m->standard_error[i] = c->standard_error ? c->standard_error[i] : margin_initial_error(c->violation_rate[i]);
    m->updates = c->margin_updates;
    m->last_update = c->last_update;
    return convert(file, c->violations, m->violations, (int)k, factor, err) &&
           convert(file, c->pending + k, m->pending + k, (int)k, factor, err);
}

static bool load_moments(H5File *file, const Transformer *t, Optimizer *o, Error *err)
{
    int parts = parts_count(t->trained);
    int64_t first = o->bounds[t->grid->replica], end = o->bounds[t->grid->replica + 1];
    uint64_t *checksums = calloc((size_t)parts, sizeof *checksums);
    const LoadedArray m = { o->m, o->first, o->end, first, end, false },
                      v = { o->v, o->first, o->end, first, end, true };
    bool ok = h5_agree(file, checksums || error_fault(err, "out of memory for reading %s", file->path), err) &&
              tensors_read(file, t, t->trained, "/optimizer/m", &m, checksums, err) &&
              tensors_read(file, t, t->trained, "/optimizer/v", &v, checksums, err);
    free(checksums);
    return ok;
}

bool checkpoint_load(const char *path, const Transformer *t, Optimizer *o, MarginState *margins,
                     const char (*category_name)[CATEGORY_NAME], Error *err)
{
    H5File file;
    Checkpoint c = { 0 };
    TokenizerInfo tokenizer; /* not used, but a file whose tokenizer is damaged is none to go on from */
    bool ok = h5_open(&file, path, t->grid->world, err) && checkpoint_read(&file, &c, err) &&
              same_categories(&file, &c, margins->category_count, category_name, err) &&
              take_margins(&file, &c, margins, err) &&
              tokenizer_verify(&file, t->architecture.vocab, &tokenizer, err) && load_moments(&file, t, o, err);
    if (ok) o->updates = c.optimizer_updates;
    checkpoint_free(&c);
    h5_close(&file);
    return ok;
}
