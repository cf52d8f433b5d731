/* See objective.h. */
#include "catdpo/objective/objective.h"

#include <math.h>

double softplus(double t) { return fmax(t, 0) + log1p(exp(-fabs(t))); }

double sigmoid(double t)
{
    double e = exp(-fabs(t));
    return t < 0 ? e / (1 + e) : 1 / (1 + e);
}

PairLoss pair_loss(double beta, double offset, const PairLogProbs *pair)
{
    double h = (pair->chosen - pair->reference_chosen) - (pair->rejected - pair->reference_rejected);
    double u = offset - beta * h;
    return (PairLoss){ .loss = softplus(u), .coefficient = -beta * sigmoid(u), .h = h };
}
