/* What a file is: its format, its version, and who made it. */
#include "private.h"

#include "version.h"

#include <string.h>
#include <time.h>

bool h5_write_format(H5File *file, const char *format, int64_t version, Error *err)
{
    char created[32] = "";
    time_t now = time(NULL);
    struct tm utc;
    CHECK(gmtime_r(&now, &utc) && strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", &utc) > 0);
    file->version = version;
    return h5_write_string(file, "/", "format", format, err) &&
           h5_write_int64(file, "/", "format_version", version, err) &&
           h5_write_string(file, "/", "creator", "catdpo " CATDPO_VERSION, err) &&
           h5_write_string(file, "/", "created", created, err);
}

bool h5_check_format(H5File *file, const char *format, int64_t version, Error *err)
{
    char found[64];
    int64_t found_version;
    bool marked;
    if (!h5_has_attribute(file, "/", "format", &marked, err)) return false;
    if (!marked) {
        return error_usage(err,
                           "%s: not a %s file: an HDF5 file of another program (it has no root attribute \"format\")",
                           file->path, format);
    }
    if (!h5_read_string(file, "/", "format", found, sizeof found, err)) return false;
    if (strcmp(found, format) != 0)
        return error_usage(err, "%s: is a %s file; a %s file is needed", file->path, found, format);
    if (!h5_read_int64(file, "/", "format_version", 1, INT64_MAX, &found_version, err)) return false;
    if (found_version > version) {
        return error_usage(err, "%s: format version %lld; this program reads up to %lld: use a newer catdpo",
                           file->path, (long long)found_version, (long long)version);
    }
    file->version = found_version;
    return true;
}
