/* Is there a terminal behind a stream? Under mpirun a rank writes to a pipe that the launcher copies to its own stderr.
 */
#ifndef CATDPO_CORE_TERMINAL_H
#define CATDPO_CORE_TERMINAL_H

/* A file descriptor, to be closed, of the terminal on which what is written to `descriptor` appears; -1 if there is
 * none. */
int terminal_open(int descriptor);

/* Columns of the terminal, at least 20; 80 if it does not tell. */
int terminal_width(int terminal);

#endif
