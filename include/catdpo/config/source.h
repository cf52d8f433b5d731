/* The text of a config file, cut where it includes other files, ready for libconfig. */
#ifndef CATDPO_CONFIG_SOURCE_H
#define CATDPO_CONFIG_SOURCE_H

#include "catdpo/core/error.h"

/* Part of a file without @include. Line 1 of text is line `line` of the file at `path`. */
typedef struct SourcePart {
    const char *text;
    const char *path;
    int line;
} SourcePart;

typedef bool SourceVisit(const SourcePart *part, void *context, Error *err);

/* Reads the file and calls `visit` with each part in order; an included file comes at the place of its @include, so
 * that what stands below the line can override it. A path in @include is relative to the file that holds it. @include
 * stands outside groups. Refused with file and line: files that cannot be read or are no text, includes without end,
 * integers beyond 64 bits (libconfig 1.5 would wrap them without a word). Stops at the first visit that returns false.
 * Not collective. */
bool source_read(const char *path, SourceVisit *visit, void *context, Error *err);

/* The same for a text of one part that is not a file; @include is not known there. `path` is used in messages alone. */
bool source_read_text(const char *text, const char *path, SourceVisit *visit, void *context, Error *err);

#endif
