/* Objectives: what a pair's log-probabilities cost, and what the model is told about it. A file each in
 * src/objective/losses; the table in src/objective/table.c lists them, and objective.type's choices, help and checks
 * come from its rows.
 *
 *     L_w, L_l   the policy's log-probabilities of the chosen and the rejected completion, summed over tokens, nats
 *     R_w, R_l   the reference's
 *     h          (L_w - R_w) - (L_l - R_l)
 *     offset     the pair's safety margin (margin.h): what its logit beta h is asked to exceed
 *
 * Plain arithmetic: nothing here is collective or fails; a NaN or an infinity in gives one out.
 */
#ifndef CATDPO_OBJECTIVE_OBJECTIVE_H
#define CATDPO_OBJECTIVE_OBJECTIVE_H

#include "catdpo/core/option.h"
#include "catdpo/core/side.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum { SEGMENTS_OUTSIDE, SEGMENTS_INSIDE } SegmentForm;
typedef enum { SCORES_SCALARISED, SCORES_TERMS } ScoreForm;

/* The settings objective.*. Which objective reads which: Objective.settings. */
typedef struct ObjectiveSettings {
    int type; /* index into the table of objectives */
    double beta;
    bool margins;           /* carry the margins, where the objective leaves the choice */
    double sft_weight;      /* of the chosen completion's mean token negative log-probability */
    double label_smoothing; /* share of labels that are wrong */
    bool length_average;    /* token-mean log-ratios instead of sums */
    double simpo_gamma;     /* target margin, in units of beta h */
    double desirable_weight, undesirable_weight;
    double bfpo_alpha, bfpo_ratio;
    char modpo_model[CONFIG_TEXT]; /* the second frozen model */
    double modpo_weight;           /* of the pairs' own objective, in (0, 1] */
    double modpo_beta;             /* that the second model was trained with */
    double group_step;             /* of a category's weight */
    int segment_form;              /* SegmentForm */
    int score_form;                /* ScoreForm */
} ObjectiveSettings;

/* What is known of a pair. */
typedef struct PairView {
    double logp[PAIR_SIDES];             /* L_w, L_l */
    double reference[PAIR_SIDES];        /* R_w, R_l; NaN without a reference */
    double second[PAIR_SIDES];           /* the same of the second model; NaN without one */
    double answer[PAIR_SIDES];           /* L of the second segment alone, for objectives of segments */
    double answer_reference[PAIR_SIDES]; /* R of it */
    double segment_weight[SEGMENTS];
    int score_count;                 /* M: objectives that score the responses; 0: none */
    const double *score[PAIR_SIDES]; /* [M] each */
    const double *score_weight;      /* [M] of the objectives, >= 0, their sum is 1 */
    double baseline;                 /* nats: of the step, for objectives that have one */
    int tokens[PAIR_SIDES];          /* of the completions, >= 1 */
    uint8_t safe[PAIR_SIDES];        /* 1 safe, 0 unsafe, 255 unknown */
    const uint8_t *categories;       /* [K] 0 or 1 */
    bool applies;                    /* the margins apply: chosen is safe and rejected is not */
} PairView;

/* What an objective says about it. */
typedef struct PairTerms {
    double loss;                    /* nats; the step's loss is the mean over all its pairs */
    double coefficient[PAIR_SIDES]; /* d loss / d L_w and d loss / d L_l; with segments, of the first one's tokens */
    double answer[PAIR_SIDES];      /* with segments: of the second one's */
    double reward[PAIR_SIDES];      /* implicit rewards, as TRL logs them for the objective */
    double h;                       /* nats: how far the chosen response leads; beta h is the reward margin */
    double excess;                  /* nats: how far the logit is above the offset, divided by beta */
} PairTerms;

/* How an objective uses the safety margins. */
typedef enum {
    MARGINS_NONE,     /* all are 0 */
    MARGINS_FIXED,    /* all stay at margin.initial */
    MARGINS_ADAPTIVE, /* margin.scope says what moves them */
    MARGINS_GROUPS,   /* they are logarithms of the categories' weights, and the losses move them */
    MARGINS_OPTIONAL, /* adaptive if objective.margins is set, else none */
} MarginUse;

typedef struct Objective {
    const char *name; /* objective.type */
    const char *help; /* what it is, a sentence or two for --help-config */
    MarginUse margins;
    bool no_reference;           /* reads no log-probs of a reference: PairView.reference may be NaN */
    bool segments;               /* tells the two segments of a completion apart */
    bool scores;                 /* reads PairView.score */
    bool second_model;           /* reads PairView.second */
    bool baseline;               /* reads PairView.baseline: the step has another pass, over mismatched completions */
    bool needs_flags;            /* of both responses of every pair it has to be known whether they are safe */
    double beta;                 /* what objective.beta = "auto" is */
    const char *const *settings; /* NULL-terminated: keys of the group objective that it reads beside those of all */
    /* The terms of a pair whose margin is `offset`. */
    PairTerms (*pair)(const ObjectiveSettings *settings, double offset, const PairView *pair);
} Objective;

/* The objective that the settings name. */
const Objective *objective_of(const ObjectiveSettings *settings);
/* What the settings make of its margins: never MARGINS_OPTIONAL. */
MarginUse objective_margins(const ObjectiveSettings *settings);
/* Index of a name in the table, or -1. */
int objective_find(const char *name);
/* Name and help of the index-th row; no name behind the last. */
OptionChoice objective_choice(int index);

/* The index-th setting of the group objective, its offset in ObjectiveSettings; NULL behind the last. */
const Option *objective_option(int index);
/* Does the index-th objective read the setting `key`? */
bool objective_reads(int index, const char *key);
/* Replaces "auto" by what the objective has. */
void objective_resolve(ObjectiveSettings *settings);
/* log(1 + e^t) and 1 / (1 + e^-t), without overflow or loss of digits for any t. */
double softplus(double t);
double sigmoid(double t);

#endif
