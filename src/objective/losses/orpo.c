/* ORPO (Hong et al., arXiv 2403.07691): no reference, the chosen completion's negative log-likelihood and a penalty on
 * the odds,
 *
 *     -m_w + beta softplus(offset - o),   m = L / |y|,   o = log-odds(m_w) - log-odds(m_l)
 *     log-odds(m) = m - log(1 - e^m)
 *
 * beta is the paper's lambda. The likelihood is over the completion, as in the paper; TRL's also counts the prompt. The
 * offset is ours. */
#include "losses.h"

#include <math.h>

/* A completion of probability 1 has no finite odds. */
static const double NEAREST_TO_ONE = -1e-7;

/* log(1 - e^x) for x < 0, without loss of digits. */
static double log1mexp(double x) { return x > -0.6931471805599453 ? log(-expm1(x)) : log1p(-exp(x)); }

static PairTerms orpo_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    Means m = means(pair);
    double beta = settings->beta, w = fmin(m.chosen, NEAREST_TO_ONE), l = fmin(m.rejected, NEAREST_TO_ONE);
    double o = (w - log1mexp(w)) - (l - log1mexp(l)), u = offset - o, slope = beta * sigmoid(u);
    double chosen = 1 - slope / expm1(w), rejected = -slope / expm1(l); /* d log-odds / dm = 1 / (1 - e^m) */
    return (PairTerms){ .loss = -m.chosen + beta * softplus(u),
                        .coefficient = { -chosen / pair->tokens[PAIR_CHOSEN], rejected / pair->tokens[PAIR_REJECTED] },
                        .reward = { beta * m.chosen, beta * m.rejected },
                        .h = m.h,
                        .excess = -u / beta };
}

const Objective objective_orpo = {
    .name = "orpo",
    .help = "no reference; likelihood of the chosen response and a penalty on the odds, weighted by beta.",
    .margins = MARGINS_OPTIONAL,
    .no_reference = true,
    .beta = 0.1,
    .pair = orpo_pair,
};
