/* The known name nearest to a mistyped one, for "did you mean". Not collective. */
#ifndef CATDPO_CORE_NEAREST_H
#define CATDPO_CORE_NEAREST_H

#include <stdbool.h>

/* Edits (insert, delete or replace a character, swap two neighbours; letter case costs nothing) that turn a into b.
 * Only the first 63 characters of each count. */
int edit_distance(const char *a, const char *b);

/* Index of the name with the smallest edit distance (the first of equals), or -1 if count is 0. */
int nearest_name(const char *name, const char *const names[], int count);

/* True if `known` is close enough to `name` to be offered as what was meant. */
bool is_likely_meant(const char *name, const char *known);

#endif
