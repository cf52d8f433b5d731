#include "catdpo/data/vocabulary.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void vocabulary_free(Vocabulary *v)
{
    free(v->offset);
    free(v->byte);
    free(v->special);
    free(v->fallback);
    free(v->stop);
    *v = (Vocabulary){ 0 };
}

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------- */

static const char REPLACEMENT[] = "\xef\xbf\xbd", NUL_SIGN[] = "\xe2\x90\x80";

/* Bytes that a character which begins with `lead` has, and the range of its second byte; 0: none begins so. Unicode's
 * table of well-formed sequences. */
static int character_length(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80, *high = 0xbf;
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    if (lead == 0xe0) *low = 0xa0;
    if (lead == 0xed) *high = 0x9f;
    if (lead == 0xf0) *low = 0x90;
    if (lead == 0xf4) *high = 0x8f;
    return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* Bytes of the well-formed character at the beginning of in[n], n > 0; or, negative, of the longest beginning of one,
 * at least 1. */
static int character(const uint8_t *in, size_t n)
{
    uint8_t low, high;
    int length = character_length(in[0], &low, &high), have = 1;
    if (length == 0) return -1;
    for (; have < length; have++, low = 0x80, high = 0xbf)
        if ((size_t)have >= n || in[have] < low || in[have] > high) return -have;
    return length;
}

static bool is_utf8(const uint8_t *in, size_t n)
{
    for (size_t i = 0; i < n;) {
        int length = character(in + i, n - i);
        if (length < 0) return false;
        i += (size_t)length;
    }
    return true;
}

/* Bytes [0, n) with everything that is no UTF-8 replaced, into out (3 n + 1 bytes), ended by NUL; returns the length.
 */
static size_t utf8_repair(const uint8_t *in, size_t n, char *out)
{
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        int length = character(in + i, n - i);
        const char *written = length < 0 ? REPLACEMENT : in[i] == 0 ? NUL_SIGN : (const char *)in + i;
        size_t bytes = length < 0 || in[i] == 0 ? 3 : (size_t)length;
        memcpy(out + used, written, bytes);
        used += bytes;
        i += (size_t)(length < 0 ? -length : length);
    }
    out[used] = '\0';
    return used;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

size_t vocabulary_room(const Vocabulary *v, const int32_t *id, int count)
{
    size_t bytes = 1;
    for (int i = 0; i < count; i++) bytes += 12 * (size_t)(v->offset[id[i] + 1] - v->offset[id[i]]);
    return bytes; /* n bytes, three times as many where each is replaced, and three times that in the copy at the end */
}

/* The run of byte-fallback bytes in[from, *used) is over: if they are no text, each becomes U+FFFD. */
static void end_run(uint8_t *in, size_t from, size_t *used)
{
    size_t bytes = *used - from;
    if (is_utf8(in + from, bytes)) return;
    for (size_t i = 0; i < bytes; i++) memcpy(in + from + 3 * i, REPLACEMENT, 3);
    *used = from + 3 * bytes;
}

size_t vocabulary_text(const Vocabulary *v, const int32_t *id, int count, char *text)
{
    /* put together in the last quarter of the room (3 n bytes), repaired into what is before it */
    size_t room = vocabulary_room(v, id, count), used = 0, run = 0;
    uint8_t *in = (uint8_t *)text + (room - 1) / 4 * 3;
    bool running = false;
    for (int i = 0; i <= count; i++) {
        if (i < count && v->special[id[i]]) continue;
        bool fallback = i < count && v->fallback[id[i]];
        if (running && !fallback) end_run(in, run, &used);
        if (fallback && !running) run = used;
        running = fallback;
        if (i == count) break;
        size_t bytes = (size_t)(v->offset[id[i] + 1] - v->offset[id[i]]);
        memcpy(in + used, v->byte + v->offset[id[i]], bytes);
        used += bytes;
    }
    size_t skip = 0;
    while ((int64_t)skip < v->strip && skip < used && in[skip] == ' ') skip++;
    return utf8_repair(in + skip, used - skip, text);
}
