/* Learning rate over a run: up from 0 over the warm-up, then constant, or down to floor x peak at the end, in a
 * straight line or along half a cosine. The same numbers as transformers' get_scheduler for floor = 0. Nothing here is
 * collective or fails.
 */
#ifndef CATDPO_OPTIM_SCHEDULE_H
#define CATDPO_OPTIM_SCHEDULE_H

#include "catdpo/config/config.h"

/* Steps of the warm-up, of `steps` in all: ceil(warmup x steps). */
int64_t schedule_warmup_steps(double warmup, int64_t steps);

/* Learning rate of step 1 <= step <= steps as a fraction of its peak, in [0, 1]. The first step has rate 0 if there is
 * a warm-up, as in transformers, where the rate of a step is set after the step before it. */
double schedule_factor(ScheduleType type, double warmup, double floor, int64_t step, int64_t steps);

#endif
