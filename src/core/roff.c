/* Text for manual pages. */
#include "catdpo/core/roff.h"

void roff_text(FILE *out, const char *text)
{
    for (char before = '\n'; *text; before = *text++) {
        if (before == '\n' && (*text == '.' || *text == '\'')) fputs("\\&", out); /* would be a request */
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else if (*text == '\'')
            fputs("\\(aq", out);
        else
            fputc(*text, out);
    }
}
