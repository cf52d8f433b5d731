/* The hinge loss of SLiC (Zhao et al., arXiv 2305.10425) and RSO (arXiv 2309.06657) on DPO's logit:
 *
 *     max(0, 1 + u),   u = offset - beta h */
#include "losses.h"

#include <math.h>

static PairTerms hinge_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    Ratios r = ratios(pair);
    double u = offset - settings->beta * r.h;
    return margin_terms(settings, offset, &r, isnan(u) ? u : fmax(0, 1 + u), 1 + u > 0);
}

const Objective objective_hinge = {
    .name = "hinge",
    .help = "SLiC's hinge loss: asks beta h to exceed 1.",
    .margins = MARGINS_OPTIONAL,
    .beta = 0.1,
    .pair = hinge_pair,
};
