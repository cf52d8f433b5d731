#include "catdpo/objective/score.h"

#include <math.h>
#include <string.h>

/* + weight * (mean token negative log-probability of the chosen completion) */
static void add_sft(PairTerms *terms, double weight, const PairView *pair)
{
    if (weight == 0) return;
    double share = weight / pair->tokens[PAIR_CHOSEN];
    terms->loss -= share * pair->logp[PAIR_CHOSEN];
    terms->coefficient[PAIR_CHOSEN] -= share;
    terms->answer[PAIR_CHOSEN] -= share;
}

PairScore score_pair(const ObjectiveSettings *settings, const MarginState *margins, const PairView *pair)
{
    const Objective *objective = objective_of(settings);
    PairMargin margin = margin_of(margins, pair->categories, pair->applies);
    PairTerms terms = objective->pair(settings, margin.offset, pair);
    double unweighted = terms.loss;
    if (!objective->segments) memcpy(terms.answer, terms.coefficient, sizeof terms.answer);
    terms.loss *= margin.weight;
    for (int side = 0; side < PAIR_SIDES; side++) {
        terms.coefficient[side] *= margin.weight;
        terms.answer[side] *= margin.weight;
    }
    add_sft(&terms, settings->sft_weight, pair);
    PairScore score = {
        .loss = terms.loss,
        .unweighted = unweighted,
        .reward_margin = settings->beta * terms.h,
        .saturation = sigmoid(-settings->beta * terms.excess),
        .accuracy = fabs(terms.h) < margins->tie ? 0.5 : terms.h > 0, /* at the start h is rounding alone */
        .violation = violation_score(margins, violation_signal(margins, pair, &terms)),
    };
    memcpy(score.coefficient, terms.coefficient, sizeof score.coefficient);
    memcpy(score.answer, terms.answer, sizeof score.answer);
    memcpy(score.reward, terms.reward, sizeof score.reward);
    return score;
}
