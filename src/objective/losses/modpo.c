/* MODPO (Zhou et al., arXiv 2310.03708), two objectives: the pairs are of the first one, and a second model, trained on
 * the other, gives the margin m = modpo_beta (its log-ratio to the reference),
 *
 *     softplus(offset - z),   z = (beta h - (1 - w) (m_w - m_l)) / w
 *
 * w is modpo_weight: 1 is DPO. The category margins' offset is ours. */
#include "losses.h"

static PairTerms modpo_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    Ratios r = ratios(pair);
    double beta = settings->beta, w = settings->modpo_weight;
    double second = (pair->second[PAIR_CHOSEN] - pair->reference[PAIR_CHOSEN]) -
                    (pair->second[PAIR_REJECTED] - pair->reference[PAIR_REJECTED]);
    double z = (beta * r.h - (1 - w) * settings->modpo_beta * second) / w, u = offset - z;
    PairTerms terms = margin_terms(settings, offset, &r, softplus(u), sigmoid(u) / w);
    terms.excess = (z - offset) / beta;
    return terms;
}

const Objective objective_modpo = {
    .name = "modpo",
    .help = "DPO on one objective with the margin of a model that was trained on another.",
    .margins = MARGINS_OPTIONAL,
    .second_model = true,
    .beta = 0.1,
    .settings =
        (const char *const[]){ "objective.modpo_model", "objective.modpo_weight", "objective.modpo_beta", NULL },
    .pair = modpo_pair,
};
