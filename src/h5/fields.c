#include "catdpo/h5/fields.h"

#include "private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double SLACK = 1e-12; /* what is computed from other numbers may leave its bounds by rounding */

enum { COUNT_MOST = 1 << 30, CHUNK_NUMBERS = 8192, CHUNK_ROWS_LEAST = 16, CHUNK_ROWS_MOST = 1024 };

void format_of_group(GroupFormat *made, const Format *format, const char *group, unsigned tags)
{
    int rows = 0;
    made->format = *format;
    made->format.field = made->field;
    snprintf(made->group, FORMAT_OBJECT, "/%.255s", group);
    for (const Field *f = format->field; f->kind != FIELD_END; f++) {
        if (!(tags >> f->tag & 1)) continue;
        CHECK(rows < FORMAT_ROWS - 1);
        made->field[rows] = *f;
        if (f->object[0] == '@') {
            snprintf(made->object[rows], FORMAT_OBJECT, "%.255s%.31s", made->group, f->object + 1);
            made->field[rows].object = made->object[rows];
        }
        rows++;
    }
    made->field[rows] = (Field){ .kind = FIELD_END };
}

bool field_is_in(const Field *f, int64_t version)
{
    return version >= f->since && (f->until == 0 || version <= f->until);
}

/* Elements of an array, or entries of names. */
static int64_t field_count(const Field *f, const int64_t lengths[])
{
    int64_t count = 1;
    for (int i = 0; i < f->axes; i++) count *= lengths[f->axis[i]];
    return count;
}

static bool is_array(const Field *f) { return f->kind == FIELD_ARRAY || f->kind == FIELD_NAMES; }

static void array_dims(const Field *f, const int64_t lengths[], int64_t dims[FIELD_AXES])
{
    for (int i = 0; i < f->axes; i++) dims[i] = lengths[f->axis[i]];
}

static bool grows(const Format *format, const Field *f)
{
    return f->kind == FIELD_ARRAY && f->axes > 0 && format->axis[f->axis[0]].grows;
}

/* The chunks of an array that grows: about 64 KB of whole rows, and not too many. */
static void choose_chunk(const Field *f, const int64_t dims[], int64_t chunk[FIELD_AXES])
{
    int64_t row = 1;
    for (int i = 1; i < f->axes; i++) row *= chunk[i] = dims[i] > 0 ? dims[i] : 1;
    chunk[0] = CHUNK_NUMBERS / row;
    if (chunk[0] < CHUNK_ROWS_LEAST) chunk[0] = CHUNK_ROWS_LEAST;
    if (chunk[0] > CHUNK_ROWS_MOST) chunk[0] = CHUNK_ROWS_MOST;
}

double fields_bytes(const Format *format, const int64_t lengths[])
{
    double bytes = 0;
    for (const Field *f = format->field; f->kind != FIELD_END; f++) {
        if (!is_array(f) || !field_is_in(f, format->version)) continue;
        int64_t dims[FIELD_AXES], chunk[FIELD_AXES], rows = lengths[f->axis[0]];
        array_dims(f, lengths, dims);
        double row = (double)(f->kind == FIELD_NAMES ? f->size : data_size(f->type));
        for (int i = 1; i < f->axes; i++) row *= (double)dims[i];
        choose_chunk(f, dims, chunk);
        if (grows(format, f)) rows = (rows + chunk[0] - 1) / chunk[0] * chunk[0];
        bytes += row * (double)rows;
    }
    return bytes;
}

/* ---- bounds ------------------------------------------------------------------------------------------------------ */

static bool has_bounds(const Field *f) { return f->least != 0 || f->most != 0; }

static bool is_within(const Field *f, double x)
{
    if (isnan(x)) return f->nan;
    double slack = f->kind == FIELD_ARRAY && f->type == DATA_FLOAT64 ? SLACK : 0;
    return has_bounds(f) ? x >= f->least - slack && x <= f->most + slack : isfinite(x);
}

const char *field_bounds(const Field *f, char text[FIELD_BOUNDS])
{
    int used = has_bounds(f) ? snprintf(text, 80, "in [%g, %g]", f->least, f->most) : snprintf(text, 80, "finite");
    if (f->nan) snprintf(text + used, 16, ", or NaN");
    return text;
}

static double number_at(DataType type, const void *numbers, int64_t i)
{
    switch (type) {
    case DATA_UINT8: return ((const uint8_t *)numbers)[i];
    case DATA_INT8: return ((const int8_t *)numbers)[i];
    case DATA_INT32: return ((const int32_t *)numbers)[i];
    case DATA_INT64: return (double)((const int64_t *)numbers)[i];
    case DATA_UINT64: return (double)((const uint64_t *)numbers)[i];
    case DATA_FLOAT32: return (double)((const float *)numbers)[i];
    case DATA_FLOAT64: return ((const double *)numbers)[i];
    }
    return NAN;
}

int64_t field_outside(const Field *f, const void *numbers, int64_t count, double *number)
{
    bool floating = f->type == DATA_FLOAT32 || f->type == DATA_FLOAT64;
    if (!floating && !has_bounds(f)) return -1;
    for (int64_t i = 0; i < count; i++) {
        *number = number_at(f->type, numbers, i);
        if (!is_within(f, *number)) return i;
    }
    return -1;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static bool write_attribute(H5File *file, const Field *f, const void *value, Error *err)
{
    switch (f->kind) {
    case FIELD_INT: return h5_write_int64(file, f->object, f->attribute, *(const int64_t *)value, err);
    case FIELD_COUNT: return h5_write_int64(file, f->object, f->attribute, *(const int *)value, err);
    case FIELD_FLAG: return h5_write_int64(file, f->object, f->attribute, *(const bool *)value, err);
    case FIELD_UINT: return h5_write_uint64(file, f->object, f->attribute, *(const uint64_t *)value, err);
    case FIELD_NUMBER: return h5_write_double(file, f->object, f->attribute, *(const double *)value, err);
    case FIELD_CHOICE: return h5_write_string(file, f->object, f->attribute, f->choices[*(const int *)value], err);
    case FIELD_TEXT: return h5_write_string(file, f->object, f->attribute, value, err);
    default: return h5_write_string(file, f->object, f->attribute, *(const char *const *)value, err);
    }
}

/* Axes that grow come first. */
static bool create_growing(H5File *file, const Format *format, const Field *f, const int64_t dims[], Error *err)
{
    int64_t chunk[FIELD_AXES];
    int growing = 0;
    while (growing < f->axes && format->axis[f->axis[growing]].grows) growing++;
    choose_chunk(f, dims, chunk);
    return h5_create_extendible(file, f->object, f->type, f->axes, growing, dims, chunk, 0, err);
}

static bool label_axes(H5File *file, const Format *format, const Field *f, Error *err)
{
    for (int i = 0; i < f->axes; i++) {
        const FieldAxis *axis = &format->axis[f->axis[i]];
        bool ok = axis->scale && strcmp(axis->scale, f->object) == 0
                      ? h5_make_scale(file, f->object, axis->label, err)
                      : !axis->label || h5_label_axis(file, f->object, i, axis->label, axis->scale, err);
        if (!ok) return false;
    }
    return true;
}

/* Rows of an array that grows are not written here: there is only room for them. */
static bool write_array(H5File *file, const Format *format, const Field *f, const void *member, const int64_t lengths[],
                        Error *err)
{
    int64_t dims[FIELD_AXES];
    array_dims(f, lengths, dims);
    bool ok;
    if (grows(format, f))
        ok = create_growing(file, format, f, dims, err);
    else if (f->kind == FIELD_NAMES)
        ok = h5_write_strings(file, f->object, dims[0], f->size, *(const char *const *)member, err);
    else
        ok = h5_write_array(file, f->object, f->type, f->axes, dims, *(const void *const *)member, err);
    return ok && h5_describe(file, f->object, f->units, f->description, err) && label_axes(file, format, f, err);
}

static bool write_field(H5File *file, const Format *format, const Field *f, const void *values, const int64_t lengths[],
                        Error *err)
{
    const void *member = values ? (const char *)values + f->offset : NULL;
    bool exists = true;
    if (is_array(f)) return write_array(file, format, f, member, lengths, err);
    if (!f->attribute) return h5_write_text(file, f->object, *(const char *const *)member, err);
    return h5_exists(file, f->object, &exists, err) && (exists || h5_create_group(file, f->object, err)) &&
           write_attribute(file, f, member, err);
}

bool fields_write(H5File *file, const Format *format, const void *values, const int64_t lengths[], Error *err)
{
    for (const Field *f = format->field; f->kind != FIELD_END; f++)
        if (field_is_in(f, format->version) && !write_field(file, format, f, values, lengths, err)) return false;
    return true;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* With what to do about it behind the message, unless that says so itself. */
static bool with_remedy(bool ok, const Format *format, Error *err)
{
    size_t length = strlen(err->message), room = sizeof err->message - length;
    if (!ok && format->remedy && err->exit_status == EXIT_USAGE && !strstr(err->message, format->remedy) &&
        strlen(format->remedy) + 2 < room)
        snprintf(err->message + length, room, "; %s", format->remedy);
    return ok;
}

static bool measure(H5File *file, const Format *format, int64_t lengths[], Error *err)
{
    for (const Field *f = format->field; f->kind != FIELD_END; f++) {
        if (!is_array(f) || !field_is_in(f, file->version)) continue;
        int64_t dims[FIELD_AXES];
        array_dims(f, lengths, dims);
        const FieldAxis *axis = &format->axis[f->axis[0]];
        bool ok = f->kind == FIELD_NAMES ? h5_count_strings(file, f->object, dims[0] < 0 ? axis->least : dims[0],
                                                            dims[0] < 0 ? axis->most : dims[0], dims, err)
                                         : h5_expect(file, f->object, f->type, f->axes, dims, err);
        for (int i = 0; ok && i < f->axes; i++) {
            axis = &format->axis[f->axis[i]];
            lengths[f->axis[i]] = dims[i];
            if (dims[i] < axis->least || dims[i] > axis->most)
                ok = error_usage(err, "%s: %s has the length %" PRId64 "; it must be in [%" PRId64 ", %" PRId64 "]",
                                 file->path, f->object, dims[i], axis->least, axis->most);
        }
        if (!ok) return false;
    }
    return true;
}

bool fields_measure(H5File *file, const Format *format, int64_t lengths[], Error *err)
{
    return with_remedy(measure(file, format, lengths, err), format, err);
}

static bool read_choice(H5File *file, const Field *f, int *value, Error *err)
{
    char text[64], known[256];
    size_t used = 0;
    if (!h5_read_string(file, f->object, f->attribute, text, sizeof text, err)) return false;
    for (int i = 0; f->choices[i]; i++) {
        if (strcmp(text, f->choices[i]) == 0) {
            *value = i;
            return true;
        }
        if (used < sizeof known)
            used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "", f->choices[i]);
    }
    return error_usage(err, "%s: %s of %s is \"%s\"; it must be one of %s", file->path, f->attribute, f->object, text,
                       known);
}

static bool read_number(H5File *file, const Field *f, double *value, Error *err)
{
    char bounds[FIELD_BOUNDS];
    return h5_read_float64(file, f->object, f->attribute, value, err) &&
           (is_within(f, *value) || error_usage(err, "%s: attribute \"%s\" of %s is %g; it must be %s", file->path,
                                                f->attribute, f->object, *value, field_bounds(f, bounds)));
}

/* An integer between the bounds; without any it is what its kind can hold. */
static bool read_integer(H5File *file, const Field *f, int64_t most, int64_t *value, Error *err)
{
    int64_t least = f->kind == FIELD_INT ? INT64_MIN : 0;
    if (has_bounds(f)) least = (int64_t)f->least;
    if (has_bounds(f) && f->most < (double)most) most = (int64_t)f->most;
    return h5_read_int64(file, f->object, f->attribute, least, most, value, err);
}

static bool read_attribute(H5File *file, const Field *f, void *value, Error *err)
{
    int64_t wide = 0;
    switch (f->kind) {
    case FIELD_INT: return read_integer(file, f, INT64_MAX, value, err);
    case FIELD_COUNT:
        if (!read_integer(file, f, COUNT_MOST, &wide, err)) return false;
        *(int *)value = (int)wide;
        return true;
    case FIELD_FLAG:
        if (!read_integer(file, f, 1, &wide, err)) return false;
        *(bool *)value = wide != 0;
        return true;
    case FIELD_UINT: return h5_read_uint64(file, f->object, f->attribute, value, err);
    case FIELD_NUMBER: return read_number(file, f, value, err);
    case FIELD_CHOICE: return read_choice(file, f, value, err);
    case FIELD_TEXT: return h5_read_string(file, f->object, f->attribute, value, f->size, err);
    default: return h5_read_text(file, f->object, f->attribute, f->size, value, err);
    }
}

static bool read_array(H5File *file, const Field *f, void **values, const int64_t lengths[], Error *err)
{
    int64_t dims[FIELD_AXES], count = field_count(f, lengths);
    array_dims(f, lengths, dims);
    size_t width = f->kind == FIELD_NAMES ? f->size : data_size(f->type);
    if (!*values) *values = calloc((size_t)count + 1, width);
    if (!h5_agree(file, *values || error_fault(err, "%s: no memory to read %s", file->path, f->object), err))
        return false;
    if (f->kind == FIELD_NAMES) return h5_read_strings(file, f->object, dims[0], f->size, *values, err);
    if (!h5_read_array(file, f->object, f->type, f->axes, dims, *values, err)) return false;
    double number;
    char bounds[FIELD_BOUNDS];
    int64_t outside = field_outside(f, *values, count, &number);
    return outside < 0 || error_usage(err, "%s: entry %" PRId64 " of %s is %g; it must be %s: damaged", file->path,
                                      outside, f->object, number, field_bounds(f, bounds));
}

/* Does the row's member point to what a reader may own? */
static bool is_pointer(const Field *f) { return is_array(f) || f->kind == FIELD_STRING; }

static bool read_field(H5File *file, const Field *f, void *member, const int64_t lengths[], Error *err)
{
    bool there = true;
    if (is_array(f)) return read_array(file, f, member, lengths, err);
    if (f->optional && !h5_has_attribute(file, f->object, f->attribute, &there, err)) return false;
    if (!there) return true;
    return f->attribute ? read_attribute(file, f, member, err) : h5_load_text(file, f->object, f->size, member, err);
}

bool fields_read(H5File *file, const Format *format, void *values, const int64_t lengths[], Error *err)
{
    uint64_t given = 0; /* rows whose memory is the caller's */
    int row = 0;
    bool ok = true;
    for (const Field *f = format->field; f->kind != FIELD_END; f++, row++) {
        void *member = (char *)values + f->offset;
        CHECK(row < 64);
        if (is_array(f) && *(void **)member) given |= (uint64_t)1 << row;
        ok = ok && (!field_is_in(f, file->version) || read_field(file, f, member, lengths, err));
    }
    with_remedy(ok, format, err);
    for (row = 0; !ok && format->field[row].kind != FIELD_END; row++) {
        void **member = (void **)(void *)((char *)values + format->field[row].offset);
        if (!is_pointer(&format->field[row]) || given >> row & 1) continue;
        free(*member);
        *member = NULL;
    }
    return ok;
}

void fields_free(const Format *format, void *values)
{
    for (const Field *f = format->field; f->kind != FIELD_END; f++) {
        if (!is_pointer(f)) continue;
        void **member = (void **)(void *)((char *)values + f->offset);
        free(*member);
        *member = NULL;
    }
}
