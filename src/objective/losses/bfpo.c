/* BFPO (Zhang et al., arXiv 2408.15313): helpfulness and safety in one squared loss,
 *
 *     (h - g / beta)^2,   g = b r I_w - r I_l - alpha,   r = 1 / (b - 1)
 *
 * I = 1 for a safe response. With b = bfpo_ratio = 3 and alpha = bfpo_alpha = 1/2 the target g is 1/2 for two safe
 * responses, 1 if only the chosen one is safe, -1 if only the rejected one is, -1/2 for two unsafe ones: chosen is the
 * more helpful response, and an unsafe one is pushed below. */
#include "losses.h"

static PairTerms bfpo_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    (void)offset;
    Ratios r = ratios(pair);
    double ratio = settings->bfpo_ratio, share = 1 / (ratio - 1), beta = settings->beta;
    double g = share * (ratio * pair->safe[PAIR_CHOSEN] - pair->safe[PAIR_REJECTED]) - settings->bfpo_alpha;
    double gap = r.h - g / beta;
    return (PairTerms){ .loss = gap * gap,
                        .coefficient = { 2 * gap, -2 * gap },
                        .reward = { beta * r.chosen, beta * r.rejected },
                        .h = r.h,
                        .excess = r.h };
}

const Objective objective_bfpo = {
    .name = "bfpo",
    .help = "a squared loss whose target follows from which responses are safe.",
    .margins = MARGINS_NONE,
    .needs_flags = true,
    .beta = 0.01,
    .settings = (const char *const[]){ "objective.bfpo_alpha", "objective.bfpo_ratio", NULL },
    .pair = bfpo_pair,
};
