/* Home folders and variables of the environment in paths. */
#include "catdpo/core/path.h"

#include <ctype.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAME = 256 };

typedef struct Text {
    char *out;
    size_t used, size; /* used may be larger than size: what does not fit is counted only */
} Text;

static void append(Text *t, const char *text, size_t length)
{
    if (t->used + length < t->size) memcpy(t->out + t->used, text, length);
    t->used += length;
}

/* Length of a variable's name. */
static size_t name_length(const char *text)
{
    size_t n = 0;
    if (!isdigit((unsigned char)*text))
        while (isalnum((unsigned char)text[n]) || text[n] == '_') n++;
    return n;
}

static const char *home_of(const char *user)
{
    const char *home = *user ? NULL : getenv("HOME");
    if (home && *home) return home;
    const struct passwd *entry = *user ? getpwnam(user) : getpwuid(getuid());
    return entry ? entry->pw_dir : NULL;
}

/* ~ and ~user; returns what follows, or NULL. */
static const char *expand_home(Text *t, const char *text, const char *place, Error *err)
{
    char user[NAME];
    size_t length = strcspn(text + 1, "/");
    snprintf(user, sizeof user, "%.*s", (int)(length < NAME ? length : NAME - 1), text + 1);
    const char *home = home_of(user);
    if (home)
        append(t, home, strlen(home));
    else if (*user)
        error_usage(err, "%s: there is no user '%s' for '%.200s'; for a file of this name write './%.200s'", place,
                    user, text, text);
    else
        error_usage(err, "%s: nobody knows the home folder that '%.200s' means: HOME is not set", place, text);
    return home ? text + 1 + length : NULL;
}

/* $NAME, ${NAME} and $$; returns what follows, or NULL. */
static const char *expand_variable(Text *t, const char *text, const char *place, Error *err)
{
    bool braces = text[1] == '{';
    const char *start = text + 1 + braces;
    size_t length = name_length(start);
    if (text[1] == '$') {
        append(t, "$", 1);
        return text + 2;
    }
    if (length == 0 || length >= NAME || (braces && start[length] != '}')) {
        error_usage(err, "%s: '%.200s' is no variable like $NAME or ${NAME}; for a '$' in a file's name write '$$'",
                    place, text);
        return NULL;
    }
    char name[NAME];
    snprintf(name, sizeof name, "%.*s", (int)length, start);
    const char *value = getenv(name);
    if (!value) {
        error_usage(err, "%s: the environment has no variable %s; export it, or write '$$' for a '$' in a file's name",
                    place, name);
        return NULL;
    }
    append(t, value, strlen(value));
    return start + length + braces;
}

bool path_is_plain(const char *text) { return *text != '~' && !strchr(text, '$'); }

bool path_expand(const char *text, char *out, size_t size, const char *place, Error *err)
{
    Text t = { .out = out, .size = size };
    const char *c = *text == '~' ? expand_home(&t, text, place, err) : text;
    while (c && *c)
        if (*c == '$')
            c = expand_variable(&t, c, place, err);
        else
            append(&t, c++, 1);
    if (!c) return false;
    if (t.used >= size) return error_usage(err, "%s: '%.200s' is longer than %zu bytes", place, text, size - 1);
    out[t.used] = '\0';
    return true;
}
