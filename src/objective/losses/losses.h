/* The objectives, one a file, and what several of them are made of. */
#ifndef CATDPO_LOSSES_H
#define CATDPO_LOSSES_H

#include "catdpo/objective/objective.h"

extern const Objective objective_catdpo, objective_safedpo, objective_dpo, objective_ipo, objective_hinge,
    objective_cdpo, objective_robust, objective_simpo, objective_orpo, objective_bfpo, objective_modpo, objective_grdpo,
    objective_kto, objective_awdpo, objective_moodpo;

/* Log-ratios of policy and reference, their difference h, and what follows from them whatever the loss is. */
typedef struct Ratios {
    double chosen, rejected, h; /* nats */
} Ratios;
Ratios ratios(const PairView *pair);
/* Terms of a loss of u = offset - beta h with the derivative `slope` = d loss / d u. */
PairTerms margin_terms(const ObjectiveSettings *settings, double offset, const Ratios *r, double loss, double slope);

/* Mean token log-probabilities of the policy, and their difference h. */
typedef struct Means {
    double chosen, rejected, h; /* nats a token */
} Means;
Means means(const PairView *pair);

/* softplus(offset - beta h): the loss of dpo, safedpo and catdpo. */
PairTerms dpo_pair(const ObjectiveSettings *settings, double offset, const PairView *pair);

#endif
