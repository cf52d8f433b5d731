#include "catdpo/files/adapter_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char GROUP[] = "/adapter";

/* ---- attributes ------------------------------------------------------------------------------------------------- */

/* The adapter's weights lie in the file. */
static bool check_size(const H5File *file, const Architecture *a, const AdapterSettings *s, Error *err)
{
    double query = (double)a->heads * a->head_dim, key = (double)a->groups * a->head_dim, hidden = a->hidden,
           mlp = a->mlp, numbers = 0;
    const double features[MODULES] = { hidden + query, hidden + key, hidden + key, query + hidden,
                                       hidden + mlp,   hidden + mlp, mlp + hidden };
    for (int l = 0; l < a->layers; l++)
        for (int m = 0; m < MODULES; m++)
            if (adapter_wanted(s, l, m)) numbers += s->rank * features[m];
    return 4 * numbers <= (double)file->size ||
           error_usage(err,
                       "%s: its adapter of rank %d asks for %.4g MB, the file has %.4g MB: damaged, use another copy",
                       file->path, s->rank, 4e-6 * numbers, (double)file->size / 1e6);
}

bool adapter_info_read(H5File *file, const Architecture *a, AdapterInfo *info, Error *err)
{
    int64_t rank;
    double alpha;
    char modules[ADAPTER_TEXT], layers[ADAPTER_TEXT], where[FILE_PATH + 32];
    snprintf(where, sizeof where, "%s: /adapter: ", file->path);
    return h5_read_int64(file, GROUP, "rank", 1, 1 << 30, &rank, err) &&
           h5_read_double(file, GROUP, "alpha", -1e30, 1e30, &alpha, err) &&
           h5_read_string(file, GROUP, "target_modules", modules, sizeof modules, err) &&
           h5_read_string(file, GROUP, "layers", layers, sizeof layers, err) &&
           h5_read_string(file, GROUP, "base", info->base, sizeof info->base, err) &&
           h5_read_string(file, GROUP, "base_digest", info->base_digest, sizeof info->base_digest, err) &&
           adapters_parse(&info->settings, a, rank, alpha, modules, layers, where, err) &&
           check_size(file, a, &info->settings, err);
}

bool adapter_find_base(const char *file, const AdapterInfo *info, char path[FILE_PATH], Error *err)
{
    const char *folder_end = strrchr(file, '/'), *name = strrchr(info->base, '/');
    snprintf(path, FILE_PATH, "%s", info->base);
    if (access(path, F_OK) == 0) return true;
    int folder = folder_end ? (int)(folder_end + 1 - file) : 0;
    bool fits = snprintf(path, FILE_PATH, "%.*s%s", folder, file, name ? name + 1 : info->base) < FILE_PATH;
    return (fits && access(path, F_OK) == 0) ||
           error_usage(err,
                       "%s holds an adapter, and its base is neither %s nor a file of that name beside it: put the "
                       "model with the weights digest %s there",
                       file, info->base, info->base_digest);
}

bool adapter_digest(const Parameters *p, const AdapterInfo *info, const uint64_t *checksums,
                    char digest[WEIGHTS_DIGEST], Error *err)
{
    static const char *const names[] = { "adapter", "alpha", "base" };
    char tensors[WEIGHTS_DIGEST];
    uint64_t values[3] = { 0 };
    if (!parts_digest(p, checksums, tensors, err)) return false;
    values[0] = strtoull(tensors, NULL, 16);
    memcpy(&values[1], &info->settings.alpha, sizeof values[1]);
    values[2] = strtoull(info->base_digest, NULL, 16);
    return weights_digest(3, names, values, digest) || error_fault(err, "out of memory for a digest");
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

bool adapter_read(H5File *file, const Transformer *t, const Parameters *p, const AdapterInfo *info, float *weights,
                  char digest[WEIGHTS_DIGEST], Error *err)
{
    uint64_t *checksums = calloc((size_t)parts_count(p), sizeof *checksums);
    const LoadedArray all = { weights, 0, p->local_floats, 0, t->grid->replica == 0 ? p->local_floats : 0, false };
    bool ok =
        error_agree(t->grid->world, checksums || error_fault(err, "out of memory for reading %s", file->path), err) &&
        tensors_read(file, t, p, GROUP, &all, checksums, err) &&
        error_agree(t->grid->world, adapter_digest(p, info, checksums, digest, err), err);
    free(checksums);
    return ok;
}

bool adapter_load(H5File *file, Transformer *t, char digest[WEIGHTS_DIGEST], Error *err)
{
    AdapterInfo info;
    const AdapterSettings *ours = &t->adapters.settings;
    if (!adapter_info_read(file, &t->architecture, &info, err)) return false;
    bool same = info.settings.rank == ours->rank && info.settings.alpha == ours->alpha &&
                info.settings.modules == ours->modules &&
                memcmp(info.settings.layer, ours->layer, sizeof ours->layer) == 0;
    if (!same) {
        char modules[ADAPTER_TEXT], layers[ADAPTER_TEXT];
        return error_usage(err,
                           "%s holds another adapter than the settings ask for: set lora.rank = %d, lora.alpha = %g, "
                           "lora.target_modules = \"%.200s\" and lora.layers = \"%.200s\"",
                           file->path, info.settings.rank, info.settings.alpha,
                           adapters_modules_text(&info.settings, &t->architecture, modules),
                           adapters_layers_text(&info.settings, &t->architecture, layers));
    }
    return adapter_read(file, t, t->trained, &info, t->trained_weights, digest, err);
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

bool adapter_create(H5File *file, const Transformer *t, const AdapterInfo *info, const uint64_t *checksums, Error *err)
{
    char text[ADAPTER_TEXT];
    const AdapterSettings *s = &info->settings;
    return h5_create_group(file, GROUP, err) && h5_write_int64(file, GROUP, "rank", s->rank, err) &&
           h5_write_double(file, GROUP, "alpha", s->alpha, err) &&
           h5_write_string(file, GROUP, "target_modules", adapters_modules_text(s, &t->architecture, text), err) &&
           h5_write_string(file, GROUP, "layers", adapters_layers_text(s, &t->architecture, text), err) &&
           h5_write_string(file, GROUP, "base", info->base, err) &&
           h5_write_string(file, GROUP, "base_digest", info->base_digest, err) &&
           tensors_create(file, t->trained, GROUP, checksums, err);
}
