#include "catdpo/objective/statistics.h"

#include <math.h>

Interval wilson_interval(double hits, int64_t n)
{
    if (n <= 0) return (Interval){ NAN, NAN };
    const double z = 1.959963984540054; /* 97.5 % point of the normal distribution */
    double count = (double)n, p = hits / count, scale = 1 + z * z / count;
    double centre = (p + z * z / (2 * count)) / scale;
    double half = z / scale * sqrt(p * (1 - p) / count + z * z / (4 * count * count));
    /* at 0 and n hits the bound is the rate itself, which rounding would miss */
    return (Interval){ hits <= 0 ? 0 : centre - half, hits >= count ? 1 : centre + half };
}

Fairness fairness(const double *hits, const int64_t *n, const unsigned char *use, int category_count, WorstRate worst)
{
    Fairness f = { NAN, NAN, NAN, NAN, NAN, -1, 0 };
    double all_hits = 0, all_n = 0, sum = 0, low = INFINITY, high = -INFINITY;
    for (int k = 0; k < category_count; k++) {
        if (n[k] <= 0 || (use && !use[k])) continue;
        double rate = hits[k] / (double)n[k];
        if (worst == WORST_IS_LOWEST ? rate < low : rate > high) f.worst_category = k;
        low = fmin(low, rate);
        high = fmax(high, rate);
        all_hits += hits[k];
        all_n += (double)n[k];
        sum += rate;
        f.categories++;
    }
    if (f.categories == 0) return f;

    f.micro = all_hits / all_n;
    f.macro = sum / f.categories;
    f.worst = worst == WORST_IS_LOWEST ? low : high;
    f.gap = high - low;
    f.variance = 0;
    for (int k = 0; k < category_count; k++) {
        if (n[k] <= 0 || (use && !use[k])) continue;
        double off = hits[k] / (double)n[k] - f.macro;
        f.variance += off * off / f.categories;
    }
    return f;
}
