/* Is there a terminal behind a stream? Under mpirun a rank writes to a pipe that the launcher copies to its own stderr.
 */
#ifndef CATDPO_CORE_TERMINAL_H
#define CATDPO_CORE_TERMINAL_H

#include <stdio.h>

/* A file descriptor, to be closed, of the terminal on which what is written to `descriptor` appears; -1 if there is
 * none. */
int terminal_open(int descriptor);

/* The descriptor of a stream; of stdout and stderr also after terminal_make_plain. */
int terminal_descriptor(FILE *stream);

/* Where stdout or stderr ends on a terminal whose locale (LC_ALL, LC_CTYPE, LANG) is not UTF-8, it gets a question mark
 * for each column of a character beyond ASCII. Files and pipes keep the text as it is. Once, before anything is
 * written. */
void terminal_make_plain(void);

/* Columns of the terminal, at least 20; 80 if it does not tell. */
int terminal_width(int terminal);

#endif
