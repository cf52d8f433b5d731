/* DPO (Rafailov et al., arXiv 2305.18290): softplus(-beta h). */
#include "losses.h"

PairTerms dpo_pair(const ObjectiveSettings *settings, double offset, const PairLogProbs *pair)
{
    double beta = settings->beta;
    double ratio[PAIR_SIDES] = { pair->logp[PAIR_CHOSEN] - pair->reference[PAIR_CHOSEN],
                                 pair->logp[PAIR_REJECTED] - pair->reference[PAIR_REJECTED] };
    double h = ratio[PAIR_CHOSEN] - ratio[PAIR_REJECTED];
    double u = offset - beta * h, slope = beta * sigmoid(u);
    return (PairTerms){ .loss = softplus(u),
                        .coefficient = { -slope, slope },
                        .reward = { beta * ratio[PAIR_CHOSEN], beta * ratio[PAIR_REJECTED] },
                        .h = h };
}

const Objective objective_dpo = {
    .name = "dpo",
    .help = "no margins; margin.initial must be 0.",
    .margins = MARGINS_NONE,
    .pair = dpo_pair,
};
