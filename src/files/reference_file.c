/* reference.h5: log-probabilities of the frozen reference, kept for the next run on the same data and weights. */
#include "catdpo/files/reference_file.h"

#include "catdpo/h5/checksum.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- the format -------------------------------------------------------------------------------------------------- */

enum { SETTINGS_TEXT = 4096, PAIR = 0, AXES, SIDES = 2 };

/* Tags of rows: what the values depend on, and the values of a group. */
enum { KEY, VALUES };

/* What the file has of a group, and of all of them. */
typedef struct Stored {
    ReferenceKey key;
    int64_t done;
    double *logps[SIDES]; /* [N] of the chosen and the rejected completions; NaN where they are not done yet */
    uint64_t checksum[SIDES];
} Stored;

static const FieldAxis axes[AXES] = { [PAIR] = { .label = "pair", .most = INT64_MAX } };

#define MEMBER(member) .offset = offsetof(Stored, member)
#define SIDE(name, i)                                                                                                  \
    { "@/" name,                                                                                                       \
      NULL,                                                                                                            \
      FIELD_ARRAY,                                                                                                     \
      MEMBER(logps[i]),                                                                                                \
      .type = DATA_FLOAT64,                                                                                            \
      .axes = 1,                                                                                                       \
      .axis = { PAIR },                                                                                                \
      .nan = true,                                                                                                     \
      .units = "nat",                                                                                                  \
      .description = "log-probability of the completion under the frozen reference, summed over its tokens",           \
      .tag = VALUES },                                                                                                 \
    {                                                                                                                  \
        "@/" name, "checksum", FIELD_UINT, MEMBER(checksum[i]), .tag = VALUES                                          \
    }

static const Field fields[] = {
    { "/", "data_digest", FIELD_STRING, MEMBER(key.data_digest), .size = SETTINGS_TEXT },
    { "/", "weights_digest", FIELD_STRING, MEMBER(key.weights_digest), .size = SETTINGS_TEXT },
    { "/", "tokenizer_digest", FIELD_STRING, MEMBER(key.tokenizer_digest), .size = SETTINGS_TEXT },
    { "/", "settings", FIELD_STRING, MEMBER(key.settings), .size = SETTINGS_TEXT },
    SIDE("chosen", 0),
    SIDE("rejected", 1),
    { "@", "done", FIELD_INT, MEMBER(done), .most = INT64_MAX, .tag = VALUES },
    { .kind = FIELD_END },
};

const Format reference_format = { "catdpo-reference", 1, fields, axes, AXES, "delete the file" };

double reference_file_bytes(int64_t count) { return fields_bytes(&reference_format, &count); }

/* Text of a key's row. */
static const char *key_text(const Field *row, const ReferenceKey *key)
{
    return *(const char *const *)((const char *)key + (row->offset - offsetof(Stored, key)));
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
    GroupFormat rows;
    Stored stored = { 0 };
    format_of_group(&rows, &reference_format, "", 1u << KEY);
    if (!h5_check_format(file, reference_format.name, reference_format.version, err) ||
        !fields_read(file, &rows.format, &stored, NULL, err))
        return false;
    bool ok = true;
    for (const Field *row = rows.field; ok && row->kind != FIELD_END; row++) {
        const char *found = key_text(row, &stored.key), *wanted = key_text(row, key);
        ok = strcmp(found, wanted) == 0 ||
             error_usage(err,
                         "%s: made for other %.*s: its %s is \"%.150s\", this run's is \"%.150s\"; delete the file "
                         "or name another one as reference.cache",
                         file->path, (int)strcspn(row->attribute, "_"), row->attribute, row->attribute, found, wanted);
    }
    fields_free(&rows.format, &stored);
    return ok;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static bool check_values(const H5File *file, const GroupFormat *rows, const Stored *stored, int64_t count, Error *err)
{
    static const char *const side[SIDES] = { "chosen", "rejected" };
    if (stored->done > count)
        return error_usage(err, "%s: %s says that %" PRId64 " of its %" PRId64 " pairs are done; delete the file",
                           file->path, rows->group, stored->done, count);
    for (int s = 0; s < SIDES; s++) {
        if (checksum_words(stored->logps[s], 2 * count, 0, 1) != stored->checksum[s])
            return error_usage(err, "%s: %s/%s is damaged (its checksum differs); delete the file", file->path,
                               rows->group, side[s]);
        for (int64_t i = 0; i < stored->done; i++)
            if (!isfinite(stored->logps[s][i]))
                return error_usage(err, "%s: entry %" PRId64 " of %s/%s is not finite; delete the file", file->path, i,
                                   rows->group, side[s]);
    }
    return true;
}

/* The values of a group: *count of them, or as many as it has if that is -1. logps as fields_read takes it. */
static bool read_group(H5File *file, const GroupFormat *rows, Stored *stored, int64_t *count, Error *err)
{
    return fields_measure(file, &rows->format, count, err) && fields_read(file, &rows->format, stored, count, err) &&
           check_values(file, rows, stored, *count, err);
}

ReferenceStatus reference_cache_read(const char *path, const char *group, const ReferenceKey *key, int64_t count,
                                     double *chosen, double *rejected, int64_t *done, MPI_Comm comm, Error *err)
{
    *done = 0;
    if (!file_exists(path, comm)) return REFERENCE_ABSENT;
    H5File file;
    GroupFormat rows;
    Stored stored = { .logps = { chosen, rejected } };
    bool has_group = false;
    format_of_group(&rows, &reference_format, group, 1u << VALUES);
    bool ok =
        h5_open(&file, path, comm, err) && check_key(&file, key, err) && h5_exists(&file, rows.group, &has_group, err);
    if (ok && has_group) ok = read_group(&file, &rows, &stored, &count, err);
    h5_close(&file);
    if (ok) *done = stored.done;
    return !ok ? REFERENCE_REFUSED : has_group ? REFERENCE_FOUND : REFERENCE_ABSENT;
}

/* FNV-1a over the key's values. */
static uint64_t key_hash(const ReferenceKey *key)
{
    uint64_t hash = 0xCBF29CE484222325;
    for (const Field *row = fields; row->tag == KEY && row->kind != FIELD_END; row++)
        for (const char *c = key_text(row, key);; c++) {
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
                    h5_check_format(&file, reference_format.name, reference_format.version, &unreadable) &&
                    !check_key(&file, key, &other);
    h5_close(&file);
    return is_other;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* A new file for the key, or a copy of the one there without the group. */
static bool open_for_group(H5File *file, const char *path, const char *folder, const char *group,
                           const ReferenceKey *key, MPI_Comm comm, Error *err)
{
    const Stored about = { .key = *key };
    bool exists = false;
    if (!file_exists(path, comm)) {
        GroupFormat rows;
        format_of_group(&rows, &reference_format, "", 1u << KEY);
        return h5_create(file, path, folder, comm, err) &&
               h5_write_format(file, reference_format.name, reference_format.version, err) &&
               fields_write(file, &rows.format, &about, NULL, err);
    }
    bool ok = h5_open(file, path, comm, err) && check_key(file, key, err) && h5_exists(file, group, &exists, err);
    h5_close(file);
    return ok && h5_modify(file, path, folder, comm, err) && (!exists || h5_delete(file, group, err));
}

bool reference_cache_write(const char *path, const char *folder, const char *group, const ReferenceKey *key,
                           int64_t count, const double *chosen, const double *rejected, int64_t done, MPI_Comm comm,
                           Error *err)
{
    H5File file;
    GroupFormat rows;
    Stored stored = { .done = done, .logps = { (double *)chosen, (double *)rejected } };
    int rank;
    CHECK_MPI(MPI_Comm_rank(comm, &rank));
    for (int s = 0; rank == 0 && s < SIDES; s++) stored.checksum[s] = checksum_words(stored.logps[s], 2 * count, 0, 1);
    format_of_group(&rows, &reference_format, group, 1u << VALUES);
    bool ok = open_for_group(&file, path, folder, rows.group, key, comm, err) &&
              fields_write(&file, &rows.format, &stored, &count, err) && h5_commit(&file, err);
    h5_close(&file);
    return ok;
}

/* ---- verifying --------------------------------------------------------------------------------------------------- */

bool reference_check(H5File *file, const char *group, int64_t *count, Error *err)
{
    GroupFormat rows;
    Stored stored = { 0 };
    bool has_group = false;
    CHECK(file->comm == MPI_COMM_NULL);
    *count = -1;
    format_of_group(&rows, &reference_format, group, 1u << VALUES);
    if (!h5_check_format(file, reference_format.name, reference_format.version, err) ||
        !h5_exists(file, rows.group, &has_group, err))
        return false;
    bool ok = !has_group || read_group(file, &rows, &stored, count, err);
    fields_free(&rows.format, &stored);
    return ok;
}
