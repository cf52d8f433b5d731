/* reference.h5: log-probabilities of the frozen reference, kept for the next run on the same data and weights. */
#include "catdpo/files/reference_file.h"

#include "catdpo/h5/checksum.h"
#include "catdpo/h5/h5.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { REFERENCE_VERSION = 1, SETTINGS_TEXT = 4096, KEYS = 4 };

static const char *const format = "catdpo-reference";

typedef struct KeyText {
    const char *name, *value, *what;
} KeyText;

static void list_key(const ReferenceKey *key, KeyText text[KEYS])
{
    text[0] = (KeyText){ "data_digest", key->data_digest, "data" };
    text[1] = (KeyText){ "weights_digest", key->weights_digest, "weights" };
    text[2] = (KeyText){ "tokenizer_digest", key->tokenizer_digest, "tokenizer" };
    text[3] = (KeyText){ "settings", key->settings, "settings" };
}

static bool file_exists(const char *path, MPI_Comm comm)
{
    struct stat status;
    int rank, exists;
    CHECK_MPI(MPI_Comm_rank(comm, &rank));
    if (rank == 0) exists = stat(path, &status) == 0 || errno != ENOENT;
    CHECK_MPI(MPI_Bcast(&exists, 1, MPI_INT, 0, comm));
    return exists;
}

/* Is the open file a cache for this key? */
static bool check_key(H5File *file, const ReferenceKey *key, Error *err)
{
    KeyText text[KEYS];
    list_key(key, text);
    if (!h5_check_format(file, format, REFERENCE_VERSION, err)) return false;
    for (int i = 0; i < KEYS; i++) {
        char found[SETTINGS_TEXT];
        if (!h5_read_string(file, "/", text[i].name, found, sizeof found, err)) return false;
        if (strcmp(found, text[i].value) != 0) {
            return error_usage(err,
                               "%s: made for other %s: its %s is \"%.150s\", this run's is \"%.150s\"; delete the file "
                               "or name another "
                               "one as reference.cache",
                               file->path, text[i].what, text[i].name, found, text[i].value);
        }
    }
    return true;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static bool read_side(H5File *file, const char *group, const char *side, int64_t count, int64_t done, double *values,
                      Error *err)
{
    char name[256];
    uint64_t stored;
    snprintf(name, sizeof name, "/%.200s/%s", group, side);
    if (!h5_read_array(file, name, DATA_FLOAT64, 1, &count, values, err) ||
        !h5_read_uint64(file, name, "checksum", &stored, err))
        return false;
    if (checksum_words(values, 2 * count, 0, 1) != stored)
        return error_usage(err, "%s: %s is damaged (its checksum differs); delete the file", file->path, name);
    for (int64_t i = 0; i < done; i++)
        if (!isfinite(values[i]))
            return error_usage(err, "%s: entry %" PRId64 " of %s is not finite; delete the file", file->path, i, name);
    return true;
}

ReferenceStatus reference_cache_read(const char *path, const char *group, const ReferenceKey *key, int64_t count,
                                     double *chosen, double *rejected, int64_t *done, MPI_Comm comm, Error *err)
{
    *done = 0;
    if (!file_exists(path, comm)) return REFERENCE_ABSENT;
    H5File file;
    char name[256];
    bool has_group = false;
    snprintf(name, sizeof name, "/%.200s", group);
    bool ok = h5_open(&file, path, comm, err) && check_key(&file, key, err) && h5_exists(&file, name, &has_group, err);
    if (ok && has_group) {
        ok = h5_read_int64(&file, name, "done", 0, count, done, err) &&
             read_side(&file, group, "chosen", count, *done, chosen, err) &&
             read_side(&file, group, "rejected", count, *done, rejected, err);
    }
    h5_close(&file);
    return !ok ? REFERENCE_REFUSED : has_group ? REFERENCE_FOUND : REFERENCE_ABSENT;
}

/* FNV-1a over the key's values. */
static uint64_t key_hash(const ReferenceKey *key)
{
    KeyText text[KEYS];
    uint64_t hash = 0xCBF29CE484222325;
    list_key(key, text);
    for (int i = 0; i < KEYS; i++)
        for (const char *c = text[i].value;; c++) {
            hash = (hash ^ (unsigned char)*c) * 0x100000001B3;
            if (!*c) break;
        }
    return hash;
}

void reference_cache_beside(const char *path, const ReferenceKey *key, char beside[FILE_PATH])
{
    size_t length = strlen(path), stem = length > 3 && strcmp(path + length - 3, ".h5") == 0 ? length - 3 : length;
    snprintf(beside, FILE_PATH, "%.*s-%016" PRIx64 ".h5", (int)(stem < FILE_PATH - 32 ? stem : FILE_PATH - 32), path,
             key_hash(key));
}

bool reference_cache_is_other(const char *path, const ReferenceKey *key, MPI_Comm comm)
{
    H5File file;
    Error unreadable = { 0 }, other = { 0 };
    if (!file_exists(path, comm)) return false;
    bool is_other = h5_open(&file, path, comm, &unreadable) &&
                    h5_check_format(&file, format, REFERENCE_VERSION, &unreadable) && !check_key(&file, key, &other);
    h5_close(&file);
    return is_other;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static bool write_side(H5File *file, const char *group, const char *side, int64_t count, const double *values,
                       Error *err)
{
    char name[256];
    snprintf(name, sizeof name, "/%.200s/%s", group, side);
    return h5_write_array(file, name, DATA_FLOAT64, 1, &count, values, err) &&
           h5_write_uint64(file, name, "checksum", file->rank == 0 ? checksum_words(values, 2 * count, 0, 1) : 0,
                           err) &&
           h5_describe(file, name, "nat",
                       "log-probability of the completion under the frozen reference, summed over its tokens", err) &&
           h5_label_axis(file, name, 0, "pair", NULL, err);
}

/* A new file for the key, or a copy of the one there without the group. */
static bool open_for_group(H5File *file, const char *path, const char *folder, const char *group,
                           const ReferenceKey *key, MPI_Comm comm, Error *err)
{
    KeyText text[KEYS];
    list_key(key, text);
    if (!file_exists(path, comm)) {
        bool ok = h5_create(file, path, folder, comm, err) && h5_write_format(file, format, REFERENCE_VERSION, err);
        for (int i = 0; ok && i < KEYS; i++) ok = h5_write_string(file, "/", text[i].name, text[i].value, err);
        return ok;
    }
    char name[256];
    bool exists = false;
    snprintf(name, sizeof name, "/%.200s", group);
    bool ok = h5_open(file, path, comm, err) && check_key(file, key, err) && h5_exists(file, name, &exists, err);
    h5_close(file);
    return ok && h5_modify(file, path, folder, comm, err) && (!exists || h5_delete(file, name, err));
}

bool reference_cache_write(const char *path, const char *folder, const char *group, const ReferenceKey *key,
                           int64_t count, const double *chosen, const double *rejected, int64_t done, MPI_Comm comm,
                           Error *err)
{
    H5File file;
    char name[256];
    snprintf(name, sizeof name, "/%.200s", group);
    bool ok = open_for_group(&file, path, folder, group, key, comm, err) &&
              write_side(&file, group, "chosen", count, chosen, err) &&
              write_side(&file, group, "rejected", count, rejected, err) &&
              h5_write_int64(&file, name, "done", done, err) && h5_commit(&file, err);
    h5_close(&file);
    return ok;
}

/* ---- verifying --------------------------------------------------------------------------------------------------- */

bool reference_check(H5File *file, const char *group, int64_t *count, Error *err)
{
    char name[256];
    bool has_group = false;
    CHECK(file->comm == MPI_COMM_NULL);
    *count = -1;
    snprintf(name, sizeof name, "/%.200s", group);
    if (!h5_check_format(file, format, REFERENCE_VERSION, err) || !h5_exists(file, name, &has_group, err)) return false;
    if (!has_group) return true;
    snprintf(name, sizeof name, "/%.200s/chosen", group);
    if (!h5_expect(file, name, DATA_FLOAT64, 1, count, err)) return false;
    double *values = malloc((size_t)(*count + 1) * sizeof *values);
    int64_t done = 0;
    snprintf(name, sizeof name, "/%.200s", group);
    bool ok = (values || error_fault(err, "%s: no memory for %" PRId64 " pairs", file->path, *count)) &&
              h5_read_int64(file, name, "done", 0, *count, &done, err) &&
              read_side(file, group, "chosen", *count, done, values, err) &&
              read_side(file, group, "rejected", *count, done, values, err);
    free(values);
    return ok;
}
