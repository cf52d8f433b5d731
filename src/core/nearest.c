/* Optimal string alignment distance: Levenshtein's recurrence with a swap of neighbours as one edit. */
#include "catdpo/core/nearest.h"

#include <ctype.h>
#include <string.h>

enum { NAME_MAX_LENGTH = 63 };

static int at_most(int a, int b) { return a < b ? a : b; }

int edit_distance(const char *a, const char *b)
{
    int m = (int)strnlen(a, NAME_MAX_LENGTH), n = (int)strnlen(b, NAME_MAX_LENGTH);
    int d[NAME_MAX_LENGTH + 1][NAME_MAX_LENGTH + 1]; /* d[i][j]: distance of the first i and the first j characters */
    for (int i = 0; i <= m; i++) d[i][0] = i;
    for (int j = 0; j <= n; j++) d[0][j] = j;
    for (int i = 1; i <= m; i++)
        for (int j = 1; j <= n; j++) {
            int a1 = tolower((unsigned char)a[i - 1]), b1 = tolower((unsigned char)b[j - 1]);
            int replace = d[i - 1][j - 1] + (a1 != b1);
            d[i][j] = at_most(replace, at_most(d[i - 1][j], d[i][j - 1]) + 1);
            if (i > 1 && j > 1 && a1 == tolower((unsigned char)b[j - 2]) && tolower((unsigned char)a[i - 2]) == b1)
                d[i][j] = at_most(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[m][n];
}

int nearest_name(const char *name, const char *const names[], int count)
{
    int nearest = -1, smallest = 0;
    for (int k = 0; k < count; k++) {
        int distance = edit_distance(name, names[k]);
        if (nearest < 0 || distance < smallest) nearest = k, smallest = distance;
    }
    return nearest;
}

bool is_likely_meant(const char *name, const char *known)
{
    int longer = (int)(strlen(name) > strlen(known) ? strlen(name) : strlen(known));
    return edit_distance(name, known) <= (longer < 4 ? 1 : longer / 3 + 1);
}
