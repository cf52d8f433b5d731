/* Merging in two passes over the models: the first verifies them and makes the checksums of their average, which a
 * file's layout needs, the second writes it. */
#include "catdpo/files/merge_file.h"
#include "catdpo/core/stop.h"
#include "catdpo/files/tensors_file.h"
#include "tensors_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER = 1 << 22, SHOWN_FROM = 20000000 }; /* numbers; from this many on progress is shown */

typedef struct Merge {
    MPI_Comm comm;
    int rank, ranks, count, opened;
    const double *weight;
    H5File file[MERGE_MODELS];
    ModelInfo info[MERGE_MODELS];
    char origin[MERGE_MODELS][WEIGHTS_DIGEST]; /* of the weights that its training started from; "": not known */
    Parameters parameters;                     /* the whole model's, as on one rank */
    int parts;
    uint64_t *checksums; /* [count + 1, parts]: of each model, and of the average */
    float *values;       /* [buffer] of one model, then of the average */
    double *sums;        /* [buffer] */
    int64_t buffer;
    Progress progress;
    int64_t done; /* numbers of the average */
} Merge;

/* ---- may they be merged? ----------------------------------------------------------------------------------------- */

static bool open_model(Merge *m, int i, const char *path, Error *err)
{
    H5File *file = &m->file[i];
    bool known;
    if (!model_file_open(file, path, &m->info[i], m->comm, err)) return false;
    m->opened++;
    if (!h5_exists(file, "/adapter", &known, err)) return false;
    if (known)
        return error_usage(err, "%s holds adapters, not weights: export it as a whole model and import that", path);
    return h5_has_attribute(file, "/", "start_digest", &known, err) &&
           (!known || h5_read_string(file, "/", "start_digest", m->origin[i], WEIGHTS_DIGEST, err));
}

static bool refuse_different(const Merge *m, Error *err)
{
    char difference[192];
    for (int i = 1; i < m->count; i++) {
        if (!architecture_same(&m->info[i].architecture, &m->info[0].architecture, difference, sizeof difference))
            return error_usage(err, "%s has another shape than %s: %s. Only models of one shape can be merged",
                               m->file[i].path, m->file[0].path, difference);
        if (strcmp(m->info[i].tokenizer_digest, m->info[0].tokenizer_digest) != 0)
            return error_usage(err, "%s has another tokenizer than %s: their weights belong to other tokens",
                               m->file[i].path, m->file[0].path);
    }
    return true;
}

static bool related(const Merge *m, const MergeSources *earlier, int i, int j)
{
    const char *known[2][MERGE_MODELS + 2];
    int count[2] = { 0 };
    for (int side = 0; side < 2; side++) {
        int k = side == 0 ? i : j;
        known[side][count[side]++] = m->info[k].weights_digest;
        if (*m->origin[k]) known[side][count[side]++] = m->origin[k];
        for (int s = 0; s < earlier[k].count; s++) known[side][count[side]++] = earlier[k].digest[s];
    }
    for (int a = 0; a < count[0]; a++)
        for (int b = 0; b < count[1]; b++)
            if (strcmp(known[0][a], known[1][b]) == 0) return true;
    return false;
}

/* The average of models that were not trained from one start means nothing: every one has to be tied to the first, by
 * itself or by way of others, as its own weights, those that it started from or those that it was merged from. */
static bool refuse_unrelated(Merge *m, Error *err)
{
    bool tied[MERGE_MODELS] = { true };
    MergeSources *earlier = calloc((size_t)m->count, sizeof *earlier);
    bool ok = error_agree(m->comm, earlier || error_fault(err, "out of memory for %d models", m->count), err);
    for (int i = 0; ok && i < m->count; i++) ok = merge_sources_read(&m->file[i], &earlier[i], err);
    for (int round = 0; ok && round < m->count; round++)
        for (int i = 0; i < m->count; i++)
            for (int j = 0; j < m->count; j++) tied[j] = tied[j] || (tied[i] && related(m, earlier, i, j));
    for (int i = 0; ok && i < m->count; i++)
        if (!tied[i])
            ok = error_usage(err,
                             "%s and %s do not say that they come from one start, without which an average means "
                             "nothing: neither was trained from the other, or both from a third, as far as their "
                             "files tell. If you know that they do, say --unrelated",
                             m->file[0].path, m->file[i].path);
    free(earlier);
    return ok;
}

/* ---- one tensor after another ------------------------------------------------------------------------------------ */

/* This rank's rows of model i from `at` on: into the sums, and into its checksum. */
static bool add_model(Merge *m, int i, const char *dataset, const Slab *slab, bool first, uint64_t *checksum,
                      Error *err)
{
    double weight = m->weight[i];
    int64_t count = slab->axes > 0 ? slab_count(slab) : 0;
    if (!h5_read_slab(&m->file[i], dataset, DATA_FLOAT32, slab, m->values, err)) return false;
    if (count > 0) *checksum += checksum_slab(slab, DATA_FLOAT32, m->values);
    for (int64_t j = 0; first && j < count; j++) m->sums[j] = weight * m->values[j];
    for (int64_t j = 0; !first && weight != 0 && j < count; j++) m->sums[j] += weight * m->values[j];
    return true;
}

/* The average of a part, to `out` unless NULL. Checksums go to column `part`. */
static bool merge_part(Merge *m, const Tensor *tensor, int index, int part, H5File *out, Error *err)
{
    char dataset[PART_DATASET];
    int64_t dims[2] = { 0, 1 };
    uint64_t stored[MERGE_MODELS], found[MERGE_MODELS + 1] = { 0 };
    for (int i = 0; i < m->count; i++)
        if (!part_expect(&m->file[i], "/model", tensor, index, dataset, dims, &stored[i], err)) return false;
    int axes = tensor->vector ? 1 : 2, lead = 0;
    int64_t width = axes == 1 ? 1 : dims[1], rows = m->buffer / width;
    bool finite = true;
    while (m->weight[lead] == 0) lead++; /* 0 + -0 would be another zero than -0 */
    for (int64_t at = 0; at < dims[0]; at += rows * m->ranks) {
        int64_t first = at + rows * m->rank, count = dims[0] - first < rows ? dims[0] - first : rows;
        Slab slab = count > 0 ? slab_rows(axes, dims, first, count) : slab_none();
        for (int i = lead, n = 0; n < m->count; n++, i = (i + 1) % m->count)
            if (!add_model(m, i, dataset, &slab, n == 0, &found[i], err)) return false;
        for (int64_t j = 0; j < count * width; j++) m->values[j] = (float)m->sums[j];
        finite = finite && (count <= 0 || all_finite(m->values, count * width));
        if (count > 0) found[m->count] += checksum_slab(&slab, DATA_FLOAT32, m->values);
        if (out && !h5_write_slab(out, dataset, DATA_FLOAT32, &slab, m->values, err)) return false;
    }
    checksum_sum(m->count + 1, found, m->comm);
    for (int i = 0; i < m->count; i++) {
        if (!part_is_whole(&m->file[i], dataset, found[i], stored[i], err)) return false;
        m->checksums[i * m->parts + part] = found[i];
    }
    uint64_t *sum = &m->checksums[m->count * m->parts + part];
    if (out && *sum != found[m->count]) return error_fault(err, "%s changed while it was read: merge again", dataset);
    *sum = found[m->count];
    return error_agree(m->comm,
                       finite || error_usage(err, "the average of %s is not finite in %s", m->file[0].path, dataset),
                       err);
}

static bool merge_parts(Merge *m, H5File *out, Error *err)
{
    for (int i = 0, part = 0; i < m->parameters.count; i++)
        for (int j = 0; j < m->parameters.tensor[i].part_count; j++, part++) {
            const Tensor *tensor = &m->parameters.tensor[i];
            int signal = stop_signal();
            if (!error_agree(m->comm,
                             signal == 0 || error_stopped(err, false, "stopped by %s, nothing was written: start again",
                                                          stop_name(signal)),
                             err) ||
                !merge_part(m, tensor, j, part, out, err))
                return false;
            m->done += (int64_t)tensor->part[j].rows * tensor->columns.length;
            progress_update(&m->progress, m->done / 1000000,
                            &(ProgressFields){ NAN, NAN, NULL, NAN, out ? "writing" : "reading" });
        }
    return true;
}

/* Each model's digest is that of the tensors that were read; *digest: that of the average. */
static bool check_digests(Merge *m, MergeSources *from, char digest[WEIGHTS_DIGEST], Error *err)
{
    for (int i = 0; i < m->count; i++) {
        if (!parts_digest(&m->parameters, m->checksums + i * m->parts, from->digest[i], err)) return false;
        if (strcmp(from->digest[i], m->info[i].weights_digest) != 0)
            return error_usage(err,
                               "%s is damaged: its weights have the digest %s, the file says %s. Copy or import it "
                               "again",
                               m->file[i].path, from->digest[i], m->info[i].weights_digest);
    }
    return parts_digest(&m->parameters, m->checksums + m->count * m->parts, digest, err);
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static bool write_sources(H5File *file, const MergeSources *from, Error *err)
{
    const int64_t count = from->count;
    return h5_create_group(file, "/merge", err) &&
           h5_write_strings(file, "/merge/model", count, sizeof from->model[0], from->model[0], err) &&
           h5_write_strings(file, "/merge/weights_digest", count, sizeof from->digest[0], from->digest[0], err) &&
           h5_write_array(file, "/merge/weight", DATA_FLOAT64, 1, &count, from->weight, err) &&
           h5_describe(file, "/merge/weight", "1", "weight of each model in the average", err);
}

bool merge_sources_read(H5File *file, MergeSources *from, Error *err)
{
    bool there;
    int64_t count = 0;
    double sum = 0;
    *from = (MergeSources){ 0 };
    if (!h5_exists(file, "/merge", &there, err)) return false;
    if (!there) return true;
    if (!h5_count_strings(file, "/merge/model", 1, MERGE_MODELS, &count, err) ||
        !h5_read_strings(file, "/merge/model", count, sizeof from->model[0], from->model[0], err) ||
        !h5_read_strings(file, "/merge/weights_digest", count, sizeof from->digest[0], from->digest[0], err) ||
        !h5_read_array(file, "/merge/weight", DATA_FLOAT64, 1, &count, from->weight, err))
        return false;
    for (int i = 0; i < count; i++) sum += from->weight[i];
    from->count = (int)count;
    return fabs(sum - 1) <= 1e-6 ||
           error_usage(err, "%s: the weights of /merge add up to %g, not to 1: damaged", file->path, sum);
}

/* A group of one of the models, if it is there. */
static bool copy_if_there(H5File *source, H5File *file, const char *group, bool *there, Error *err)
{
    return h5_exists(source, group, there, err) && (!*there || h5_copy_group(source, file, group, err));
}

static bool lay_out(Merge *m, H5File *file, const MergeSources *from, const char *digest, Error *err)
{
    bool there = false;
    bool ok = h5_write_format(file, MODEL_FORMAT, 1, err) && h5_create_group(file, "/model", err) &&
              h5_copy_attributes(&m->file[0], file, "/model", err) &&
              h5_write_string(file, "/model", "weights_digest", digest, err) &&
              tensors_create(file, &m->parameters, "/model", m->checksums + m->count * m->parts, err) &&
              copy_if_there(&m->file[0], file, "/tokenizer", &there, err) && write_sources(file, from, err);
    there = false;
    for (int i = 0; ok && !there && i < m->count; i++) ok = copy_if_there(&m->file[i], file, "/templates", &there, err);
    return ok;
}

static bool prepare(Merge *m, const MergeSources *from, bool unrelated, Log *log, Error *err)
{
    const Grid alone = { .replicas = 1, .rows = 1, .columns = 1, .world = MPI_COMM_NULL, .comm = MPI_COMM_NULL };
    for (int i = 0; i < m->count; i++)
        if (!open_model(m, i, from->model[i], err)) return false;
    if (!refuse_different(m, err) || (!unrelated && !refuse_unrelated(m, err))) return false;
    bool ok = parameters_layout(&m->parameters, &m->info[0].architecture, &alone, err);
    if (!error_agree(m->comm, ok, err)) return false;
    m->parts = parts_count(&m->parameters);
    m->buffer = BUFFER;
    for (int i = 0; i < m->parameters.count; i++)
        if (m->parameters.tensor[i].columns.length > m->buffer) m->buffer = m->parameters.tensor[i].columns.length;
    m->checksums = calloc((size_t)(m->count + 1) * (size_t)m->parts, sizeof *m->checksums);
    m->values = malloc((size_t)m->buffer * sizeof *m->values);
    m->sums = malloc((size_t)m->buffer * sizeof *m->sums);
    int64_t numbers = 2 * m->parameters.logical;
    bool shown = log->terminal >= 0 && numbers > SHOWN_FROM;
    progress_begin(&m->progress, log, shown ? PROGRESS_BAR : PROGRESS_OFF, "merge", 0, numbers / 1000000);
    return error_agree(m->comm,
                       (m->checksums && m->values && m->sums) ||
                           error_fault(err, "out of memory for merging tensors of %s", m->file[0].path),
                       err);
}

bool models_merge(const char *path, MergeSources *from, bool unrelated, Log *log, char digest[WEIGHTS_DIGEST],
                  MPI_Comm comm, Error *err)
{
    Merge *m = calloc(1, sizeof *m);
    H5File out;
    if (!error_agree(comm, m || error_fault(err, "out of memory at the start"), err)) {
        free(m);
        return false;
    }
    m->comm = comm;
    m->count = from->count;
    m->weight = from->weight;
    CHECK_MPI(MPI_Comm_rank(comm, &m->rank));
    CHECK_MPI(MPI_Comm_size(comm, &m->ranks));
    bool ok = prepare(m, from, unrelated, log, err) && merge_parts(m, NULL, err) &&
              error_agree(comm, check_digests(m, from, digest, err), err);
    if (ok && (ok = h5_create(&out, path, NULL, comm, err)))
        ok = h5_commit_if(lay_out(m, &out, from, digest, err) && merge_parts(m, &out, err), &out, err);
    for (int i = 0; i < m->opened; i++) h5_close(&m->file[i]);
    parameters_free(&m->parameters);
    free(m->checksums);
    free(m->values);
    free(m->sums);
    free(m);
    return ok;
}
