#include "catdpo/files/foreign.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static bool ends_with(const char *path, const char *const endings[])
{
    size_t length = strlen(path);
    for (; *endings; endings++) {
        size_t n = strlen(*endings);
        if (length > n && strcasecmp(path + length - n, *endings) == 0) return true;
    }
    return false;
}

static bool is_hdf5(const char *path)
{
    static const char signature[8] = "\x89HDF\r\n\x1a\n";
    char begin[8];
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    bool same = fread(begin, 1, sizeof begin, file) == sizeof begin && memcmp(begin, signature, sizeof begin) == 0;
    fclose(file);
    return same;
}

static bool is_model_folder(const char *path)
{
    struct stat status;
    char config[4096];
    snprintf(config, sizeof config, "%.4000s/config.json", path);
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode) && access(config, F_OK) == 0;
}

bool foreign_refuse(const char *path, ForeignKind kind, Error *err)
{
    static const char *const models[] = { ".gguf", ".safetensors", ".bin", ".pt", ".whl", NULL };
    static const char *const pairs[] = { ".jsonl", ".json", ".jsonl.gz", ".json.gz", ".csv", ".parquet", NULL };
    struct stat status;
    /* opening a pipe that nobody writes to would wait for ever */
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode))
        return error_usage(err, "%s is a pipe or a device: an HDF5 file is not read in order, write it to a file first",
                           path);
    if (is_hdf5(path)) return true;
    if (kind == FOREIGN_MODEL && is_model_folder(path))
        return error_usage(
            err,
            "%s is a model in the Hugging Face layout: make a model.h5 of it with catdpo-analysis import "
            "%s --out model.h5",
            path, path);
    if (kind == FOREIGN_MODEL && ends_with(path, models))
        return error_usage(
            err, "%s is no model.h5: make one with catdpo-analysis import (a Hugging Face folder or a GGUF file)",
            path);
    if (kind == FOREIGN_PAIRS && ends_with(path, pairs))
        return error_usage(
            err,
            "%s holds texts: make token ids of them with catdpo-analysis prepare %s --model model.h5 --out "
            "pairs.h5",
            path, path);
    return true;
}
