/* UTF-8 on a terminal. Not collective. */
#ifndef CATDPO_CORE_TEXT_H
#define CATDPO_CORE_TEXT_H

/* Columns of a text: two for a character of East Asia or an emoji, none for a mark that is put on another one. */
int text_columns(const char *text);

/* Bytes of its first characters that take `most` columns together, at most. */
int text_bytes(const char *text, int most);

/* Bytes of the character that begins with this byte, as far as that tells; 1 within a character. */
int text_character(unsigned char first);

#endif
