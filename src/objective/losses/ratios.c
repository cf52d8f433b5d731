/* What several losses are made of. */
#include "losses.h"

Ratios ratios(const PairView *pair)
{
    double chosen = pair->logp[PAIR_CHOSEN] - pair->reference[PAIR_CHOSEN],
           rejected = pair->logp[PAIR_REJECTED] - pair->reference[PAIR_REJECTED];
    return (Ratios){ chosen, rejected, chosen - rejected };
}

Means means(const PairView *pair)
{
    double chosen = pair->logp[PAIR_CHOSEN] / pair->tokens[PAIR_CHOSEN],
           rejected = pair->logp[PAIR_REJECTED] / pair->tokens[PAIR_REJECTED];
    return (Means){ chosen, rejected, chosen - rejected };
}

PairTerms margin_terms(const ObjectiveSettings *settings, double offset, const Ratios *r, double loss, double slope)
{
    double beta = settings->beta, step = beta * slope;
    return (PairTerms){ .loss = loss,
                        .coefficient = { -step, step },
                        .reward = { beta * r->chosen, beta * r->rejected },
                        .h = r->h,
                        .excess = r->h - offset / beta };
}
