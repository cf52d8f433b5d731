/* MO-ODPO (Gupta et al., arXiv 2503.00295), several objectives at once: each has a score s_k for both responses and a
 * weight w_k, which may stand in the prompt, so that one model is steered by it. Two readings of which of the responses
 * is the better one, by a second-hand account each; z = beta h:
 *
 *     scalarised   softplus(-z) if sum_k w_k (s_k,chosen - s_k,rejected) > 0, softplus(z) if it is < 0
 *     terms        sum_k w_k softplus(-t_k z),   t_k = sign(s_k,chosen - s_k,rejected)
 *
 * Terms are cDPO whose label smoothing is the weight of those that dissent: dissent bounds the margin. A tie is a
 * constant, w_k log 2. Ours: the category margin's offset is asked for where the chosen response, which is the safe one
 * then, is the better one: softplus(offset - z). */
#include "losses.h"

#include <math.h>

typedef struct Voices {
    double loss, slope; /* d loss / d u, u = offset - z */
} Voices;

/* A weight for the chosen response (side > 0), for the rejected one, or for neither. */
static void add_voice(Voices *sum, double weight, double side, double offset, double z)
{
    double u = side > 0 ? offset - z : z;
    if (side == 0) {
        sum->loss += weight * log(2);
    } else {
        sum->loss += weight * softplus(u);
        sum->slope += (side > 0 ? weight : -weight) * sigmoid(u);
    }
}

static PairTerms moodpo_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    Ratios r = ratios(pair);
    double z = settings->beta * r.h, lead = 0;
    Voices sum = { 0 };
    for (int k = 0; k < pair->score_count; k++) {
        double weight = pair->score_weight[k], side = pair->score[PAIR_CHOSEN][k] - pair->score[PAIR_REJECTED][k];
        if (settings->score_form == SCORES_TERMS) add_voice(&sum, weight, side, offset, z);
        lead += weight * side;
    }
    if (settings->score_form == SCORES_SCALARISED) add_voice(&sum, 1, lead, offset, z);
    return margin_terms(settings, offset, &r, sum.loss, sum.slope);
}

const Objective objective_moodpo = {
    .name = "mo-odpo",
    .help = "DPO on several scores of each response with a weight each (prepare --scores).",
    .margins = MARGINS_OPTIONAL,
    .scores = true,
    .beta = 0.1,
    .settings = (const char *const[]){ "objective.score_form", NULL },
    .pair = moodpo_pair,
};
