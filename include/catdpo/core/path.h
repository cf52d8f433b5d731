/* Names of files as people write them. */
#ifndef CATDPO_CORE_PATH_H
#define CATDPO_CORE_PATH_H

#include "catdpo/core/error.h"

#include <stdbool.h>
#include <stddef.h>

/* What a shell does to a path, for texts that no shell has seen: ~ and ~user at the beginning, $NAME and ${NAME}
 * anywhere; $$ is a $. Into out; a variable or user that is not there, or a result of `size` bytes or more, is refused.
 * `place` begins the message ("run.cfg:3: run.dir"). Not collective. */
bool path_expand(const char *text, char *out, size_t size, const char *place, Error *err);

/* True if path_expand leaves text as it is. */
bool path_is_plain(const char *text);

#endif
