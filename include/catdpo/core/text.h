/* UTF-8 on a terminal: a character is a column. Not collective. */
#ifndef CATDPO_CORE_TEXT_H
#define CATDPO_CORE_TEXT_H

/* Columns of a text. */
int text_columns(const char *text);

/* Bytes of its first `most` characters. */
int text_bytes(const char *text, int most);

#endif
