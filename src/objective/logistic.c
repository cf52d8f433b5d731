#include "catdpo/objective/objective.h"

#include <math.h>

double softplus(double t) { return fmax(t, 0) + log1p(exp(-fabs(t))); }

double sigmoid(double t)
{
    double e = exp(-fabs(t));
    return t < 0 ? e / (1 + e) : 1 / (1 + e);
}
