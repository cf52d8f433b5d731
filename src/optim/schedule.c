#include "catdpo/optim/schedule.h"

#include <math.h>

int64_t schedule_warmup_steps(double warmup, int64_t steps) { return (int64_t)ceil(warmup * (double)steps); }

double schedule_factor(ScheduleType type, double warmup, double floor, int64_t step, int64_t steps)
{
    int64_t done = step - 1, rising = schedule_warmup_steps(warmup, steps);
    if (done < rising) return (double)done / (double)rising;
    double way = steps > rising ? (double)(done - rising) / (double)(steps - rising) : 0; /* from 0 to nearly 1 */
    switch (type) {
    case SCHEDULE_CONSTANT: return 1;
    case SCHEDULE_LINEAR: return floor + (1 - floor) * (1 - way);
    case SCHEDULE_COSINE: return floor + (1 - floor) * 0.5 * (1 + cos(3.141592653589793 * way));
    }
    return 0;
}
