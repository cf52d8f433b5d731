/* cDPO (Mitchell, "A note on DPO with noisy preferences and its relationship to IPO"): each label is wrong with
 * probability e = label_smoothing,
 *
 *     (1 - e) softplus(u) + e softplus(-u),   u = offset - beta h
 *
 * Its optimum is a finite margin: beta h = offset + log((1 - e) / e). */
#include "losses.h"

static PairTerms cdpo_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    Ratios r = ratios(pair);
    double u = offset - settings->beta * r.h, e = settings->label_smoothing;
    double loss = (1 - e) * softplus(u) + e * softplus(-u);
    return margin_terms(settings, offset, &r, loss, sigmoid(u) - e);
}

const Objective objective_cdpo = {
    .name = "cdpo",
    .help = "DPO with label smoothing, which bounds the margin.",
    .margins = MARGINS_OPTIONAL,
    .beta = 0.1,
    .settings = (const char *const[]){ "objective.label_smoothing", NULL },
    .pair = cdpo_pair,
};
