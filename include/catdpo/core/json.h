/* JSON on a stream, written value by value in order: commas, quotes and escapes are put in here, nothing is allocated.
 *
 *     Json j = json_begin(out);
 *     json_object(&j, NULL);
 *     json_text(&j, "status", "done");
 *     json_array(&j, "grid");
 *     json_integer(&j, NULL, 2);
 *     json_close(&j);
 *     json_close(&j);
 *
 * `key` is the name of a member of an object, NULL in an array and at the top. Not collective. Whether the stream took
 * it all is for its owner to ask (ferror). */
#ifndef CATDPO_CORE_JSON_H
#define CATDPO_CORE_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { JSON_DEPTH = 16 };

typedef struct Json {
    FILE *out;            /* not owned */
    int depth;            /* of open objects and arrays */
    char end[JSON_DEPTH]; /* the brackets that close them */
    bool first;           /* nothing was written yet behind the last opening bracket */
} Json;

Json json_begin(FILE *out);

void json_object(Json *j, const char *key);
void json_array(Json *j, const char *key);
/* Ends the object or array that was opened last. */
void json_close(Json *j);

/* The shortest text that reads back to the same number; null if it is not finite. */
void json_number(Json *j, const char *key, double value);
void json_integer(Json *j, const char *key, int64_t value);
void json_bool(Json *j, const char *key, bool value);
void json_null(Json *j, const char *key);
/* UTF-8; bytes that are none become U+FFFD, so that the whole stays readable. */
void json_text(Json *j, const char *key, const char *value);

/* A line break before the next value, for people. */
void json_break(Json *j);

#endif
