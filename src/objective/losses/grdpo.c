/* GR-DPO (Ramesh et al., arXiv 2405.20304), group-robust DPO: DPO's loss with a weight for each category that grows
 * with the category's loss (margin.h, groups). Our reading: weights are a function of the mean losses of the steps so
 * far, relative to a mean of 1 over the training set. */
#include "losses.h"

const Objective objective_grdpo = {
    .name = "gr-dpo",
    .help = "DPO with a weight for each category, which grows exponentially with its loss.",
    .margins = MARGINS_GROUPS,
    .beta = 0.1,
    .settings = (const char *const[]){ "objective.group_step", NULL },
    .pair = dpo_pair,
};
