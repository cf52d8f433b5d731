/* DPO (Rafailov et al., arXiv 2305.18290): softplus(-beta h). */
#include "losses.h"

PairTerms dpo_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    Ratios r = ratios(pair);
    double u = offset - settings->beta * r.h;
    return margin_terms(settings, offset, &r, softplus(u), sigmoid(u));
}

const Objective objective_dpo = {
    .name = "dpo",
    .help = "no margins; margin.initial must be 0.",
    .margins = MARGINS_NONE,
    .beta = 0.1,
    .pair = dpo_pair,
};
