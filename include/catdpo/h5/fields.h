/* What a format holds, as a table: one row an attribute or a dataset, with its type, shape, bounds, unit and meaning.
 * Writer, reader, `catdpo check`, `catdpo plan` and the fuzz targets walk the same rows, so that none of them can know
 * another format than the others.
 *
 * A row's member lies at `offset` in the struct that the format has for its values. Arrays and strings are pointers
 * there: a writer does not own what they point to, a reader owns what fields_read allocated until fields_free. */
#ifndef CATDPO_H5_FIELDS_H
#define CATDPO_H5_FIELDS_H

#include "catdpo/core/field.h"
#include "catdpo/h5/h5.h"

/* An axis of the arrays of a format. */
typedef struct FieldAxis {
    const char *label;   /* NULL: none is written */
    const char *scale;   /* dataset that is its dimension scale; NULL: none */
    int64_t least, most; /* bounds of its length */
    bool grows;          /* rows are added: the arrays are chunked */
} FieldAxis;

typedef struct Format {
    const char *name; /* root attribute "format" */
    int version;      /* that is written; older ones are read */
    const Field *field;
    const FieldAxis *axis;
    int axes;
    const char *remedy; /* what to do about a file that is not as the rows say, behind every such message; NULL: none */
} Format;

/* The rows of a table for one group of a file: "@" at the front of their objects stands for it. */
enum { FORMAT_ROWS = 40, FORMAT_OBJECT = 288 };
typedef struct GroupFormat {
    Format format;
    Field field[FORMAT_ROWS];
    char group[FORMAT_OBJECT], object[FORMAT_ROWS][FORMAT_OBJECT];
} GroupFormat;

/* Those of the rows whose tag is in `tags`, a bit 1 << tag each. `group` is a path without a / in front. */
void format_of_group(GroupFormat *made, const Format *format, const char *group, unsigned tags);

/* The file's version of the format has this row. */
bool field_is_in(const Field *field, int64_t version);
/* Bytes that all arrays take on disk, with these lengths of the axes: the format's size but for metadata. An array that
 * grows takes whole chunks; names count with their whole width. */
double fields_bytes(const Format *format, const int64_t lengths[]);

/* Write all rows of a table into a file that is being laid out; groups are made as needed. Of arrays that grow only the
 * room is made, and `values` may be NULL if there are no others. lengths[format->axes]. Collective over the file's
 * communicator. */
bool fields_write(H5File *file, const Format *format, const void *values, const int64_t lengths[], Error *err);
/* The lengths of all axes as the datasets of the file have them, within their bounds; a length that is not negative
 * when it comes in must be the file's. Axes without an array keep theirs. Collective. */
bool fields_measure(H5File *file, const Format *format, int64_t lengths[], Error *err);
/* Read all rows, each within its bounds. Arrays go where `values` points, or, if that is NULL, to memory of their own.
 * After a failure what was allocated is freed, and the pointers are NULL. Collective: the same values on all ranks. */
bool fields_read(H5File *file, const Format *format, void *values, const int64_t lengths[], Error *err);
/* Free all strings and arrays that fields_read allocated. Harmless on zeros. */
void fields_free(const Format *format, void *values);

/* The place of the first of `count` numbers of the row's type that is not within its bounds, and that number; -1: all
 * are. Not collective. */
int64_t field_outside(const Field *field, const void *numbers, int64_t count, double *number);
/* What the bounds are: "in [0, 1], or NaN". */
enum { FIELD_BOUNDS = 96 };
const char *field_bounds(const Field *field, char text[FIELD_BOUNDS]);

#endif
