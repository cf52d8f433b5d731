/* Is the training still worth its time? Watches what every step reports for the signs of one that diverges without ever
 * leaving the finite numbers: a loss far above that of the start, a gradient that has vanished, gradients that are all
 * clipped and grow. Plain C, on one rank. */
#ifndef CATDPO_TRAIN_HEALTH_H
#define CATDPO_TRAIN_HEALTH_H

#include "catdpo/config/config.h"
#include "catdpo/files/metrics.h"

enum { HEALTH_TEXT = 256, HEALTH_WINDOW = 20 };

typedef enum { HEALTH_LOSS, HEALTH_ZERO, HEALTH_CLIPPED, HEALTH_SIGNS } HealthSign;

typedef struct Health {
    int window;                                      /* steps that a mean is taken over, HEALTH_WINDOW at most */
    double first_loss, first_norm;                   /* of the run's first step; NaN: not known yet */
    double first_margin;                             /* at the start */
    bool margins_add_up;                             /* those of a pair's categories do (margin.aggregation = "sum") */
    double loss[HEALTH_WINDOW], norm[HEALTH_WINDOW]; /* of the last steps, in a ring */
    int64_t steps;                                   /* seen */
    int zero, clipped;                               /* steps in a row, the last ones */
    bool said[HEALTH_SIGNS];
} Health;

/* first_loss, first_norm: of the run's first step, if this process goes on after it; NaN: it is yet to come. */
void health_begin(Health *h, const Config *config, int64_t total_steps, double first_loss, double first_norm);

/* Whether the step just done shows a sign: then true, and one sentence in text. *news: the first time. K categories. */
bool health_step(Health *h, const StepMetrics *row, int category_count, char text[HEALTH_TEXT], bool *news);

#endif
