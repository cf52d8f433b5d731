/* SimPO (Meng et al., arXiv 2405.14734): no reference, the mean token log-probability is the reward,
 *
 *     softplus(gamma + offset - beta d),   d = L_w / |y_w| - L_l / |y_l|
 *
 * gamma is simpo_gamma, in units of beta d (the authors' gamma_beta_ratio is gamma / beta). The offset is ours. */
#include "losses.h"

static PairTerms simpo_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    Means m = means(pair);
    double beta = settings->beta, u = settings->simpo_gamma + offset - beta * m.h, slope = beta * sigmoid(u);
    return (PairTerms){ .loss = softplus(u),
                        .coefficient = { -slope / pair->tokens[PAIR_CHOSEN], slope / pair->tokens[PAIR_REJECTED] },
                        .reward = { beta * m.chosen, beta * m.rejected },
                        .h = m.h,
                        .excess = m.h - offset / beta };
}

const Objective objective_simpo = {
    .name = "simpo",
    .help = "no reference; the mean token log-probability is the reward, with a target margin.",
    .margins = MARGINS_OPTIONAL,
    .no_reference = true,
    .beta = 2.0,
    .settings = (const char *const[]){ "objective.simpo_gamma", NULL },
    .pair = simpo_pair,
};
