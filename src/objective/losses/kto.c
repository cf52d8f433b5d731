/* KTO (Ethayarajh et al., arXiv 2402.01306), a pair being one desirable and one undesirable response: half the sum of
 *
 *     lambda_w (1 - sigmoid(beta (a - z))),   a = L_w - R_w        lambda_w = desirable_weight
 *     lambda_l (1 - sigmoid(beta (z - b))),   b = L_l - R_l        lambda_l = undesirable_weight
 *
 * z is the step's baseline: the mean log-ratio of the step's prompts with completions of other prompts, not below 0. No
 * gradient goes through it. */
#include "losses.h"

static PairTerms kto_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    (void)offset;
    Ratios r = ratios(pair);
    double beta = settings->beta, w = beta * (r.chosen - pair->baseline), l = beta * (pair->baseline - r.rejected);
    double desirable = settings->desirable_weight / 2, undesirable = settings->undesirable_weight / 2;
    return (PairTerms){ .loss = desirable * sigmoid(-w) + undesirable * sigmoid(-l),
                        .coefficient = { -desirable * beta * sigmoid(w) * sigmoid(-w),
                                         undesirable * beta * sigmoid(l) * sigmoid(-l) },
                        .reward = { beta * r.chosen, beta * r.rejected },
                        .h = r.h,
                        .excess = r.h };
}

const Objective objective_kto = {
    .name = "kto",
    .help = "each response by itself against a baseline of mismatched ones: chosen is desirable, rejected is not.",
    .margins = MARGINS_NONE,
    .baseline = true,
    .beta = 0.1,
    .settings = (const char *const[]){ "objective.desirable_weight", "objective.undesirable_weight", NULL },
    .pair = kto_pair,
};
