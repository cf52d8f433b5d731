/* Objects and their attributes: rank 0 reads and writes, all ranks get the value. */
#include "private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_SLACK = 1 << 16 }; /* padding that a text attribute may have beyond what it holds */

/* ---- objects ----------------------------------------------------------------------------------------------------- */

/* Does a chain of hard links lead to the object? 1 yes, 0 no, -1 refused with a message. */
static int find_object(const H5File *file, const char *object, Error *err)
{
    CHECK(object[0] == '/' && strlen(object) < FILE_PATH);
    char prefix[FILE_PATH];
    strcpy(prefix, object);
    for (size_t end = 1; object[end - 1] && object[end]; end++) {
        size_t length = strcspn(object + end, "/");
        prefix[end + length] = '\0';
        H5L_info_t link;
        htri_t exists = H5Lexists(file->meta, prefix, H5P_DEFAULT);
        if (exists == 0) return 0;
        Error damage = { 0 };
        if (!h5_ok(exists, &damage, "%s: cannot look up %s", file->path, prefix) ||
            !h5_ok(H5Lget_info(file->meta, prefix, &link, H5P_DEFAULT), &damage, "%s: cannot look up %s", file->path,
                   prefix)) {
            error_usage(err, "%s", damage.message);
            return -1;
        }
        if (link.type != H5L_TYPE_HARD) {
            error_usage(
                err, "%s: %s is a soft or external link; links are not followed: copy what it points to into the file",
                file->path, prefix);
            return -1;
        }
        prefix[end + length] = '/';
        end += length;
    }
    return 1;
}

hid_t h5_open_object(const H5File *file, const char *object, Error *err)
{
    int found = find_object(file, object, err);
    if (found == 0) error_usage(err, "%s: has no %s", file->path, object);
    if (found != 1) return -1;
    hid_t id = H5Oopen(file->meta, object, H5P_DEFAULT);
    Error damage = { 0 };
    if (!h5_ok(id, &damage, "%s: cannot open %s", file->path, object)) error_usage(err, "%s", damage.message);
    return id;
}

bool h5_exists(H5File *file, const char *object, bool *exists, Error *err)
{
    int found = file->rank == 0 ? find_object(file, object, err) : 0;
    if (!h5_share(file, found >= 0, &found, sizeof found, err)) return false;
    *exists = found == 1;
    return true;
}

bool h5_has_attribute(H5File *file, const char *object, const char *name, bool *exists, Error *err)
{
    htri_t found = 0;
    bool ok = true;
    if (file->rank == 0) {
        hid_t id = h5_open_object(file, object, err);
        ok = id >= 0 &&
             h5_ok(found = H5Aexists(id, name), err, "%s: cannot look up attribute %s of %s", file->path, name, object);
        if (id >= 0) H5Oclose(id);
    }
    if (!h5_share(file, ok, &found, sizeof found, err)) return false;
    *exists = found > 0;
    return true;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Rank 0: open a scalar attribute; negative on failure. */
static hid_t open_attribute(const H5File *file, const char *object, const char *name, Error *err)
{
    hid_t id = h5_open_object(file, object, err), attribute = -1;
    if (id < 0) return -1;
    htri_t exists = H5Aexists(id, name);
    if (exists == 0)
        error_usage(err, "%s: %s has no attribute \"%s\"", file->path, object, name);
    else if (h5_ok(exists, err, "%s: cannot look up attribute %s of %s", file->path, name, object)) {
        attribute = H5Aopen(id, name, H5P_DEFAULT);
        h5_ok(attribute, err, "%s: cannot open attribute %s of %s", file->path, name, object);
    }
    H5Oclose(id);
    if (attribute < 0) return -1;

    hid_t space = H5Aget_space(attribute);
    bool scalar = space >= 0 && H5Sget_simple_extent_type(space) == H5S_SCALAR;
    if (space >= 0) H5Sclose(space);
    if (scalar) return attribute;
    error_usage(err, "%s: attribute \"%s\" of %s is not a scalar", file->path, name, object);
    H5Aclose(attribute);
    return -1;
}

static bool read_number(const H5File *file, const char *object, const char *name, DataType type, void *value,
                        Error *err)
{
    hid_t attribute = open_attribute(file, object, name, err);
    if (attribute < 0) return false;
    hid_t found = H5Aget_type(attribute);
    bool ok =
        (found >= 0 && h5_is_type(found, type)) ||
        error_usage(err, "%s: attribute \"%s\" of %s is not of type %s", file->path, name, object, data_name(type));
    ok = ok && h5_ok(H5Aread(attribute, h5_memory_type(type), value), err, "%s: cannot read attribute %s of %s",
                     file->path, name, object);
    if (found >= 0) H5Tclose(found);
    H5Aclose(attribute);
    return ok;
}

bool h5_read_int64(H5File *file, const char *object, const char *name, int64_t min, int64_t max, int64_t *value,
                   Error *err)
{
    int64_t found = 0;
    bool ok = true;
    if (file->rank == 0) {
        ok = read_number(file, object, name, DATA_INT64, &found, err);
        if (ok && (found < min || found > max)) {
            ok = error_usage(err, "%s: attribute \"%s\" of %s is %" PRId64 "; it must be in [%" PRId64 ", %" PRId64 "]",
                             file->path, name, object, found, min, max);
        }
    }
    if (!h5_share(file, ok, &found, sizeof found, err)) return false;
    *value = found;
    return true;
}

/* Without bounds; `*value` stays as it is on failure. Both types have 8 bytes. */
static bool read_shared(H5File *file, const char *object, const char *name, DataType type, void *value, Error *err)
{
    char found[8] = { 0 };
    bool ok = file->rank != 0 || read_number(file, object, name, type, found, err);
    if (!h5_share(file, ok, found, sizeof found, err)) return false;
    memcpy(value, found, sizeof found);
    return true;
}

bool h5_read_uint64(H5File *file, const char *object, const char *name, uint64_t *value, Error *err)
{
    return read_shared(file, object, name, DATA_UINT64, value, err);
}

bool h5_read_double(H5File *file, const char *object, const char *name, double min, double max, double *value,
                    Error *err)
{
    double found = 0;
    bool ok = true;
    if (file->rank == 0) {
        ok = read_number(file, object, name, DATA_FLOAT64, &found, err);
        if (ok && !(found >= min && found <= max)) {
            ok = error_usage(err, "%s: attribute \"%s\" of %s is %g; it must be in [%g, %g]", file->path, name, object,
                             found, min, max);
        }
    }
    if (!h5_share(file, ok, &found, sizeof found, err)) return false;
    *value = found;
    return true;
}

bool h5_read_float64(H5File *file, const char *object, const char *name, double *value, Error *err)
{
    return read_shared(file, object, name, DATA_FLOAT64, value, err);
}

/* Rank 0: the attribute's text, allocated with a NUL behind it; NULL on failure. */
static char *read_text(const H5File *file, const char *object, const char *name, size_t most, Error *err)
{
    hid_t attribute = open_attribute(file, object, name, err);
    if (attribute < 0) return NULL;
    char *text = NULL;
    hid_t found = H5Aget_type(attribute), memory = -1;
    size_t size = found >= 0 ? H5Tget_size(found) : 0;
    bool ok = false;
    if (found < 0 || H5Tget_class(found) != H5T_STRING)
        error_usage(err, "%s: attribute \"%s\" of %s is not text", file->path, name, object);
    else if (H5Tis_variable_str(found) != 0)
        error_usage(err, "%s: attribute \"%s\" of %s is variable-length text; write it as fixed-length UTF-8",
                    file->path, name, object);
    else if (size >= most + TEXT_SLACK || size > (size_t)file->size + TEXT_SLACK)
        error_usage(err, "%s: attribute \"%s\" of %s is longer than %zu bytes", file->path, name, object, most - 1);
    else if (!(text = calloc(size + 1, 1)))
        error_fault(err, "%s: no memory for attribute \"%s\" of %s", file->path, name, object);
    else if (h5_ok(memory = H5Tcopy(found), err, "%s: cannot read attribute %s of %s", file->path, name, object) &&
             h5_ok(H5Aread(attribute, memory, text), err, "%s: cannot read attribute %s of %s", file->path, name,
                   object)) {
        if (strlen(text) >= most)
            error_usage(err, "%s: attribute \"%s\" of %s is longer than %zu bytes", file->path, name, object, most - 1);
        else if (!text_is_valid(text))
            error_usage(err, "%s: attribute \"%s\" of %s is not UTF-8 text", file->path, name, object);
        else
            ok = true;
    }
    if (memory >= 0) H5Tclose(memory);
    if (found >= 0) H5Tclose(found);
    H5Aclose(attribute);
    if (ok) return text;
    free(text);
    return NULL;
}

bool h5_read_string(H5File *file, const char *object, const char *name, char *value, size_t size, Error *err)
{
    char *text = file->rank == 0 ? read_text(file, object, name, size, err) : NULL;
    bool ok = file->rank != 0 || text;
    if (text) memcpy(value, text, strlen(text) + 1);
    free(text);
    return h5_share(file, ok, value, size, err);
}

bool h5_read_text(H5File *file, const char *object, const char *name, size_t most, char **value, Error *err)
{
    char *text = file->rank == 0 ? read_text(file, object, name, most, err) : NULL;
    int64_t size = text ? (int64_t)strlen(text) + 1 : 0;
    *value = NULL;
    if (!h5_share(file, file->rank != 0 || text, &size, sizeof size, err)) return false;
    if (file->rank != 0) text = malloc(size);
    bool ok = text || error_fault(err, "%s: no memory for attribute \"%s\" of %s", file->path, name, object);
    if (!h5_agree(file, ok, err)) {
        free(text);
        return false;
    }
    h5_share(file, true, text, size, err);
    *value = text;
    return true;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Open an attribute that is there if it is a scalar of this type; negative: it is not. */
static hid_t open_same(hid_t object, const char *name, hid_t wanted)
{
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT), type = attribute >= 0 ? H5Aget_type(attribute) : -1,
          space = attribute >= 0 ? H5Aget_space(attribute) : -1;
    bool same = type >= 0 && H5Tequal(type, wanted) > 0 && space >= 0 && H5Sget_simple_extent_type(space) == H5S_SCALAR;
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (same) return attribute;
    if (attribute >= 0) H5Aclose(attribute);
    return -1;
}

static bool write_attribute(H5File *file, const char *object, const char *name, hid_t file_type, hid_t memory_type,
                            const void *value, Error *err)
{
    bool ok = true;
    if (file->rank == 0) {
        CHECK(file->meta >= 0 && file->writing);
        hid_t id = h5_open_object(file, object, err), space = H5Screate(H5S_SCALAR), attribute = -1;
        CHECK(space >= 0);
        htri_t exists = id < 0 ? -1 : H5Aexists(id, name);
        if (exists > 0) attribute = open_same(id, name, file_type); /* then nothing moves in the file */
        ok = id >= 0 &&
             (attribute >= 0 || exists <= 0 ||
              h5_ok(H5Adelete(id, name), err, "%s: cannot replace attribute %s", file->path, name)) &&
             (attribute >= 0 || h5_ok(attribute = H5Acreate2(id, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT), err,
                                      "%s: cannot create attribute %s of %s", file->path, name, object)) &&
             h5_ok(H5Awrite(attribute, memory_type, value), err, "%s: cannot write attribute %s of %s", file->path,
                   name, object);
        if (attribute >= 0) H5Aclose(attribute);
        if (id >= 0) H5Oclose(id);
        H5Sclose(space);
    }
    return h5_agree(file, ok, err);
}

bool h5_write_int64(H5File *file, const char *object, const char *name, int64_t value, Error *err)
{
    return write_attribute(file, object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value, err);
}

bool h5_write_uint64(H5File *file, const char *object, const char *name, uint64_t value, Error *err)
{
    return write_attribute(file, object, name, H5T_STD_U64LE, H5T_NATIVE_UINT64, &value, err);
}

bool h5_write_double(H5File *file, const char *object, const char *name, double value, Error *err)
{
    return write_attribute(file, object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value, err);
}

bool h5_write_string(H5File *file, const char *object, const char *name, const char *value, Error *err)
{
    size_t length = strlen(value);
    hid_t type = h5_text_type(length > 0 ? length : 1);
    bool ok = write_attribute(file, object, name, type, type, value, err);
    H5Tclose(type);
    return ok;
}

/* One attribute as it is, whatever its type. */
static herr_t copy_attribute(hid_t from, const char *name, const H5A_info_t *info, void *to)
{
    enum { MOST_BYTES = 1 << 20 };
    (void)info;
    void *value = NULL;
    hid_t attribute = H5Aopen(from, name, H5P_DEFAULT), type = -1, space = -1, copy = -1;
    bool ok = attribute >= 0 && (type = H5Aget_type(attribute)) >= 0 && (space = H5Aget_space(attribute)) >= 0;
    hssize_t points = ok ? H5Sget_simple_extent_npoints(space) : 0;
    size_t size = ok ? H5Tget_size(type) : 0;
    ok = ok && points > 0 && size > 0 && (size_t)points <= MOST_BYTES / size &&
         (value = calloc((size_t)points, size)) && H5Aread(attribute, type, value) >= 0 &&
         (copy = H5Acreate2(*(hid_t *)to, name, type, space, H5P_DEFAULT, H5P_DEFAULT)) >= 0 &&
         H5Awrite(copy, type, value) >= 0;
    if (value && (H5Tdetect_class(type, H5T_VLEN) > 0 || H5Tis_variable_str(type) > 0))
        H5Dvlen_reclaim(type, space, H5P_DEFAULT, value);
    free(value);
    if (copy >= 0) H5Aclose(copy);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return ok ? 0 : -1;
}

bool h5_copy_attributes(H5File *from, H5File *to, const char *object, Error *err)
{
    bool ok = true;
    if (to->rank == 0) {
        hid_t source = h5_open_object(from, object, err), target = source >= 0 ? h5_open_object(to, object, err) : -1;
        overlay_read_heaps(from->overlay, true); /* a model's hf_config: what a run starts from is believed */
        ok = target >= 0 && h5_ok(H5Aiterate2(source, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, copy_attribute, &target),
                                  err, "%s: cannot copy the attributes of %s to %s", from->path, object, to->path);
        overlay_read_heaps(from->overlay, false);
        if (source >= 0) H5Oclose(source);
        if (target >= 0) H5Oclose(target);
    }
    return h5_agree(to, ok, err);
}
