/* Cat-DPO (arXiv 2604.17299, our reading of its abstract): softplus(offset - beta h) with a margin for each harm
 * category that follows its violation rate (margin.h). */
#include "losses.h"

const Objective objective_catdpo = {
    .name = "catdpo",
    .help = "a margin for each harm category that follows its violation rate.",
    .margins = MARGINS_ADAPTIVE,
    .beta = 0.1,
    .pair = dpo_pair,
};
