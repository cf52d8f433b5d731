/* Alignment-Weighted DPO (Hu et al., arXiv 2602.21346): a completion is reasoning and an answer, each with a weight of
 * its own. h_s is h over the tokens of segment s, w_s the pair's weights.
 *
 *     outside   sum_s w_s softplus(offset - beta h_s)          as published: each segment saturates by itself
 *     inside    softplus(offset - beta sum_s w_s h_s)
 *
 * Ours: a negative weight says that in this segment the rejected response is the better one; outside its term is
 * |w_s| softplus(beta h_s). The offset is the category's margin, the same for both segments. */
#include "losses.h"

#include <math.h>

/* h of each segment. */
static void segment_margins(const PairView *pair, double h[SEGMENTS])
{
    double whole[PAIR_SIDES], answer[PAIR_SIDES];
    for (int side = 0; side < PAIR_SIDES; side++) {
        whole[side] = pair->logp[side] - pair->reference[side];
        answer[side] = pair->answer[side] - pair->answer_reference[side];
    }
    h[SEGMENT_ANSWER] = answer[PAIR_CHOSEN] - answer[PAIR_REJECTED];
    h[SEGMENT_REASONING] = (whole[PAIR_CHOSEN] - whole[PAIR_REJECTED]) - h[SEGMENT_ANSWER];
}

static PairTerms outside(const ObjectiveSettings *settings, double offset, const PairView *pair, PairTerms terms)
{
    double h[SEGMENTS], slope[SEGMENTS], beta = settings->beta;
    segment_margins(pair, h);
    terms.loss = 0;
    for (int s = 0; s < SEGMENTS; s++) {
        double w = pair->segment_weight[s], u = w < 0 ? beta * h[s] : offset - beta * h[s];
        terms.loss += fabs(w) * softplus(u);
        slope[s] = beta * w * sigmoid(u);
    }
    terms.coefficient[PAIR_CHOSEN] = -slope[SEGMENT_REASONING];
    terms.coefficient[PAIR_REJECTED] = slope[SEGMENT_REASONING];
    terms.answer[PAIR_CHOSEN] = -slope[SEGMENT_ANSWER];
    terms.answer[PAIR_REJECTED] = slope[SEGMENT_ANSWER];
    return terms;
}

/* Weighted log-probs take the place of the sums, so that weights of 1 are DPO to the last bit. */
static PairTerms inside(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    double first = pair->segment_weight[SEGMENT_REASONING], more = pair->segment_weight[SEGMENT_ANSWER] - first;
    PairView weighted = *pair;
    for (int side = 0; side < PAIR_SIDES; side++) {
        weighted.logp[side] = first * pair->logp[side] + more * pair->answer[side];
        weighted.reference[side] = first * pair->reference[side] + more * pair->answer_reference[side];
    }
    PairTerms terms = dpo_pair(settings, offset, &weighted);
    for (int side = 0; side < PAIR_SIDES; side++) {
        terms.answer[side] = (first + more) * terms.coefficient[side];
        terms.coefficient[side] *= first;
    }
    return terms;
}

static PairTerms awdpo_pair(const ObjectiveSettings *settings, double offset, const PairView *pair)
{
    PairTerms plain = dpo_pair(settings, offset, pair);
    if (settings->segment_form == SEGMENTS_OUTSIDE) return outside(settings, offset, pair, plain);
    PairTerms terms = inside(settings, offset, pair);
    for (int side = 0; side < PAIR_SIDES; side++) terms.reward[side] = plain.reward[side];
    terms.h = plain.h;
    terms.excess = plain.excess;
    return terms;
}

const Objective objective_awdpo = {
    .name = "awdpo",
    .help = "DPO with a weight each for the reasoning and the answer of a response (prepare --segment-tag).",
    .margins = MARGINS_OPTIONAL,
    .segments = true,
    .beta = 0.1,
    .settings = (const char *const[]){ "objective.segment_form", NULL },
    .pair = awdpo_pair,
};
