/* All settings, those of src/objective included: what every part of src/config reads and nobody else. */
#ifndef CATDPO_CONFIG_OPTIONS_H
#define CATDPO_CONFIG_OPTIONS_H

#include "catdpo/config/config.h"
#include "catdpo/core/option.h"

typedef struct OptionGroup {
    const char *name;
    const char *help;
} OptionGroup;

extern const OptionGroup option_groups[];
extern const int option_group_count;

/* The index-th of all options; NULL behind the last. Those of a group stand in the order in which they are shown. */
const Option *option_at(int index);
int option_count(void);

/* Index of a key, or -1. */
int option_find(const char *key);

/* Index of the known key nearest to an unknown one; a key of the same name in another group is near. */
int option_nearest(const char *key);

/* The index-th value of an OPTION_CHOICE, with its help if it has one; no name behind the last. */
OptionChoice option_choice(const Option *option, int index);
int option_choices(const Option *option); /* how many there are */

/* A name that other trainers have for a setting. */
typedef struct OptionAlias {
    const char *name;
    const char *key;  /* the setting here; NULL: there is none */
    const char *note; /* how it differs, or where it is instead; NULL: it is the same */
} OptionAlias;

extern const OptionAlias option_aliases[]; /* ends with a row without a name */

/* The row of a key or of the name behind its point, or NULL. */
const OptionAlias *option_alias(const char *key);

/* The objectives that read a setting of the group objective, with commas between their names. */
void option_readers(const Option *option, const char *quote, char *text, size_t size);

/* True if the option's key starts with the name of the group and a point. */
bool option_in_group(const Option *option, const OptionGroup *group);

/* True if value lies in bounds. */
bool option_in_bounds(const char *bounds, double value);

/* Settings that are fine each by itself and contradict each other. Returns true if there are none; else writes what is
 * wrong into message and the two keys involved, the likelier culprit first. */
bool options_agree(const Config *config, const char *keys[2], char *message, size_t size);

/* The field of an option in a config. */
void *option_field(const Option *option, Config *config);
const void *option_value(const Option *option, const Config *config);

#endif
