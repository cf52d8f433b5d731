#include "catdpo/files/model_file.h"

#include "catdpo/core/memory.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- architecture ----------------------------------------------------------------------------------------------- */

#define REMEDY "import the model again"

/* What a model computes; its weights are the tensors of its family. */
const Format model_format = { MODEL_FORMAT, 1, architecture_fields, NULL, 0, REMEDY };

static const Field digests[] = {
    { "/model", "tokenizer_digest", FIELD_TEXT, offsetof(ModelInfo, tokenizer_digest), .size = DIGEST_TEXT },
    { "/model", "weights_digest", FIELD_TEXT, offsetof(ModelInfo, weights_digest), .size = WEIGHTS_DIGEST },
    { .kind = FIELD_END },
};
const Format model_digests = { MODEL_FORMAT, 1, digests, NULL, 0, REMEDY };

/* The weights that the sizes ask for lie in the file: nothing is allocated for more. */
static bool check_size(const H5File *file, const Architecture *a, Error *err)
{
    double hidden = a->hidden, query = (double)a->heads * a->head_dim, key = (double)a->groups * a->head_dim;
    double layer = 2 * hidden * (query + key) + 3 * hidden * a->mlp,
           bytes = 4 * ((a->tied ? 1 : 2) * hidden * a->vocab + a->layers * layer);
    return bytes <= (double)file->size ||
           error_usage(err,
                       "%s: its sizes (hidden %d, MLP %d, vocabulary %d, %d layers) ask for %.4g MB of weights, the "
                       "file has %.4g MB: damaged. "
                       "Use another copy, or import the model again",
                       file->path, a->hidden, a->mlp, a->vocab, a->layers, bytes / 1e6, (double)file->size / 1e6);
}

bool model_file_open(H5File *file, const char *path, ModelInfo *info, MPI_Comm comm, Error *err)
{
    *info = (ModelInfo){ .step = -1 };
    if (!h5_open(file, path, comm, err)) return false;
    char format[64] = "";
    bool marked, adapter;
    bool ok = h5_has_attribute(file, "/", "format", &marked, err) &&
              (!marked || h5_read_string(file, "/", "format", format, sizeof format, err));
    bool checkpoint = ok && strcmp(format, CHECKPOINT_FORMAT) == 0;
    ok = ok &&
         h5_check_format(file, checkpoint ? CHECKPOINT_FORMAT : MODEL_FORMAT, checkpoint ? CHECKPOINT_VERSION : 1,
                         err) &&
         (!checkpoint || h5_read_int64(file, "/", "step", 0, INT64_MAX, &info->step, err)) &&
         fields_read(file, &model_format, &info->architecture, NULL, err) &&
         architecture_check(&info->architecture, file->path, err) && h5_exists(file, "/adapter", &adapter, err) &&
         (adapter ? adapter_info_read(file, &info->architecture, &info->adapter, err)
                  : check_size(file, &info->architecture, err)) &&
         fields_read(file, &model_digests, info, NULL, err);
    if (!ok) h5_close(file);
    return ok;
}

/* Member `name`, of this type, or one without bytes. */
static BlobMember find_member(const Blobs *blobs, const char *name, DataType type)
{
    for (int i = 0; i < blobs->count; i++)
        if (strcmp(blobs->member[i].name, name) == 0 && blobs->member[i].type == type) return blobs->member[i];
    return (BlobMember){ .size = -1 };
}

/* Rank 0: do the bytes of the tokens and the tokens that end an answer fit a vocabulary of `vocab` ids? Files of older
 * versions have neither. */
static bool fits_vocabulary(const Blobs *blobs, int vocab)
{
    static const char *const flags[] = { "special", "byte_fallback" };
    BlobMember bytes = find_member(blobs, "bytes", DATA_UINT8), offsets = find_member(blobs, "offsets", DATA_INT64),
               stop = find_member(blobs, "stop_tokens", DATA_INT64);
    const int64_t *offset = (const int64_t *)(const void *)offsets.bytes,
                  *id = (const int64_t *)(const void *)stop.bytes;
    bool ok = true;
    if (bytes.bytes || offsets.bytes) {
        ok = bytes.bytes && offsets.size == vocab + 1 && offset[0] == 0 && offset[vocab] == bytes.size;
        for (int64_t i = 0; ok && i < vocab; i++) ok = offset[i] <= offset[i + 1];
        for (int i = 0; ok && i < 2; i++) ok = find_member(blobs, flags[i], DATA_UINT8).size == vocab;
    }
    for (int64_t i = 0; ok && i < stop.size; i++) ok = id[i] >= 0 && id[i] < vocab;
    return ok;
}

bool tokenizer_verify(H5File *file, int vocab, TokenizerInfo *info, Error *err)
{
    bool exists = false, named = false;
    Blobs blobs = { 0 };
    *info = (TokenizerInfo){ 0 };
    if (!h5_read_string(file, "/model", "tokenizer_digest", info->digest, sizeof info->digest, err) ||
        !h5_exists(file, "/tokenizer", &exists, err) || (exists && !h5_read_blobs(file, "/tokenizer", &blobs, err)))
        return false;
    info->members = blobs.count;
    for (int i = 0; i < blobs.count; i++) {
        info->bytes += blobs.member[i].size * (int64_t)data_size(blobs.member[i].type);
        named = named || strcmp(blobs.member[i].name, "tokenizer.json") == 0;
    }
    bool fits =
        file->rank != 0 || fits_vocabulary(&blobs, vocab) ||
        error_usage(err, "%s: the tokens of /tokenizer are not those of a vocabulary of %d: import the model again",
                    file->path, vocab);
    blobs_free(&blobs);
    if (!h5_agree(file, fits, err)) return false;
    return named == (*info->digest != '\0') ||
           error_usage(err, "%s: %s tokenizer.json, but the model %s digest of one: damaged. Import the model again",
                       file->path, named ? "has a" : "has no", named ? "names no" : "names the");
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

/* A model's own weights. */
static bool load_weights(H5File *file, Transformer *t, char digest[WEIGHTS_DIGEST], Error *err)
{
    const Parameters *p = &t->parameters;
    uint64_t *checksums = calloc((size_t)parts_count(p), sizeof *checksums);
    /* every replica reads all; the first one's are counted */
    const LoadedArray all = { t->weights, 0, p->local_floats, 0, t->grid->replica == 0 ? p->local_floats : 0, false };
    bool ok =
        error_agree(t->grid->world, checksums || error_fault(err, "out of memory for reading %s", file->path), err) &&
        tensors_read(file, t, p, "/model", &all, checksums, err) &&
        error_agree(t->grid->world, parts_digest(p, checksums, digest, err), err);
    free(checksums);
    return ok;
}

/* The base's weights, proven to be those that the adapter was made for. */
static bool load_base(const char *path, Transformer *t, const AdapterInfo *info, MPI_Comm comm, Error *err)
{
    H5File file;
    ModelInfo base;
    char found[FILE_PATH] = "", digest[WEIGHTS_DIGEST], difference[192];
    if (!error_agree(comm, adapter_find_base(path, info, found, err), err) ||
        !model_file_open(&file, found, &base, comm, err))
        return false;
    bool ok = (base.adapter.settings.rank == 0 ||
               error_usage(err, "%s is to be the base of the adapter in %s, but is an adapter itself", found, path)) &&
              (architecture_same(&base.architecture, &t->architecture, difference, sizeof difference) ||
               error_usage(err, "%s is not the base of the adapter in %s: %s", found, path, difference)) &&
              load_weights(&file, t, digest, err);
    h5_close(&file);
    return ok && (strcmp(digest, info->base_digest) == 0 ||
                  error_usage(err,
                              "%s is not the base of the adapter in %s: its weights have the digest %s, the adapter "
                              "was trained on %s",
                              found, path, digest, info->base_digest));
}

static bool merge_adapter(H5File *file, Transformer *t, char digest[WEIGHTS_DIGEST], Error *err)
{
    AdapterInfo info;
    Adapters x = { 0 };
    float *memory = NULL;
    if (!adapter_info_read(file, &t->architecture, &info, err) || !load_base(file->path, t, &info, t->grid->world, err))
        return false;
    bool ok = adapters_layout(&x, &info.settings, &t->architecture, &t->parameters, t->grid, err);
    int64_t floats = x.parameters.local_floats;
    ok = ok && (memory = memory_allocate((floats + x.wide_floats) * (int64_t)sizeof(float), "an adapter", err));
    ok = error_agree(t->grid->world, ok, err) && adapter_read(file, t, &x.parameters, &info, memory, digest, err);
    if (ok) transformer_merge(t, &x, memory, memory + floats);
    memory_free(memory);
    adapters_free(&x);
    return ok;
}

bool model_load(H5File *file, Transformer *t, char digest[WEIGHTS_DIGEST], Error *err)
{
    bool adapter = false;
    if (!h5_exists(file, "/adapter", &adapter, err)) return false;
    return adapter ? merge_adapter(file, t, digest, err) : load_weights(file, t, digest, err);
}
