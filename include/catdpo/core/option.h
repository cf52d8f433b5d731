/* A setting: key, type, place, default, bounds, choices, help. Whoever has settings lists rows of these; src/config
 * reads, checks, prints and explains them. */
#ifndef CATDPO_CORE_OPTION_H
#define CATDPO_CORE_OPTION_H

#include <stddef.h>

enum { CONFIG_TEXT = 512 }; /* bytes of a string value, with its NUL */

typedef enum {
    OPTION_BOOL,          /* bool */
    OPTION_INT,           /* int64_t */
    OPTION_FLOAT,         /* double; an integer is accepted */
    OPTION_FLOAT_OR_AUTO, /* double; "auto" is NAN until somebody resolves it */
    OPTION_MINUTES,       /* double: minutes; a string is hours:minutes:seconds or days-hours:minutes:seconds */
    OPTION_TEXT,          /* char[CONFIG_TEXT] */
    OPTION_PATH,          /* the same: a file or folder, in which ~ and $NAME are expanded (core/path.h) */
    OPTION_CHOICE,        /* int: index into choices */
    OPTION_COUNT_OR_AUTO, /* int64_t; "auto" is 0 */
    OPTION_GRID,          /* int64_t[2]: rows, columns; "auto" is {0, 0} */
} OptionType;

/* One value of an OPTION_CHOICE. */
typedef struct OptionChoice {
    const char *name; /* NULL: behind the last one */
    const char *help; /* NULL: the option's own help explains it */
} OptionChoice;

/* All its values: a list of names in the order of an enum, or the rows of a table. */
typedef struct OptionChoices {
    const char *const *names;       /* NULL-terminated, or NULL */
    OptionChoice (*row)(int index); /* instead of names */
} OptionChoices;

typedef struct Option {
    const char *key; /* "group.name" */
    OptionType type;
    size_t offset;                /* of the field in the struct that the rows' owner names */
    const char *preset;           /* default value in libconfig syntax */
    const char *bounds;           /* interval such as "(0, 1]" for numbers, else NULL */
    const OptionChoices *choices; /* for OPTION_CHOICE, else NULL */
    const char *help;             /* meaning and unit */
} Option;

#endif
