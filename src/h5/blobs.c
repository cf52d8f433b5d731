/* Groups of small datasets: the files of a tokenizer and what goes with them. */
#include "private.h"

#include "catdpo/h5/checksum.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void blobs_free(Blobs *blobs)
{
    for (int i = 0; i < blobs->count; i++) free(blobs->member[i].bytes);
    *blobs = (Blobs){ 0 };
}

/* Rank 0: the names of a group's members. */
static bool list_names(const H5File *file, const char *group, int most, char names[][BLOB_NAME], int *count, Error *err)
{
    hid_t id = h5_open_object(file, group, err);
    if (id < 0) return false;
    H5G_info_t info = { 0 };
    bool ok = H5Iget_type(id) == H5I_GROUP || error_usage(err, "%s: %s is not a group", file->path, group);
    ok = ok && h5_ok(H5Gget_info(id, &info), err, "%s: cannot list %s", file->path, group);
    if (ok && info.nlinks > (hsize_t)most)
        ok = error_usage(err, "%s: %s has more than %d members", file->path, group, most);
    for (hsize_t i = 0; ok && i < info.nlinks; i++) {
        ssize_t length = H5Lget_name_by_idx(id, ".", H5_INDEX_NAME, H5_ITER_INC, i, names[i], BLOB_NAME, H5P_DEFAULT);
        ok = h5_ok(length, err, "%s: cannot list %s", file->path, group);
        if (ok && (length <= 0 || length >= BLOB_NAME || !text_is_valid(names[i]) || strchr(names[i], '/')))
            ok = error_usage(err, "%s: %s has a member with an impossible name", file->path, group);
    }
    *count = ok ? (int)info.nlinks : 0;
    H5Oclose(id);
    return ok;
}

bool h5_list(H5File *file, const char *group, int most, char names[][BLOB_NAME], int *count, Error *err)
{
    *count = 0;
    bool ok = file->rank != 0 || list_names(file, group, most, names, count, err);
    return h5_share(file, ok, count, sizeof *count, err) && h5_share(file, true, names, (int64_t)most * BLOB_NAME, err);
}

/* Rank 0: the names and sizes of a group's members. */
static bool list_blobs(const H5File *file, const char *group, Blobs *blobs, Error *err)
{
    char names[BLOBS_MAX][BLOB_NAME];
    int count;
    bool ok = list_names(file, group, BLOBS_MAX, names, &count, err);
    for (int i = 0; ok && i < count; i++) {
        BlobMember *member = &blobs->member[i];
        char path[FILE_PATH];
        size_t width;
        memcpy(member->name, names[i], BLOB_NAME);
        snprintf(path, sizeof path, "%s/%.*s", group, BLOB_NAME - 1, member->name);
        member->size = -1;
        hid_t set = h5_open_dataset(file, path, err), type = set >= 0 ? H5Dget_type(set) : -1;
        member->type = type >= 0 && h5_is_type(type, DATA_INT64) ? DATA_INT64 : DATA_UINT8;
        ok = set >= 0 && h5_check_dataset(file, set, path, (int)member->type, 1, &member->size, &width, err);
        if (type >= 0) H5Tclose(type);
        if (set >= 0) H5Dclose(set);
    }
    if (ok) blobs->count = count;
    return ok;
}

/* Of the bytes, whatever their type. */
static uint64_t blob_checksum(const BlobMember *member)
{
    int64_t bytes = member->size * (int64_t)data_size(member->type);
    Slab slab = slab_rows(1, &bytes, 0, bytes);
    return checksum_slab(&slab, DATA_UINT8, member->bytes);
}

/* Rank 0: files of an earlier version have no checksums here. */
static bool check_blob(const H5File *file, hid_t set, const char *path, const BlobMember *member, Error *err)
{
    uint64_t stored = 0;
    if (H5Aexists(set, "checksum") <= 0) return true;
    hid_t attribute = H5Aopen(set, "checksum", H5P_DEFAULT), type = attribute >= 0 ? H5Aget_type(attribute) : -1;
    bool ok = type >= 0 && h5_is_type(type, DATA_UINT64) && H5Aget_storage_size(attribute) == sizeof stored &&
              H5Aread(attribute, H5T_NATIVE_UINT64, &stored) >= 0;
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return (ok && stored == blob_checksum(member)) ||
           error_usage(err, "%s: %s is damaged: it does not have its checksum. Use another copy", file->path, path);
}

/* Rank 0: the bytes of the members that were listed. */
static bool fetch_blobs(const H5File *file, const char *group, Blobs *blobs, Error *err)
{
    for (int i = 0; i < blobs->count; i++) {
        char path[FILE_PATH];
        snprintf(path, sizeof path, "%s/%s", group, blobs->member[i].name);
        DataType type = blobs->member[i].type;
        size_t size = blobs->member[i].size > 0 ? (size_t)blobs->member[i].size : 1;
        blobs->member[i].bytes = malloc(size * data_size(type));
        if (!blobs->member[i].bytes) return error_fault(err, "%s: no memory to read %s", file->path, path);
        hid_t set = h5_open_dataset(file, path, err);
        bool ok = set >= 0 && (blobs->member[i].size == 0 || h5_ok(H5Dread(set, h5_memory_type(type), H5S_ALL, H5S_ALL,
                                                                           H5P_DEFAULT, blobs->member[i].bytes),
                                                                   err, "%s: cannot read %s", file->path, path));
        ok = ok && check_blob(file, set, path, &blobs->member[i], err);
        if (set >= 0) H5Dclose(set);
        if (!ok) return false;
    }
    return true;
}

bool h5_read_blobs(H5File *file, const char *group, Blobs *blobs, Error *err)
{
    *blobs = (Blobs){ 0 };
    bool ok = file->rank != 0 || (list_blobs(file, group, blobs, err) && fetch_blobs(file, group, blobs, err));
    Blobs shared = *blobs;
    if (!h5_share(file, ok, &shared, sizeof shared, err)) {
        blobs_free(blobs);
        return false;
    }
    if (file->rank == 0) return true;
    *blobs = shared;
    for (int i = 0; i < BLOBS_MAX; i++) blobs->member[i].bytes = NULL;
    return true;
}

/* A member of a group without its attributes; its name is left in path. */
static bool write_blob(H5File *file, const char *group, const BlobMember *member, char path[FILE_PATH], Error *err)
{
    snprintf(path, FILE_PATH, "%s/%s", group, member->name);
    return h5_write_array(file, path, member->type, 1, &member->size, member->bytes, err);
}

static bool write_blob_checksum(H5File *file, const char *path, const BlobMember *member, Error *err)
{
    return h5_write_uint64(file, path, "checksum", file->rank == 0 ? blob_checksum(member) : 0, err);
}

bool h5_write_blobs(H5File *file, const char *group, const Blobs *blobs, Error *err)
{
    char path[FILE_PATH];
    bool ok = h5_create_group(file, group, err);
    for (int i = 0; ok && i < blobs->count; i++)
        ok = write_blob(file, group, &blobs->member[i], path, err) &&
             write_blob_checksum(file, path, &blobs->member[i], err);
    return ok;
}

bool h5_copy_group(H5File *from, H5File *to, const char *group, Error *err)
{
    Blobs blobs;
    char path[FILE_PATH];
    bool has = false, ok = h5_read_blobs(from, group, &blobs, err) && h5_create_group(to, group, err);
    for (int i = 0; ok && i < blobs.count; i++)
        ok = write_blob(to, group, &blobs.member[i], path, err) && h5_copy_attributes(from, to, path, err) &&
             h5_has_attribute(to, path, "checksum", &has, err) &&
             (has || write_blob_checksum(to, path, &blobs.member[i], err));
    blobs_free(&blobs);
    return ok;
}
