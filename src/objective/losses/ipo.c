/* IPO (Azar et al., arXiv 2310.12036), beta in the place of its tau:
 *
 *     (d - (1/2 + offset) / beta)^2,   d = (L_w - R_w) / |y_w| - (L_l - R_l) / |y_l|
 *
 * with token means, as TRL has it and by its account the paper's runs; length_average = false takes the sums of the
 * formula in print, d = h. The offset is ours: 0 is IPO. */
#include "losses.h"

static PairTerms ipo_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    Ratios r = ratios(pair);
    double beta = settings->beta, scale[PAIR_SIDES] = { 1, 1 };
    for (int side = 0; settings->length_average && side < PAIR_SIDES; side++) scale[side] = 1.0 / pair->tokens[side];
    double d = scale[PAIR_CHOSEN] * r.chosen - scale[PAIR_REJECTED] * r.rejected;
    double gap = d - (0.5 + offset) / beta;
    return (PairTerms){ .loss = gap * gap,
                        .coefficient = { 2 * gap * scale[PAIR_CHOSEN], -2 * gap * scale[PAIR_REJECTED] },
                        .reward = { beta * r.chosen, beta * r.rejected },
                        .h = r.h,
                        .excess = d - offset / beta };
}

const Objective objective_ipo = {
    .name = "ipo",
    .help = "a squared loss that draws the log-ratio margin to 1 / (2 beta).",
    .margins = MARGINS_OPTIONAL,
    .beta = 0.1,
    .settings = (const char *const[]){ "objective.length_average", NULL },
    .pair = ipo_pair,
};
