/* What a struct holds and a file has of it, described by rows of a table that everything walks which writes, reads,
 * compares or checks such values. */
#ifndef CATDPO_CORE_FIELD_H
#define CATDPO_CORE_FIELD_H

#include <stdbool.h>
#include <stddef.h>

/* Types in a file (little-endian) and in memory; a file's type must be exactly the expected one, of any byte order. */
typedef enum { DATA_UINT8, DATA_INT8, DATA_INT32, DATA_INT64, DATA_UINT64, DATA_FLOAT32, DATA_FLOAT64 } DataType;

typedef enum FieldKind {
    FIELD_END,    /* behind the last row */
    FIELD_INT,    /* attribute: int64_t */
    FIELD_COUNT,  /* attribute int64: int */
    FIELD_FLAG,   /* attribute int64, 0 or 1: bool */
    FIELD_UINT,   /* attribute uint64: uint64_t */
    FIELD_NUMBER, /* attribute float64: double */
    FIELD_CHOICE, /* attribute, text: enum, index into `choices` */
    FIELD_TEXT,   /* attribute: char[size], with its NUL */
    FIELD_STRING, /* attribute, or without one a scalar dataset: char *, at most `size` bytes with its NUL */
    FIELD_ARRAY,  /* dataset of `type`: pointer to the values, row-major */
    FIELD_NAMES,  /* dataset of texts, one axis: char (*)[size] */
} FieldKind;

enum { FIELD_AXES = 3 };

typedef struct Field {
    const char *object, *attribute; /* attribute NULL: the dataset `object` itself */
    FieldKind kind;
    size_t offset; /* of the member in its struct */
    size_t size;
    DataType type;
    int axes, axis[FIELD_AXES];      /* of an array: indices into the format's axes (h5/fields.h) */
    double least, most;              /* of each number, finite; both 0: any */
    bool nan;                        /* or NaN: no value */
    const char *const *choices;      /* NULL behind the last one */
    const char *units, *description; /* of datasets, attributes there: written if not NULL */
    int tag;                         /* the format's own */
    int since, until;                /* versions of the format that have it; 0: the first one, the last one */
    bool optional;                   /* an attribute that files may be without: the member is left as it is */
} Field;

#endif
