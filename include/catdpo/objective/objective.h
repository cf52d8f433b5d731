/* Objectives: what a pair's log-probabilities cost, and what the model is told about it. A file each in
 * src/objective/losses; the table in src/objective/table.c lists them, and objective.type's choices, help and checks
 * come from its rows.
 *
 *     h      = (L_w - R_w) - (L_l - R_l)
 *     loss   = softplus(offset - beta h)       catdpo, safedpo and dpo: they differ in the offset alone
 *
 * L are the policy's and R the reference's summed log-probabilities of a completion (nats), w the chosen and l the
 * rejected one. The offset is the pair's safety margin in units of beta h (margin.h).
 *
 * Plain arithmetic: nothing here is collective or fails; a NaN or an infinity in gives one out.
 */
#ifndef CATDPO_OBJECTIVE_OBJECTIVE_H
#define CATDPO_OBJECTIVE_OBJECTIVE_H

#include "catdpo/core/option.h"
#include "catdpo/core/side.h"

#include <stdbool.h>

/* The settings objective.*. */
typedef struct ObjectiveSettings {
    int type; /* index into the table of objectives */
    double beta;
} ObjectiveSettings;

/* What an objective sees of a pair. */
typedef struct PairLogProbs {
    double logp[PAIR_SIDES];      /* L_w, L_l: summed over the completion's tokens, nats */
    double reference[PAIR_SIDES]; /* R_w, R_l */
    int tokens[PAIR_SIDES];       /* of the completions, >= 1 */
} PairLogProbs;

/* What it says about the pair. */
typedef struct PairTerms {
    double loss;                    /* nats; the step's loss is the mean over all its pairs */
    double coefficient[PAIR_SIDES]; /* d loss / d L_w and d loss / d L_l */
    double reward[PAIR_SIDES];      /* implicit rewards, as TRL defines them for the objective */
    double h;                       /* nats: how far the chosen response leads; beta h is the reward margin */
} PairTerms;

/* How an objective uses the safety margins. */
typedef enum {
    MARGINS_NONE,     /* all are 0 */
    MARGINS_FIXED,    /* all stay at margin.initial */
    MARGINS_ADAPTIVE, /* margin.scope says what moves them */
} MarginUse;

typedef struct Objective {
    const char *name; /* objective.type */
    const char *help; /* what it is, a sentence or two for --help-config */
    MarginUse margins;
    /* The terms of a pair whose margin is `offset`. */
    PairTerms (*pair)(const ObjectiveSettings *settings, double offset, const PairLogProbs *pair);
} Objective;

/* The objective that the settings name. */
const Objective *objective_of(const ObjectiveSettings *settings);
/* Index of a name in the table, or -1. */
int objective_find(const char *name);
/* Name and help of the index-th row; no name behind the last. */
OptionChoice objective_choice(int index);
/* The index-th setting of the group objective, its offset in ObjectiveSettings; NULL behind the last. */
const Option *objective_option(int index);

/* log(1 + e^t) and 1 / (1 + e^-t), without overflow or loss of digits for any t. */
double softplus(double t);
double sigmoid(double t);

#endif
