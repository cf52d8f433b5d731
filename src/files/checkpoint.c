/* Checkpoints: written with all ranks' shares of the model and of its moments, read back onto any grid. */
#include "catdpo/files/checkpoint.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* /model's attributes and the tokenizer as in the file that the run's model came from, with the digest of today's
 * weights. */
static bool lay_out_model(H5File *file, H5File *source, const Transformer *t, const uint64_t *checksums, Error *err)
{
    char digest[WEIGHTS_DIGEST];
    return error_agree(t->grid->world, parts_digest(&t->parameters, checksums, digest, err), err) &&
           h5_create_group(file, "/model", err) && h5_copy_attributes(source, file, "/model", err) &&
           h5_write_string(file, "/model", "weights_digest", digest, err) &&
           tensors_create(file, t, "/model", checksums, err) && h5_copy_group(source, file, "/tokenizer", err);
}

static bool lay_out_margins(H5File *file, const MarginState *m, const CheckpointInfo *info, Error *err)
{
    int64_t k = m->category_count, both = 2 * k;
    return h5_create_group(file, "/margins", err) &&
           h5_write_strings(file, "/margins/category", k, CATEGORY_NAME, info->category_name[0], err) &&
           h5_write_array(file, "/margins/margin", DATA_FLOAT64, 1, &k, m->margin, err) &&
           h5_describe(file, "/margins/margin", "nat", "safety margin of each category, in units of beta * h", err) &&
           h5_write_array(file, "/margins/violation_rate", DATA_FLOAT64, 1, &k, m->violation_rate, err) &&
           h5_describe(file, "/margins/violation_rate", "1", "running violation rate of each category", err) &&
           h5_write_array(file, "/margins/n", DATA_INT64, 1, &k, m->n, err) &&
           h5_describe(file, "/margins/n", "1", "pairs counted since the beginning", err) &&
           h5_write_array(file, "/margins/violations", DATA_INT64, 1, &k, m->violations, err) &&
           h5_describe(file, "/margins/violations", "1", "their violations, in the attribute `unit` of the group",
                       err) &&
           h5_write_array(file, "/margins/pending", DATA_INT64, 1, &both, m->pending, err) &&
           h5_describe(file, "/margins/pending", "1", "counts and violations that have not entered an update yet",
                       err) &&
           h5_write_double(file, "/margins", "unit", margin_unit(m), err) &&
           h5_write_double(file, "/margins", "pooled_rate", m->pooled_rate, err) &&
           h5_write_int64(file, "/margins", "updates", m->updates, err) &&
           h5_write_int64(file, "/margins", "last_update", m->last_update, err);
}

static bool lay_out_run(H5File *file, const CheckpointInfo *info, Error *err)
{
    return h5_write_int64(file, "/", "step", info->step, err) &&
           h5_write_int64(file, "/", "total_steps", info->total_steps, err) &&
           h5_write_int64(file, "/", "num_tokens", info->num_tokens, err) &&
           h5_write_string(file, "/", "version", info->version, err) &&
           h5_write_string(file, "/", "data_digest", info->data_digest, err) &&
           h5_write_string(file, "/", "tokenizer_digest", info->tokenizer_digest, err) &&
           h5_write_string(file, "/", "template_digest", info->template_digest, err) &&
           h5_write_string(file, "/", "layout", info->layout, err) &&
           h5_write_string(file, "/", "start_digest", info->start_digest, err) &&
           h5_write_string(file, "/", "reference_digest", info->reference_digest, err) &&
           h5_write_int64(file, "/", "skipped", info->skipped, err) &&
           h5_write_double(file, "/", "heldout_worst", isfinite(info->heldout_worst) ? info->heldout_worst : -1, err) &&
           h5_write_text(file, "/config", info->config, err) && h5_create_group(file, "/sampler", err) &&
           h5_write_int64(file, "/sampler", "step", info->step, err) &&
           h5_write_uint64(file, "/sampler", "seed", info->seed, err) &&
           h5_write_string(file, "/sampler", "kind", info->sampling, err);
}

/* Everything that the layout needs before the first tensor is written. */
static bool lay_out(H5File *file, const char *model_path, const Transformer *t, const Optimizer *o,
                    const MarginState *margins, const CheckpointInfo *info, const uint64_t *checksums, int parts,
                    Error *err)
{
    H5File source;
    if (!h5_open(&source, model_path, t->grid->world, err)) return false;
    bool ok = h5_write_format(file, CHECKPOINT_FORMAT, 1, err) && lay_out_run(file, info, err) &&
              lay_out_margins(file, margins, info, err) && lay_out_model(file, &source, t, checksums, err) &&
              h5_create_group(file, "/optimizer", err) &&
              h5_write_int64(file, "/optimizer", "updates", o->updates, err) &&
              tensors_create(file, t, "/optimizer/m", checksums + parts, err) &&
              tensors_create(file, t, "/optimizer/v", checksums + 2 * parts, err);
    h5_close(&source);
    return ok;
}

bool checkpoint_write(const char *path, const char *model_path, const Transformer *t, const Optimizer *o,
                      const MarginState *margins, const CheckpointInfo *info, Error *err)
{
    /* replicas hold the same weights: each writes its share, as it does with its moments */
    int64_t first = o->bounds[t->grid->replica], end = o->bounds[t->grid->replica + 1];
    const ShardedArray arrays[] = { { t->weights + first, first, end },
                                    { o->m + (first - o->first), first, end },
                                    { o->v + (first - o->first), first, end } };
    static const char *const groups[] = { "/model", "/optimizer/m", "/optimizer/v" };
    int parts = parts_count(&t->parameters);
    uint64_t *checksums = calloc(3 * (size_t)parts, sizeof *checksums);
    H5File file;
    bool ok = error_agree(t->grid->world,
                          checksums || error_fault(err, "out of memory for the checksums of a checkpoint"), err) &&
              h5_create(&file, path, info->folder, t->grid->world, err);
    if (ok) {
        for (int i = 0; i < 3; i++) tensors_checksums(t, &arrays[i], checksums + i * parts);
        ok = lay_out(&file, model_path, t, o, margins, info, checksums, parts, err);
        for (int i = 0; ok && i < 3; i++) ok = tensors_write(&file, t, groups[i], &arrays[i], err);
        if (ok)
            ok = h5_commit(&file, err);
        else
            h5_close(&file);
    }
    free(checksums);
    return ok;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

enum { CONFIG_BYTES = 1 << 20 };
static const int64_t COUNTS_MAX = (int64_t)1
                                  << 48; /* steps, tokens, pairs: more than any run has, and sums do not overflow */

bool checkpoint_read_head(H5File *file, CheckpointHead *h, Error *err)
{
    *h = (CheckpointHead){ 0 };
    bool ok = h5_check_format(file, CHECKPOINT_FORMAT, 1, err) &&
              h5_read_int64(file, "/", "step", 0, COUNTS_MAX, &h->step, err) &&
              h5_read_int64(file, "/", "total_steps", h->step, COUNTS_MAX, &h->total_steps, err) &&
              h5_read_int64(file, "/", "num_tokens", 0, COUNTS_MAX, &h->num_tokens, err) &&
              h5_read_int64(file, "/", "skipped", 0, h->step, &h->skipped, err) &&
              h5_read_double(file, "/", "heldout_worst", -1, 1, &h->heldout_worst, err) &&
              h5_read_uint64(file, "/sampler", "seed", &h->seed, err) &&
              h5_read_string(file, "/", "data_digest", h->data_digest, sizeof h->data_digest, err) &&
              h5_read_string(file, "/", "tokenizer_digest", h->tokenizer_digest, sizeof h->tokenizer_digest, err) &&
              h5_read_string(file, "/", "template_digest", h->template_digest, sizeof h->template_digest, err) &&
              h5_read_string(file, "/", "layout", h->layout, sizeof h->layout, err) &&
              h5_read_string(file, "/", "start_digest", h->start_digest, sizeof h->start_digest, err) &&
              h5_read_string(file, "/", "reference_digest", h->reference_digest, sizeof h->reference_digest, err) &&
              h5_load_text(file, "/config", CONFIG_BYTES, &h->config, err);
    if (ok && h->heldout_worst < 0) h->heldout_worst = NAN;
    if (!ok) checkpoint_head_free(h);
    return ok;
}

bool checkpoint_head(const char *path, CheckpointHead *head, MPI_Comm comm, Error *err)
{
    H5File file;
    *head = (CheckpointHead){ 0 };
    bool ok = h5_open(&file, path, comm, err) && checkpoint_read_head(&file, head, err);
    h5_close(&file);
    return ok;
}

void checkpoint_head_free(CheckpointHead *head)
{
    free(head->config);
    head->config = NULL;
}

static bool same_categories(H5File *file, int64_t k, const char (*name)[CATEGORY_NAME], Error *err)
{
    int64_t count;
    if (!h5_count_strings(file, "/margins/category", k, k, &count, err)) return false;
    char(*found)[CATEGORY_NAME] = malloc((size_t)k * sizeof *found);
    bool ok = h5_agree(file, found || error_fault(err, "out of memory for the names of %lld categories", (long long)k),
                       err) &&
              h5_read_strings(file, "/margins/category", k, CATEGORY_NAME, found[0], err);
    for (int64_t i = 0; ok && i < k; i++)
        if (strcmp(found[i], name[i]) != 0)
            ok = error_usage(err,
                             "%s: category %lld is \"%s\", in the data it is \"%s\": margins belong to categories, so "
                             "this data needs a run of "
                             "its own",
                             file->path, (long long)i, found[i], name[i]);
    free(found);
    return ok;
}

/* A pair has at most one violation, and as many as there are in COUNTS_MAX pairs can be counted on in the run's units.
 */
static bool are_counts(int64_t n, int64_t violations, double unit, double own_unit)
{
    return n >= 0 && n <= COUNTS_MAX && violations >= 0 && (double)violations * unit <= (double)n + 1e-6 &&
           (double)violations * (unit / own_unit) < (double)(INT64_MAX / 2);
}

/* Are the numbers such as a run can have? `unit`: of the file's violations. */
static bool check_margins(const H5File *file, const MarginState *m, double unit, Error *err)
{
    double own = margin_unit(m);
    for (int k = 0; k < m->category_count; k++) {
        bool ok = m->margin[k] >= 0 && isfinite(m->margin[k]) && m->violation_rate[k] >= 0 &&
                  m->violation_rate[k] <= 1 && are_counts(m->n[k], m->violations[k], unit, own) &&
                  are_counts(m->pending[k], m->pending[m->category_count + k], unit, own);
        if (!ok)
            return error_usage(err, "%s: /margins holds numbers out of range for category %d: the file is damaged",
                               file->path, k);
    }
    return true;
}

static void convert_units(int64_t *values, int count, double factor)
{
    for (int i = 0; i < count; i++) values[i] = (int64_t)llround((double)values[i] * factor);
}

static bool load_margins(H5File *file, MarginState *m, const char (*category_name)[CATEGORY_NAME], Error *err)
{
    int64_t k = m->category_count, both = 2 * k;
    double unit;
    bool ok = same_categories(file, k, category_name, err) &&
              h5_read_array(file, "/margins/margin", DATA_FLOAT64, 1, &k, m->margin, err) &&
              h5_read_array(file, "/margins/violation_rate", DATA_FLOAT64, 1, &k, m->violation_rate, err) &&
              h5_read_array(file, "/margins/n", DATA_INT64, 1, &k, m->n, err) &&
              h5_read_array(file, "/margins/violations", DATA_INT64, 1, &k, m->violations, err) &&
              h5_read_array(file, "/margins/pending", DATA_INT64, 1, &both, m->pending, err) &&
              h5_read_double(file, "/margins", "unit", DBL_MIN, 1, &unit, err) &&
              h5_read_double(file, "/margins", "pooled_rate", 0, 1, &m->pooled_rate, err) &&
              h5_read_int64(file, "/margins", "updates", 0, COUNTS_MAX, &m->updates, err) &&
              h5_read_int64(file, "/margins", "last_update", 0, COUNTS_MAX, &m->last_update, err) &&
              check_margins(file, m, unit, err);
    if (ok && unit != margin_unit(m)) {
        convert_units(m->violations, (int)k, unit / margin_unit(m));
        convert_units(m->pending + k, (int)k, unit / margin_unit(m));
    }
    return ok;
}

static bool load_moments(H5File *file, const Transformer *t, Optimizer *o, Error *err)
{
    int parts = parts_count(&t->parameters);
    int64_t first = o->bounds[t->grid->replica], end = o->bounds[t->grid->replica + 1];
    uint64_t *checksums = calloc((size_t)parts, sizeof *checksums);
    const LoadedArray m = { o->m, o->first, o->end, first, end }, v = { o->v, o->first, o->end, first, end };
    bool ok = h5_agree(file, checksums || error_fault(err, "out of memory for reading %s", file->path), err) &&
              tensors_read(file, t, "/optimizer/m", &m, checksums, err) &&
              tensors_read(file, t, "/optimizer/v", &v, checksums, err) &&
              h5_read_int64(file, "/optimizer", "updates", 0, COUNTS_MAX, &o->updates, err);
    free(checksums);
    return ok;
}

bool checkpoint_load(const char *path, const Transformer *t, Optimizer *o, MarginState *margins,
                     const char (*category_name)[CATEGORY_NAME], Error *err)
{
    H5File file;
    bool ok = h5_open(&file, path, t->grid->world, err) && load_margins(&file, margins, category_name, err) &&
              load_moments(&file, t, o, err);
    h5_close(&file);
    return ok;
}
