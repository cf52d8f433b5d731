/* The one place where a pair's log-probabilities become loss, reward, violation and coefficients: training, evaluation
 * and the choice of the best checkpoint ask here, so that they cannot differ. Nothing is collective or fails. */
#ifndef CATDPO_OBJECTIVE_SCORE_H
#define CATDPO_OBJECTIVE_SCORE_H

#include "catdpo/objective/margin.h"

typedef struct PairScore {
    double loss;                    /* nats */
    double unweighted;              /* the objective's own loss, before margin.form = "weight" and sft_weight */
    double coefficient[PAIR_SIDES]; /* d loss / d logp of each side (with segments, of the first one's tokens) */
    double answer[PAIR_SIDES];      /* of the second segment's tokens; equal to it without segments */
    double reward[PAIR_SIDES];      /* implicit rewards */
    double reward_margin;           /* beta h */
    double saturation;              /* sigmoid(offset - beta h): the part of its pull that a logistic loss has left */
    double accuracy;                /* does the chosen response lead? 1, 0, or 1/2 within margin.tie of a tie */
    int64_t violation;              /* in units of margin_unit: what margin_count adds */
} PairScore;

PairScore score_pair(const ObjectiveSettings *settings, const MarginState *margins, const PairView *pair);

#endif
