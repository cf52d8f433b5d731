/* Datasets that every rank knows as a whole: shapes, small arrays, text, scales. */
#include "private.h"

#include <hdf5_hl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- checks ------------------------------------------------------------------------------------------------------ */

hid_t h5_open_dataset(const H5File *file, const char *name, Error *err)
{
    hid_t id = h5_open_object(file, name, err);
    if (id < 0 || H5Iget_type(id) == H5I_DATASET) return id;
    H5Oclose(id);
    error_usage(err, "%s: %s is not a dataset", file->path, name);
    return -1;
}

static bool type_matches(hid_t found, int type, size_t *width)
{
    if (type < 0) {
        *width = H5Tget_size(found);
        return H5Tget_class(found) == H5T_STRING && H5Tis_variable_str(found) == 0 && *width > 0;
    }
    *width = data_size((DataType)type);
    return h5_is_type(found, (DataType)type);
}

static void shape_text(int axes, const int64_t dims[], char *text, size_t size)
{
    size_t used = snprintf(text, size, "[");
    for (int i = 0; i < axes && used < size; i++) {
        const char *comma = i ? ", " : "";
        if (dims[i] < 0)
            used += snprintf(text + used, size - used, "%sany", comma);
        else
            used += snprintf(text + used, size - used, "%s%" PRId64, comma, dims[i]);
    }
    if (used < size) snprintf(text + used, size - used, "]");
}

static bool check_shape(const H5File *file, hid_t space, const char *name, int axes, int64_t dims[], Error *err)
{
    hsize_t found[SLAB_AXES] = { 0 };
    int64_t extents[SLAB_AXES];
    char wanted[128], given[128];
    int found_axes = H5Sget_simple_extent_ndims(space);
    shape_text(axes, dims, wanted, sizeof wanted);
    if (H5Sis_simple(space) <= 0 || found_axes != axes || H5Sget_simple_extent_type(space) == H5S_NULL) {
        return error_usage(err, "%s: %s has %d axes; the shape %s is needed", file->path, name, found_axes, wanted);
    }
    if (axes > 0 &&
        !h5_ok(H5Sget_simple_extent_dims(space, found, NULL), err, "%s: cannot read the shape of %s", file->path, name))
        return false;
    bool same = true;
    for (int i = 0; i < axes; i++) {
        if (found[i] > INT64_MAX) return error_usage(err, "%s: %s has an impossible extent", file->path, name);
        extents[i] = (int64_t)found[i];
        same = same && (dims[i] < 0 || dims[i] == extents[i]);
    }
    if (!same) {
        shape_text(axes, extents, given, sizeof given);
        return error_usage(err, "%s: %s has the shape %s; %s is needed", file->path, name, given, wanted);
    }
    if (axes > 0) memcpy(dims, extents, axes * sizeof dims[0]);
    return true;
}

/* Stored in this file, as it is, in full? */
static bool check_storage(const H5File *file, hid_t set, const char *name, int axes, const int64_t dims[], size_t width,
                          Error *err)
{
    int64_t bytes = (int64_t)width;
    bool fits = true, empty = false;
    for (int i = 0; i < axes; i++) empty = empty || dims[i] == 0;
    if (empty) return true;
    for (int i = 0; i < axes && fits; i++) fits = !__builtin_mul_overflow(bytes, dims[i], &bytes);
    if (!fits || (!file->writing && bytes > file->size)) {
        char shape[128];
        shape_text(axes, dims, shape, sizeof shape);
        return error_usage(err, "%s: %s claims the shape %s, more than the whole file: damaged", file->path, name,
                           shape);
    }
    hid_t list = H5Dget_create_plist(set);
    if (!h5_ok(list, err, "%s: cannot read the storage of %s", file->path, name)) return false;
    H5D_layout_t layout = H5Pget_layout(list);
    bool plain = (layout == H5D_COMPACT || layout == H5D_CONTIGUOUS || layout == H5D_CHUNKED) &&
                 H5Pget_nfilters(list) == 0 && H5Pget_external_count(list) == 0;
    H5Pclose(list);
    if (!plain) {
        return error_usage(
            err, "%s: %s is compressed, virtual or stored in another file: write it plainly (h5repack -f NONE)",
            file->path, name);
    }
    if (H5Dget_storage_size(set) < (hsize_t)bytes) {
        H5Eclear2(H5E_DEFAULT);
        return error_usage(err, "%s: %s was not written completely", file->path, name);
    }
    return true;
}

bool h5_check_dataset(const H5File *file, hid_t set, const char *name, int type, int axes, int64_t dims[],
                      size_t *width, Error *err)
{
    CHECK(axes >= 0 && axes <= SLAB_AXES);
    hid_t found = H5Dget_type(set), space = H5Dget_space(set);
    bool ok = h5_ok(found, err, "%s: cannot read the type of %s", file->path, name) &&
              h5_ok(space, err, "%s: cannot read the shape of %s", file->path, name);
    if (ok && !type_matches(found, type, width)) {
        ok = error_usage(err, "%s: %s is not of type %s", file->path, name,
                         type < 0 ? "fixed-length text" : data_name((DataType)type));
    }
    ok = ok && check_shape(file, space, name, axes, dims, err) &&
         check_storage(file, set, name, axes, dims, *width, err);
    if (found >= 0) H5Tclose(found);
    if (space >= 0) H5Sclose(space);
    return ok;
}

/* Rank 0: open and check; negative on failure. */
static hid_t open_checked(const H5File *file, const char *name, int type, int axes, int64_t dims[], size_t *width,
                          Error *err)
{
    hid_t set = h5_open_dataset(file, name, err);
    if (set < 0 || h5_check_dataset(file, set, name, type, axes, dims, width, err)) return set;
    H5Dclose(set);
    return -1;
}

bool h5_expect(H5File *file, const char *name, DataType type, int axes, int64_t dims[], Error *err)
{
    size_t width;
    bool ok = true;
    if (file->rank == 0) {
        hid_t set = open_checked(file, name, (int)type, axes, dims, &width, err);
        ok = set >= 0;
        if (ok) H5Dclose(set);
    }
    return h5_share(file, ok, dims, axes * (int64_t)sizeof dims[0], err);
}

/* ---- creating ---------------------------------------------------------------------------------------------------- */

/* Rank 0: a dataset with the groups above it; negative on failure. space and creation are closed. */
static hid_t make_dataset(const H5File *file, const char *name, hid_t type, hid_t space, hid_t creation, Error *err)
{
    CHECK(file->meta >= 0 && file->writing && space >= 0 && creation >= 0);
    hid_t links = H5Pcreate(H5P_LINK_CREATE);
    CHECK(links >= 0 && H5Pset_create_intermediate_group(links, 1) >= 0 &&
          H5Pset_obj_track_times(creation, false) >= 0);
    hid_t set = H5Dcreate2(file->meta, name, type, space, links, creation, H5P_DEFAULT);
    h5_ok(set, err, "%s: cannot create %s", file->path, name);
    H5Pclose(links);
    H5Pclose(creation);
    H5Sclose(space);
    return set;
}

static hid_t make_space(int axes, const int64_t dims[], int growing)
{
    hsize_t extents[SLAB_AXES] = { 0 }, most[SLAB_AXES] = { 0 };
    CHECK(axes >= 0 && axes <= SLAB_AXES);
    for (int i = 0; i < axes; i++) {
        CHECK(dims[i] >= 0);
        extents[i] = (hsize_t)dims[i];
        most[i] = i < growing ? H5S_UNLIMITED : extents[i];
    }
    return axes == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(axes, extents, most);
}

/* `later`: its values are not part of the layout, and so not of its seal (h5_seal.c goes by the fill time). */
static hid_t make_contiguous(const H5File *file, const char *name, hid_t type, int axes, const int64_t dims[],
                             bool later, Error *err)
{
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    CHECK(creation >= 0 && H5Pset_layout(creation, H5D_CONTIGUOUS) >= 0 &&
          H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0 &&
          H5Pset_fill_time(creation, later ? H5D_FILL_TIME_NEVER : H5D_FILL_TIME_IFSET) >= 0);
    return make_dataset(file, name, type, make_space(axes, dims, 0), creation, err);
}

bool h5_create_group(H5File *file, const char *name, Error *err)
{
    bool ok = true;
    if (file->rank == 0) {
        CHECK(file->meta >= 0 && file->writing);
        hid_t links = H5Pcreate(H5P_LINK_CREATE);
        CHECK(links >= 0 && H5Pset_create_intermediate_group(links, 1) >= 0);
        hid_t group = H5Gcreate2(file->meta, name, links, H5P_DEFAULT, H5P_DEFAULT);
        ok = h5_ok(group, err, "%s: cannot create group %s", file->path, name);
        if (ok) H5Gclose(group);
        H5Pclose(links);
    }
    return h5_agree(file, ok, err);
}

bool h5_create_dataset(H5File *file, const char *name, DataType type, int axes, const int64_t dims[], Error *err)
{
    bool ok = true;
    if (file->rank == 0) {
        hid_t set = make_contiguous(file, name, h5_file_type(type), axes, dims, true, err);
        ok = set >= 0;
        if (ok) H5Dclose(set);
    }
    return h5_agree(file, ok, err);
}

bool h5_create_extendible(H5File *file, const char *name, DataType type, int axes, int growing, const int64_t dims[],
                          const int64_t chunk[], int64_t fill, Error *err)
{
    bool ok = true;
    if (file->rank == 0) {
        hsize_t chunks[SLAB_AXES] = { 0 };
        double nan_fill = NAN;
        bool floating = type == DATA_FLOAT32 || type == DATA_FLOAT64;
        CHECK(axes >= 1 && axes <= SLAB_AXES && growing >= 1 && growing <= axes);
        for (int i = 0; i < axes; i++) chunks[i] = (hsize_t)chunk[i];
        hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
        /* allocated as soon as it grows, by rank 0: filling it in moves no metadata */
        CHECK(creation >= 0 && H5Pset_chunk(creation, axes, chunks) >= 0 &&
              H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0 &&
              H5Pset_fill_value(creation, floating ? H5T_NATIVE_DOUBLE : H5T_NATIVE_INT64,
                                floating ? (void *)&nan_fill : &fill) >= 0 &&
              H5Pset_fill_time(creation, H5D_FILL_TIME_ALLOC) >= 0);
        hid_t set = make_dataset(file, name, h5_file_type(type), make_space(axes, dims, growing), creation, err);
        ok = set >= 0;
        if (ok) H5Dclose(set);
    }
    return h5_agree(file, ok, err);
}

bool h5_delete(H5File *file, const char *object, Error *err)
{
    bool ok = true;
    if (file->rank == 0) {
        CHECK(file->meta >= 0 && file->writing);
        ok = h5_ok(H5Ldelete(file->meta, object, H5P_DEFAULT), err, "%s: cannot remove %s", file->path, object);
    }
    return h5_agree(file, ok, err);
}

bool h5_resize(H5File *file, const char *name, int axes, const int64_t dims[], Error *err)
{
    bool ok = true;
    if (file->rank == 0) {
        CHECK(file->meta >= 0 && file->writing && axes >= 1 && axes <= SLAB_AXES);
        hsize_t extents[SLAB_AXES] = { 0 };
        for (int i = 0; i < axes; i++) extents[i] = (hsize_t)dims[i];
        hid_t set = h5_open_dataset(file, name, err);
        ok = set >= 0 && h5_ok(H5Dset_extent(set, extents), err, "%s: cannot resize %s", file->path, name);
        if (set >= 0) H5Dclose(set);
    }
    return h5_agree(file, ok, err);
}

/* ---- whole arrays ------------------------------------------------------------------------------------------------ */

static int64_t elements(int axes, const int64_t dims[])
{
    int64_t count = 1;
    for (int i = 0; i < axes; i++) count *= dims[i];
    return count;
}

/* Rank 0: make, write, close. */
static bool write_whole(H5File *file, const char *name, hid_t file_type, hid_t memory_type, int axes,
                        const int64_t dims[], const void *values, Error *err)
{
    hid_t set = make_contiguous(file, name, file_type, axes, dims, false, err);
    if (set < 0) return false;
    bool ok = elements(axes, dims) == 0 || h5_ok(H5Dwrite(set, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), err,
                                                 "%s: cannot write %s", file->path, name);
    H5Dclose(set);
    return ok;
}

bool h5_write_array(H5File *file, const char *name, DataType type, int axes, const int64_t dims[], const void *values,
                    Error *err)
{
    bool ok =
        file->rank != 0 || write_whole(file, name, h5_file_type(type), h5_memory_type(type), axes, dims, values, err);
    return h5_agree(file, ok, err);
}

bool h5_read_array(H5File *file, const char *name, DataType type, int axes, const int64_t dims[], void *values,
                   Error *err)
{
    int64_t extents[SLAB_AXES] = { 0 };
    size_t width;
    bool ok = true;
    for (int i = 0; i < axes; i++) CHECK((extents[i] = dims[i]) >= 0);
    if (file->rank == 0) {
        hid_t set = open_checked(file, name, (int)type, axes, extents, &width, err);
        ok = set >= 0 && (elements(axes, dims) == 0 ||
                          h5_ok(H5Dread(set, h5_memory_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, values), err,
                                "%s: cannot read %s", file->path, name));
        if (set >= 0) H5Dclose(set);
    }
    return h5_share(file, ok, values, elements(axes, dims) * (int64_t)data_size(type), err);
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

bool h5_write_text(H5File *file, const char *name, const char *value, Error *err)
{
    bool ok = true;
    if (file->rank == 0) {
        size_t length = strlen(value);
        hid_t type = h5_text_type(length > 0 ? length : 1);
        ok = write_whole(file, name, type, type, 0, NULL, value, err);
        H5Tclose(type);
    }
    return h5_agree(file, ok, err);
}

bool h5_write_strings(H5File *file, const char *name, int64_t count, size_t width, const char *values, Error *err)
{
    bool ok = true;
    if (file->rank == 0) {
        size_t longest = 1;
        for (int64_t i = 0; i < count; i++) {
            size_t length = strnlen(values + i * width, width);
            CHECK(length < width);
            if (length > longest) longest = length;
        }
        char *packed = calloc(count > 0 ? count : 1, longest);
        ok = packed || error_fault(err, "%s: no memory to write %s", file->path, name);
        if (ok) {
            for (int64_t i = 0; i < count; i++)
                memcpy(packed + i * longest, values + i * width, strlen(values + i * width));
            hid_t type = h5_text_type(longest);
            ok = write_whole(file, name, type, type, 1, &count, packed, err);
            H5Tclose(type);
        }
        free(packed);
    }
    return h5_agree(file, ok, err);
}

bool h5_count_strings(H5File *file, const char *name, int64_t min, int64_t max, int64_t *count, Error *err)
{
    int64_t found = -1;
    size_t width;
    bool ok = true;
    if (file->rank == 0) {
        hid_t set = open_checked(file, name, -1, 1, &found, &width, err);
        ok = set >= 0;
        if (ok) H5Dclose(set);
        if (ok && (found < min || found > max)) {
            ok = error_usage(err, "%s: %s has %" PRId64 " entries; there must be %" PRId64 " to %" PRId64, file->path,
                             name, found, min, max);
        }
    }
    if (!h5_share(file, ok, &found, sizeof found, err)) return false;
    *count = found;
    return true;
}

/* Rank 0: the strings of an open dataset, each `stored` bytes wide without a NUL of its own. */
static bool unpack_strings(const H5File *file, hid_t set, const char *name, int64_t count, size_t stored, size_t width,
                           char *values, Error *err)
{
    char *packed = malloc(count * stored + 1);
    hid_t type = h5_text_type(stored);
    bool ok = packed || error_fault(err, "%s: no memory to read %s", file->path, name);
    ok = ok && (count == 0 || h5_ok(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, packed), err,
                                    "%s: cannot read %s", file->path, name));
    for (int64_t i = 0; ok && i < count; i++) {
        size_t length = strnlen(packed + i * stored, stored);
        char *value = values + i * width;
        if (length >= width) {
            ok = error_usage(err, "%s: entry %" PRId64 " of %s is longer than %zu bytes", file->path, i, name,
                             width - 1);
            break;
        }
        memset(value, 0, width);
        memcpy(value, packed + i * stored, length);
        if (!text_is_valid(value))
            ok = error_usage(err, "%s: entry %" PRId64 " of %s is not UTF-8 text", file->path, i, name);
    }
    free(packed);
    H5Tclose(type);
    return ok;
}

bool h5_read_strings(H5File *file, const char *name, int64_t count, size_t width, char *values, Error *err)
{
    bool ok = true;
    if (file->rank == 0) {
        int64_t extent = count;
        size_t stored;
        hid_t set = open_checked(file, name, -1, 1, &extent, &stored, err);
        ok = set >= 0 && unpack_strings(file, set, name, count, stored, width, values, err);
        if (set >= 0) H5Dclose(set);
    }
    return h5_share(file, ok, values, count * (int64_t)width, err);
}

bool h5_load_text(H5File *file, const char *name, size_t most, char **value, Error *err)
{
    int64_t size = 0;
    bool ok = true;
    char *text = NULL;
    *value = NULL;
    if (file->rank == 0) {
        size_t stored = 0;
        hid_t set = open_checked(file, name, -1, 0, NULL, &stored, err);
        ok = set >= 0 &&
             (stored < most || error_usage(err, "%s: %s is longer than %zu bytes", file->path, name, most - 1));
        size = (int64_t)stored + 1;
        if (ok) ok = (text = calloc(1, stored + 1)) || error_fault(err, "%s: no memory to read %s", file->path, name);
        ok = ok && unpack_strings(file, set, name, 1, stored, stored + 1, text, err);
        if (set >= 0) H5Dclose(set);
    }
    ok = h5_share(file, ok, &size, sizeof size, err);
    if (ok && file->rank != 0) text = calloc(1, size);
    ok = ok && h5_agree(file, text || error_fault(err, "%s: no memory to read %s", file->path, name), err) &&
         h5_share(file, true, text, size, err);
    if (ok)
        *value = text;
    else
        free(text);
    return ok;
}

/* ---- labels and scales ------------------------------------------------------------------------------------------- */

bool h5_describe(H5File *file, const char *dataset, const char *units, const char *description, Error *err)
{
    return (!units || h5_write_string(file, dataset, "units", units, err)) &&
           (!description || h5_write_string(file, dataset, "description", description, err));
}

bool h5_make_scale(H5File *file, const char *dataset, const char *label, Error *err)
{
    bool ok = true;
    if (file->rank == 0) {
        hid_t set = h5_open_dataset(file, dataset, err);
        ok = set >= 0 &&
             h5_ok(H5DSset_scale(set, label), err, "%s: cannot make %s a dimension scale", file->path, dataset) &&
             h5_ok(H5DSset_label(set, 0, label), err, "%s: cannot label %s", file->path, dataset);
        if (set >= 0) H5Dclose(set);
    }
    return h5_agree(file, ok, err);
}

bool h5_label_axis(H5File *file, const char *dataset, int axis, const char *label, const char *scale, Error *err)
{
    bool ok = true;
    if (file->rank == 0) {
        hid_t set = h5_open_dataset(file, dataset, err),
              scale_set = set >= 0 && scale ? h5_open_dataset(file, scale, err) : -1;
        ok = set >= 0 && h5_ok(H5DSset_label(set, axis, label), err, "%s: cannot label %s", file->path, dataset);
        if (scale) {
            ok = ok && scale_set >= 0 &&
                 h5_ok(H5DSattach_scale(set, scale_set, axis), err, "%s: cannot attach %s to %s", file->path, scale,
                       dataset);
        }
        if (scale_set >= 0) H5Dclose(scale_set);
        if (set >= 0) H5Dclose(set);
    }
    return h5_agree(file, ok, err);
}
