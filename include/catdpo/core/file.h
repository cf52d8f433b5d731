/* Files of the system: written and copied as wholes, and the one way in which a file gets its final name. Not
 * collective. */
#ifndef CATDPO_CORE_FILE_H
#define CATDPO_CORE_FILE_H

#include "catdpo/core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All of the bytes, at a place of an open file. False with errno. */
bool file_write(int descriptor, const void *bytes, size_t size, int64_t at);
/* As many bytes as there are up to `size`, from a place of an open file; -1 with errno. */
int64_t file_read(int descriptor, void *bytes, size_t size, int64_t at);
/* Make one open file what another one is; holes stay holes. False with errno. */
bool file_copy(int source, int target);

/* A name for the unfinished `path` that no other program chooses at the same time: "NAME.<random>.tmp" in `folder`,
 * which is on the same file system (NULL: beside path). False if it takes more than `size` bytes. */
bool file_temporary(const char *path, const char *folder, char *unfinished, size_t size, Error *err);
/* Can a finished file get this name? Refuses a folder that is not there or may not be written to, and names of pipes,
 * devices and folders, which no file may replace; better asked before the work than after it. EXIT_USAGE. */
bool file_check_target(const char *path, Error *err);
/* A new file `path` that holds just these bytes, flushed to disk. EXIT_FAULT, and then there is no such file. */
bool file_create(const char *path, const void *bytes, size_t size, Error *err);
/* Flush a file to disk. EXIT_FAULT. */
bool file_sync(const char *path, Error *err);
/* A finished file gets its final name, in place of an earlier one: it is flushed to disk, renamed, and the folder is
 * flushed, so that after a crash the name means either the earlier file or this one, and is this one for good once this
 * returns. EXIT_FAULT; `unfinished` is then still there, unless only the last flush failed. */
bool file_replace(const char *unfinished, const char *path, Error *err);

#endif
