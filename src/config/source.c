/* One pass over the characters: strings and comments are copied, @include is followed, integers that need 64 bits get
 * libconfig's suffix L. libconfig's own @include differs between its versions and ends the process on a folder. */
#include "catdpo/config/source.h"

#include "catdpo/core/path.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LARGEST_FILE = 1 << 20, DEEPEST_INCLUDE = 16, PATH_SIZE = 4096 };

typedef struct Scanner {
    const char *path;
    char *in;      /* rest of the text */
    char *out;     /* part so far, NUL-terminated when it is visited; room for twice the text */
    size_t length; /* of out */
    int line;      /* of in */
    int part_line;
    int depth;    /* of open braces, brackets and parentheses */
    int includes; /* files open above this one; -1: not a file */
    SourceVisit *visit;
    void *context;
} Scanner;

/* `from` is "file:line: " of the @include, or "". */
static bool read_file(const char *path, const char *from, SourceVisit *visit, void *context, int includes, Error *err);

static void copy(Scanner *s)
{
    if (*s->in == '\n') s->line++;
    s->out[s->length++] = *s->in++;
}

static void copy_to(Scanner *s, const char *end)
{
    while (s->in < end) copy(s);
}

static bool visit_part(Scanner *s, Error *err)
{
    s->out[s->length] = '\0';
    SourcePart part = { s->out, s->path, s->part_line };
    s->length = 0;
    s->part_line = s->line;
    return s->visit(&part, s->context, err);
}

static bool copy_string(Scanner *s, Error *err)
{
    int line = s->line;
    copy(s);
    while (*s->in && *s->in != '"') {
        if (*s->in == '\\' && s->in[1]) copy(s);
        copy(s);
    }
    if (!*s->in) return error_usage(err, "%s:%d: the string that begins here has no end", s->path, line);
    copy(s);
    return true;
}

static bool copy_comment(Scanner *s, Error *err)
{
    bool block = s->in[0] == '/' && s->in[1] == '*';
    const char *end = block ? strstr(s->in + 2, "*/") : strchr(s->in, '\n');
    if (block && !end) return error_usage(err, "%s:%d: the comment that begins here has no end", s->path, s->line);
    copy_to(s, !end ? s->in + strlen(s->in) : block ? end + 2 : end);
    return true;
}

/* A token that begins with a digit. A sign before it has been copied already. */
static bool copy_number(Scanner *s, Error *err)
{
    char *start = s->in, *end = start;
    bool hexadecimal = start[0] == '0' && (start[1] == 'x' || start[1] == 'X');
    while (isalnum((unsigned char)*end) || *end == '.' ||
           ((*end == '+' || *end == '-') && !hexadecimal && tolower(end[-1]) == 'e'))
        end++;
    bool negative = s->length > 0 && s->out[s->length - 1] == '-';

    char *after;
    errno = 0;
    unsigned long long value = strtoull(start, &after, hexadecimal ? 16 : 10);
    bool suffix = *after == 'L' || *after == 'l';
    bool integer = after + suffix == end || (suffix && after + 2 == end);
    if (integer && (errno == ERANGE || value > (unsigned long long)LLONG_MAX + negative))
        return error_usage(err, "%s:%d: the integer %.*s does not fit 64 bits", s->path, s->line, (int)(end - start),
                           start);
    copy_to(s, end);
    if (integer && !suffix && value > INT_MAX) s->out[s->length++] = 'L';
    return true;
}

static bool follow_include(Scanner *s, Error *err)
{
    char *name = s->in + strlen("@include");
    name += strspn(name, " \t");
    char *end = *name == '"' ? strpbrk(name + 1, "\"\n") : NULL;
    if (!end || *end != '"')
        return error_usage(err, "%s:%d: @include needs the name of a file in quotes", s->path, s->line);
    if (s->depth > 0) return error_usage(err, "%s:%d: @include stands inside a group; move it out", s->path, s->line);
    if (s->includes >= DEEPEST_INCLUDE)
        return error_usage(err, "%s:%d: @include goes %d files deep: does a file include itself?", s->path, s->line,
                           DEEPEST_INCLUDE);

    char path[PATH_SIZE], written[PATH_SIZE], file[PATH_SIZE], from[PATH_SIZE];
    bool fits = end - name < PATH_SIZE;
    snprintf(written, sizeof written, "%.*s", (int)(end - name - 1), name + 1);
    snprintf(from, sizeof from, "%s:%d: @include", s->path, s->line);
    if (fits && !path_expand(written, file, sizeof file, from, err)) return false;
    const char *slash = *file == '/' ? NULL : strrchr(s->path, '/');
    int folder = slash ? (int)(slash - s->path) + 1 : 0;
    if (!fits || snprintf(path, sizeof path, "%.*s%s", folder, s->path, file) >= (int)sizeof path)
        return error_usage(err, "%s:%d: the path in @include is too long", s->path, s->line);

    if (!visit_part(s, err)) return false;
    snprintf(from, sizeof from, "%s:%d: ", s->path, s->line);
    s->in = end + 1;
    return read_file(path, from, s->visit, s->context, s->includes + 1, err);
}

static bool scan(Scanner *s, Error *err)
{
    while (*s->in) {
        char c = *s->in;
        if (c == '"') {
            if (!copy_string(s, err)) return false;
        } else if (c == '#' || (c == '/' && (s->in[1] == '/' || s->in[1] == '*'))) {
            if (!copy_comment(s, err)) return false;
        } else if (isdigit((unsigned char)c)) {
            if (!copy_number(s, err)) return false;
        } else if (isalpha((unsigned char)c) || c == '*') {
            copy_to(s, s->in + 1);
            while (isalnum((unsigned char)*s->in) || (*s->in && strchr("-_*", *s->in))) copy(s);
        } else if (s->includes >= 0 && strncmp(s->in, "@include", 8) == 0) {
            if (!follow_include(s, err)) return false;
        } else {
            if (strchr("{[(", c)) s->depth++;
            if (strchr("}])", c)) s->depth--;
            copy(s);
        }
    }
    return visit_part(s, err);
}

/* text is changed in place. */
static bool scan_text(char *text, const char *path, SourceVisit *visit, void *context, int includes, Error *err)
{
    char *out = malloc(2 * strlen(text) + 1);
    if (!out) return error_fault(err, "%s: no memory left to read it", path);
    Scanner s = { .path = path,
                  .in = text,
                  .out = out,
                  .line = 1,
                  .part_line = 1,
                  .includes = includes,
                  .visit = visit,
                  .context = context };
    bool ok = scan(&s, err);
    free(out);
    return ok;
}

bool source_read_text(const char *text, const char *path, SourceVisit *visit, void *context, Error *err)
{
    char *own = strdup(text);
    if (!own) return error_fault(err, "%s: no memory left to read it", path);
    bool ok = scan_text(own, path, visit, context, -1, err);
    free(own);
    return ok;
}

static bool read_file(const char *path, const char *from, SourceVisit *visit, void *context, int includes, Error *err)
{
    FILE *file = fopen(path, "r");
    if (!file && strncmp(path, "/dev/fd/", 8) == 0)
        return error_usage(err,
                           "%scannot read the config '%s': a pipe made by <(...) ends at mpirun or srun; name a file, "
                           "or send it to /dev/stdin",
                           from, path);
    if (!file) return error_usage(err, "%scannot read the config '%s': %s", from, path, strerror(errno));
    char *text = malloc(LARGEST_FILE + 1);
    size_t length = text ? fread(text, 1, LARGEST_FILE, file) : 0;
    int failed = text && ferror(file) ? errno : 0; /* a folder opens and then fails to be read */
    fclose(file);

    bool ok = false;
    if (!text)
        error_fault(err, "%s: no memory left to read it", path);
    else if (failed)
        error_usage(err, "%scannot read the config '%s': %s", from, path, strerror(failed));
    else if (length == LARGEST_FILE || memchr(text, '\0', length))
        error_usage(err, "%s'%s' is not a config: it is no text file", from, path);
    else {
        text[length] = '\0';
        ok = scan_text(text, path, visit, context, includes, err);
    }
    free(text);
    return ok;
}

bool source_read(const char *path, SourceVisit *visit, void *context, Error *err)
{
    return read_file(path, "", visit, context, 0, err);
}
