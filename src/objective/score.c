#include "catdpo/objective/score.h"

#include <math.h>

/* + weight * (mean token negative log-probability of the chosen completion) */
static void add_sft(PairTerms *terms, double weight, const PairView *pair)
{
    if (weight == 0) return;
    double share = weight / pair->tokens[PAIR_CHOSEN];
    terms->loss -= share * pair->logp[PAIR_CHOSEN];
    terms->coefficient[PAIR_CHOSEN] -= share;
}

PairScore score_pair(const ObjectiveSettings *settings, const MarginState *margins, const PairView *pair)
{
    PairMargin margin = margin_of(margins, pair->categories, pair->applies);
    PairTerms terms = objective_of(settings)->pair(settings, margin.offset, pair);
    double unweighted = terms.loss;
    terms.loss *= margin.weight;
    for (int side = 0; side < PAIR_SIDES; side++) terms.coefficient[side] *= margin.weight;
    add_sft(&terms, settings->sft_weight, pair);
    return (PairScore){
        .loss = terms.loss,
        .unweighted = unweighted,
        .coefficient = { terms.coefficient[PAIR_CHOSEN], terms.coefficient[PAIR_REJECTED] },
        .reward = { terms.reward[PAIR_CHOSEN], terms.reward[PAIR_REJECTED] },
        .reward_margin = settings->beta * terms.h,
        .accuracy = fabs(terms.h) < margins->tie ? 0.5 : terms.h > 0, /* at the start h is rounding alone */
        .violation = violation_score(margins, violation_signal(margins, pair, &terms)),
    };
}
