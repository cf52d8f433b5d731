/* Text for manual pages. */
#ifndef CATDPO_CORE_ROFF_H
#define CATDPO_CORE_ROFF_H

#include <stdio.h>

/* Writes text so that man shows it as it is: no character of it is a command of roff, and hyphens can be copied. Not
 * collective. */
void roff_text(FILE *out, const char *text);

#endif
