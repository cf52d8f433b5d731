/* SafeDPO (arXiv 2505.20065): softplus(offset - beta h) with one constant offset on pairs of a safe chosen and an
 * unsafe rejected response, 0 on all others. `catdpo-analysis prepare` swaps and drops pairs as the paper does. */
#include "losses.h"

const Objective objective_safedpo = {
    .name = "safedpo",
    .help = "one margin, fixed at margin.initial, which must be set (10 is usual).",
    .margins = MARGINS_FIXED,
    .beta = 0.1,
    .pair = dpo_pair,
};
