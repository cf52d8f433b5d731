/* Robust DPO (Chowdhury et al., arXiv 2403.00409): an unbiased loss under labels that are wrong with probability
 * e = label_smoothing,
 *
 *     ((1 - e) softplus(u) - e softplus(-u)) / (1 - 2 e),   u = offset - beta h
 *
 * It has no lower bound, and its slope in h never falls below beta e / (1 - 2 e). */
#include "losses.h"

static PairTerms robust_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    Ratios r = ratios(pair);
    double u = offset - settings->beta * r.h, e = settings->label_smoothing, scale = 1 - 2 * e;
    double loss = ((1 - e) * softplus(u) - e * softplus(-u)) / scale;
    return margin_terms(settings, offset, &r, loss, sigmoid(u) + e / scale);
}

const Objective objective_robust = {
    .name = "robust",
    .help = "DPO made unbiased for a known share of wrong labels.",
    .margins = MARGINS_OPTIONAL,
    .beta = 0.1,
    .settings = (const char *const[]){ "objective.label_smoothing", NULL },
    .pair = robust_pair,
};
