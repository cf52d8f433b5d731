#include "catdpo/core/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Range {
    uint32_t first, last;
} Range;

/* Coarse on purpose: the blocks of Unicode that terminals draw so. The C library's own wcwidth asks the locale, which
 * is often C where the terminal is not. */
static const Range marks[] = { { 0x0300, 0x036F }, { 0x0483, 0x0489 }, { 0x0591, 0x05BD },
                               { 0x064B, 0x065F }, { 0x0E34, 0x0E3A }, { 0x0E47, 0x0E4E },
                               { 0x1AB0, 0x1AFF }, { 0x1DC0, 0x1DFF }, { 0x200B, 0x200F },
                               { 0x20D0, 0x20FF }, { 0x3099, 0x309A }, { 0xFE00, 0xFE0F },
                               { 0xFE20, 0xFE2F }, { 0xFEFF, 0xFEFF }, { 0 } };
static const Range wide[] = { { 0x1100, 0x115F },   { 0x2E80, 0x303E },   { 0x3041, 0x4DBF },
                              { 0x4E00, 0xA4CF },   { 0xA960, 0xA97F },   { 0xAC00, 0xD7A3 },
                              { 0xF900, 0xFAFF },   { 0xFE30, 0xFE6F },   { 0xFF00, 0xFF60 },
                              { 0xFFE0, 0xFFE6 },   { 0x1F300, 0x1F64F }, { 0x1F680, 0x1F6FF },
                              { 0x1F900, 0x1F9FF }, { 0x20000, 0x3FFFD }, { 0 } };

static bool is_in(const Range *range, uint32_t c)
{
    while (range->last && c > range->last) range++;
    return range->last && c >= range->first;
}

int text_character(unsigned char first) { return first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1; }

/* The character at *text, which is moved behind it; a byte that begins none counts as one. */
static uint32_t next(const char **text)
{
    const unsigned char *c = (const unsigned char *)*text;
    int more = text_character(c[0]) - 1;
    uint32_t value = more == 3 ? c[0] & 7u : more == 2 ? c[0] & 15u : more == 1 ? c[0] & 31u : c[0];
    int k = 1;
    for (; k <= more && (c[k] & 0xC0) == 0x80; k++) value = value << 6 | (c[k] & 63u);
    *text += k;
    return value;
}

static int columns_of(uint32_t c) { return is_in(marks, c) ? 0 : is_in(wide, c) ? 2 : 1; }

int text_columns(const char *text)
{
    int count = 0;
    while (*text) count += columns_of(next(&text));
    return count;
}

int text_bytes(const char *text, int most)
{
    const char *c = text;
    while (*c) {
        const char *after = c;
        most -= columns_of(next(&after));
        if (most < 0) break;
        c = after;
    }
    return (int)(c - text);
}
