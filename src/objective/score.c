#include "catdpo/objective/score.h"

#include <math.h>

PairScore score_pair(const ObjectiveSettings *settings, const MarginState *margins, const PairLogProbs *pair,
                     const PairLabels *labels)
{
    double offset = margin_offset(margins, labels->categories, labels->applies);
    PairTerms terms = objective_of(settings)->pair(settings, offset, pair);
    return (PairScore){
        .loss = terms.loss,
        .coefficient = { terms.coefficient[PAIR_CHOSEN], terms.coefficient[PAIR_REJECTED] },
        .reward = { terms.reward[PAIR_CHOSEN], terms.reward[PAIR_REJECTED] },
        .reward_margin = settings->beta * terms.h,
        .accuracy = fabs(terms.h) < margins->tie ? 0.5 : terms.h > 0, /* at the start h is rounding alone */
        .violation = violation_score(margins, violation_signal(margins, pair, terms.h, offset)),
    };
}
