/* The objectives, one a file. */
#ifndef CATDPO_LOSSES_H
#define CATDPO_LOSSES_H

#include "catdpo/objective/objective.h"

extern const Objective objective_catdpo, objective_safedpo, objective_dpo;

/* softplus(offset - beta h): the loss of all three. */
PairTerms dpo_pair(const ObjectiveSettings *settings, double offset, const PairLogProbs *pair);

#endif
