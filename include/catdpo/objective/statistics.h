/* Statistics of rates over categories: confidence intervals and how fair a model is. Nothing here is collective or
 * fails. */
#ifndef CATDPO_OBJECTIVE_STATISTICS_H
#define CATDPO_OBJECTIVE_STATISTICS_H

#include <stdint.h>

typedef struct Interval {
    double low, high; /* NAN if there is nothing to say */
} Interval;

/* 95 % confidence interval (Wilson) of a rate after `hits` of n; a hit may be a half (a tie). n = 0 gives NAN. */
Interval wilson_interval(double hits, int64_t n);

/* A rate x_k = hits_k / n_k over the categories with n_k > 0; NAN and -1 if there are none. */
typedef struct Fairness {
    double micro;       /* sum of hits / sum of n: large categories count for more */
    double macro;       /* mean of x_k: categories count alike */
    double worst;       /* the rate of the worst category */
    double gap;         /* largest x_k - smallest x_k */
    double variance;    /* of x_k over the categories (population: divided by their number) */
    int worst_category; /* index; the first of equals */
    int categories;     /* with n_k > 0 */
} Fairness;

/* Which end of a rate is the worst: accuracy the lowest, violation rate the highest. */
typedef enum { WORST_IS_LOWEST, WORST_IS_HIGHEST } WorstRate;

/* hits[K], n[K]; categories with use[k] = 0 are left out (use may be NULL: all). */
Fairness fairness(const double *hits, const int64_t *n, const unsigned char *use, int category_count, WorstRate worst);

#endif
