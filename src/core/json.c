#include "catdpo/core/json.h"

#include "catdpo/core/error.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

Json json_begin(FILE *out) { return (Json){ .out = out, .first = true }; }

/* Bytes of the UTF-8 character that begins at c; 0 if none does. */
static int character(const unsigned char *c)
{
    static const struct {
        unsigned char mask, lead;
        unsigned least;
    } form[] = { { 0x80, 0x00, 0 }, { 0xE0, 0xC0, 0x80 }, { 0xF0, 0xE0, 0x800 }, { 0xF8, 0xF0, 0x10000 } };
    for (int n = 0; n < 4; n++) {
        if ((*c & form[n].mask) != form[n].lead) continue;
        unsigned code = *c & (unsigned char)~form[n].mask;
        for (int i = 1; i <= n; i++) {
            if ((c[i] & 0xC0) != 0x80) return 0;
            code = code << 6 | (c[i] & 0x3F);
        }
        bool valid = code >= form[n].least && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
        return valid ? n + 1 : 0;
    }
    return 0;
}

static void quoted(FILE *out, const char *text)
{
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c;) {
        int length = character(c);
        if (*c == '"' || *c == '\\')
            fprintf(out, "\\%c", *c);
        else if (*c < ' ' || *c == 127)
            fprintf(out, "\\u%04x", *c);
        else if (length == 0)
            fputs("\xEF\xBF\xBD", out);
        else
            fwrite(c, 1, (size_t)length, out);
        c += length > 0 ? length : 1;
    }
    fputc('"', out);
}

/* What stands before a value: a comma behind the one before, and its key. */
static void place(Json *j, const char *key)
{
    if (!j->first) fputc(',', j->out);
    j->first = false;
    if (!key) return;
    quoted(j->out, key);
    fputc(':', j->out);
}

static void open_with(Json *j, const char *key, char begin, char end)
{
    CHECK(j->depth < JSON_DEPTH);
    place(j, key);
    fputc(begin, j->out);
    j->end[j->depth++] = end;
    j->first = true;
}

void json_object(Json *j, const char *key) { open_with(j, key, '{', '}'); }
void json_array(Json *j, const char *key) { open_with(j, key, '[', ']'); }

void json_close(Json *j)
{
    CHECK(j->depth > 0);
    fputc(j->end[--j->depth], j->out);
    j->first = false;
}

void json_number(Json *j, const char *key, double value)
{
    if (!isfinite(value)) {
        json_null(j, key);
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    place(j, key);
    fputs(text, j->out);
}

void json_integer(Json *j, const char *key, int64_t value)
{
    place(j, key);
    fprintf(j->out, "%" PRId64, value);
}

void json_bool(Json *j, const char *key, bool value)
{
    place(j, key);
    fputs(value ? "true" : "false", j->out);
}

void json_null(Json *j, const char *key)
{
    place(j, key);
    fputs("null", j->out);
}

void json_text(Json *j, const char *key, const char *value)
{
    place(j, key);
    quoted(j->out, value);
}

void json_break(Json *j)
{
    if (!j->first) fputc(',', j->out);
    j->first = true;
    fputc('\n', j->out);
}
