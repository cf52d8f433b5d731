/* The option table: what every part of src/config reads and nobody else. */
#ifndef CATDPO_CONFIG_OPTIONS_H
#define CATDPO_CONFIG_OPTIONS_H

#include "catdpo/config/config.h"

#include <stddef.h>

typedef enum {
    OPTION_BOOL,          /* bool */
    OPTION_INT,           /* int64_t */
    OPTION_FLOAT,         /* double; an integer is accepted */
    OPTION_MINUTES,       /* double: minutes; a string is hours:minutes:seconds or days-hours:minutes:seconds */
    OPTION_TEXT,          /* char[CONFIG_TEXT] */
    OPTION_CHOICE,        /* int: index into choices */
    OPTION_COUNT_OR_AUTO, /* int64_t; "auto" is 0 */
    OPTION_GRID,          /* int64_t[2]: rows, columns; "auto" is {0, 0} */
} OptionType;

typedef struct Option {
    const char *key; /* "group.name" */
    OptionType type;
    size_t offset;              /* of the field in Config */
    const char *preset;         /* default value in libconfig syntax */
    const char *bounds;         /* interval such as "(0, 1]" for numbers, else NULL */
    const char *const *choices; /* NULL-terminated, in the order of the enum, for OPTION_CHOICE, else NULL */
    const char *help;           /* meaning and unit */
} Option;

typedef struct OptionGroup {
    const char *name;
    const char *help;
} OptionGroup;

extern const Option option_table[];
extern const int option_count;
extern const OptionGroup option_groups[]; /* in the order in which their keys stand in option_table */
extern const int option_group_count;

/* Index of a key in option_table, or -1. */
int option_find(const char *key);

/* Index of the known key nearest to an unknown one; a key of the same name in another group is near. */
int option_nearest(const char *key);

/* Number of values in option->choices. */
int option_choices(const Option *option);

/* True if the option's key starts with the name of the group and a point. */
bool option_in_group(const Option *option, const OptionGroup *group);

/* True if value lies in bounds. */
bool option_in_bounds(const char *bounds, double value);

/* Settings that are fine each by itself and contradict each other. Returns true if there are none; else writes what is
 * wrong into message and the two keys involved, the likelier culprit first. */
bool options_agree(const Config *config, const char *keys[2], char *message, size_t size);

/* The field of an option in a config. */
static inline void *option_field(const Option *option, Config *config) { return (char *)config + option->offset; }
static inline const void *option_value(const Option *option, const Config *config)
{
    return (const char *)config + option->offset;
}

#endif
