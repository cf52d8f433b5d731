#include "catdpo/core/text.h"

int text_columns(const char *text)
{
    int count = 0;
    for (; *text; text++) count += ((unsigned char)*text & 0xC0) != 0x80;
    return count;
}

int text_bytes(const char *text, int most)
{
    const char *c = text;
    for (; *c; c++)
        if (((unsigned char)*c & 0xC0) != 0x80 && most-- == 0) break;
    return (int)(c - text);
}
