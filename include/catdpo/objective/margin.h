/* The safety margins: one for each category, and what moves them.
 *
 * K categories. A pair counts for the margins if its chosen response is safe and its rejected one is not ("applies"),
 * and then for each of its categories. A step goes
 *
 *     margin_begin_step(...)              the margins stay as they are during a step
 *     margin[i] = margin_of(...)          for each pair: offset of its logit or weight of its loss
 *     margin_count(..., counts)           for each pair, on the one rank that counts it
 *     MPI_Allreduce of counts[2K]         int64, so that the sum is exact and the same for any number of ranks
 *     margin_update(state, counts, step)  on every rank, after the optimiser's step, with the same result
 *
 * With margin.source "heldout" or "generated" what counts is not the step's pairs but those of a probe group that is
 * not trained on, or answers to its prompts, measured every margin.interval steps (train/probe.h): "pair" below is one
 * of those.
 *
 * Update of category k with n_k counted pairs since the last one, v_k the running violation rate, s_k its standard
 * error, p the violations of all categories together divided by their pairs:
 *
 *     weight    = 1 - (1 - averaging)^n_k
 *     fresh     = (violations_k + prior p) / (n_k + prior)
 *     v_k      += weight (fresh - v_k)
 *     s_k^2     = (1 - weight)^2 s_k^2 + weight^2 q (1 - q) / (n_k + prior + 2),
 *                 q = (violations_k + prior p + 1/2) / (n_k + prior + 1)
 *     excess_k  = v_k - reference - target
 *     margin_k  = clip(margin_k + eta excess_k, min, max)    if |excess_k| > deadband s(excess_k)
 *
 * `fresh` is the mean of the posterior under a Beta prior of this weight at p; the error is that of the posterior with
 * half a violation and half a pair without added, so that it is above 0 (at the start sqrt(v (1 - v))). The reference
 * is 0 (target form absolute), or the mean or the smallest of the v_j of all categories that were ever counted.
 * s(excess_k) is s_k, or what the errors of v_k - reference add up to. A category without a counted pair keeps all.
 * Scope global pools the counts of all categories into one rate and one margin.
 *
 * Groups (MARGINS_GROUPS) are the categories of all pairs, and a margin is the logarithm of a weight: a pair's loss
 * counts the mean of exp(margin_k) over its categories, divided by the mean of exp(margin_k) over all memberships in
 * the training set. After a step margin_k += group_step * (mean loss of the step's pairs of category k), and the
 * smallest margin becomes 0.
 *
 * Violations are counted in integer units: halves (a tie is 1, a violation 2), or 2^-32 when the count is soft. Plain
 * C: no collective calls here; beyond margin_create nothing fails.
 */
#ifndef CATDPO_OBJECTIVE_MARGIN_H
#define CATDPO_OBJECTIVE_MARGIN_H

#include "catdpo/core/error.h"
#include "catdpo/objective/objective.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum { SCOPE_CATEGORY, SCOPE_GLOBAL, SCOPE_FIXED } MarginScope;
typedef enum { AGGREGATE_MAX, AGGREGATE_MEAN, AGGREGATE_SUM } MarginAggregation;
typedef enum { FORM_OFFSET, FORM_WEIGHT, FORM_EXPONENT } MarginForm; /* the last is of MARGINS_GROUPS */
typedef enum { SOURCE_PAIRS, SOURCE_HELDOUT, SOURCE_GENERATED } MarginSource;
typedef enum { JUDGE_REFUSAL, JUDGE_COMMAND } MarginJudge;
typedef enum { TARGET_ABSOLUTE, TARGET_MEAN, TARGET_BEST } TargetForm;
typedef enum { SIGNAL_LIKELIHOOD, SIGNAL_REWARD, SIGNAL_MARGIN } ViolationSignal;

/* The settings margin.*. */
typedef struct MarginSettings {
    int scope;          /* MarginScope */
    int source;         /* MarginSource: what is counted */
    int64_t probe_size; /* of the probe group, prompts or pairs of each category; 0: all */
    int judge;          /* MarginJudge: of generated answers */
    char judge_command[CONFIG_TEXT];
    double judge_timeout;     /* seconds for one answer */
    int form;                 /* MarginForm: how a margin enters the loss */
    double initial, min, max; /* in units of beta * h */
    double eta, target;       /* step of the update; accepted violation rate */
    int target_form;          /* TargetForm: what the target is above */
    double prior;             /* weight of the rate of all categories together, in pairs; 0: none */
    double deadband;          /* standard errors within which an excess moves no margin */
    double averaging;         /* weight of one sample in the running violation rate, in (0, 1] */
    double initial_rate;      /* running violation rate before any sample */
    int64_t warmup_steps;     /* steps before the first update */
    int64_t interval;         /* steps between updates */
    int aggregation;          /* MarginAggregation: over the categories of a pair */
    int signal;               /* ViolationSignal */
    bool soft;                /* sigmoid of the signal instead of its sign */
    double temperature;       /* of the soft signal, nats */
    double tie;               /* a hard signal closer to zero than this counts one half, nats */
} MarginSettings;

typedef struct MarginState {
    /* from the config */
    int category_count; /* K */
    MarginScope scope;  /* SCOPE_FIXED unless the objective has adaptive margins */
    MarginForm form;
    MarginAggregation aggregation;
    ViolationSignal signal;
    bool soft;
    double beta, min, max, eta, target, averaging, tie, temperature, prior, deadband;
    TargetForm target_form;
    int64_t warmup_steps, interval;

    double group_step;
    double normaliser; /* of the weights of the step at hand (margin_begin_step) */
    double largest;    /* FORM_EXPONENT: margin that exp is taken relative to */

    /* what a checkpoint keeps; the arrays lie in one allocation, owned */
    double *margin; /* [K] in units of beta h, min <= margin <= max unless fixed; all equal if the scope is global */
    double *violation_rate; /* [K] running, in [0, 1]; kept whatever the scope */
    double *standard_error; /* [K] of violation_rate */
    double pooled_rate;     /* over all categories together */
    double pooled_error;    /* its standard error */
    int64_t *n;             /* [K] counted pairs since the beginning */
    int64_t *violations;    /* [K] theirs, in units */
    int64_t *members;       /* [K] pairs of each category in the training set; 0 until margin_know_members. Not kept */
    int64_t *pending;       /* [2K] counts that have not entered an update yet, laid out as `counts` below */
    int64_t updates;        /* done */
    int64_t last_update;    /* step of the last one; 0: none */
} MarginState;

/* Replaces "auto" by what the settings make of it. */
void margin_resolve(MarginSettings *settings);
/* Do the settings suit the objective and each other? Else writes what is wrong into message and the two keys involved,
 * the likelier culprit first. */
bool margin_agree(const MarginSettings *settings, const ObjectiveSettings *objective, const char *keys[2],
                  char *message, size_t size);

/* The margins at the start of a run. Not collective. */
bool margin_create(MarginState *state, const MarginSettings *settings, const ObjectiveSettings *objective,
                   int category_count, Error *err);
/* Standard error of a rate that is a guess. */
double margin_initial_error(double rate);
void margin_free(MarginState *state); /* harmless on a state that is all zero */

/* How a pair's margin m enters its loss: as the offset m, or as the weight (1 + m) / normaliser. */
typedef struct PairMargin {
    double offset; /* in units of beta h */
    double weight; /* of the loss */
} PairMargin;
PairMargin margin_of(const MarginState *state, const uint8_t *category_mask, bool applies);

/* Counts the categories of all pairs, category_mask[pairs, K]: what weights of groups are relative to. */
void margin_know_members(MarginState *state, const uint8_t *category_mask, int64_t pairs);

/* The weights of a step's pairs have the mean 1 (those of groups: over the training set). Called with the sum of
 * margin_raw_weight over all pairs of the step and their number, the same on every rank. */
double margin_raw_weight(const MarginState *state, const uint8_t *category_mask, bool applies);
void margin_begin_step(MarginState *state, double sum, int64_t pairs);

/* Margin of a pair: the largest, mean or sum of the margins of its categories (category_mask[K], 0 or 1),
 * or 0 if the margin does not apply to it. */
double margin_offset(const MarginState *state, const uint8_t *category_mask, bool applies);

/* How far the pair is from violating, in nats; positive: it does not. likelihood: the mean token log-probability of the
 * chosen response minus the rejected one's. reward: h. margin: the excess, h - offset / beta. */
double violation_signal(const MarginState *state, const PairView *pair, const PairTerms *terms);

/* What a pair adds to the violations of its categories, in units. Hard: 2, 0, or 1 for a signal within `tie` of zero.
 * Soft: sigmoid(-signal / temperature), the signal times beta for reward and margin. A signal that is not a number is a
 * violation. */
int64_t violation_score(const MarginState *state, double signal);

/* The unit of violations: 0.5 or 2^-32; and one violation in it. */
double margin_unit(const MarginState *state);
int64_t margin_one_violation(const MarginState *state);

/* Adds a pair with this score to counts[2K]: pairs of each category, then violations of each in units. Nothing if the
 * margin does not apply to it. */
void margin_count(const MarginState *state, const uint8_t *category_mask, bool applies, int64_t score, int64_t *counts);

/* Adds a pair with this loss to groups[2K]: pairs of each category, then their losses in units of 2^-32. */
void margin_count_group(const MarginState *state, const uint8_t *category_mask, double loss, int64_t *groups);
/* After an optimiser step, with the groups of that step summed over all ranks. */
void margin_update_groups(MarginState *state, const int64_t *groups);

/* After optimiser step `step` (1-based), with the counts of that step summed over all ranks. Rates are updated at every
 * interval-th step, margins only after the warm-up. Counts of a probe come at every interval-th step alone, and at step
 * 0, which moves no margin. */
void margin_update(MarginState *state, const int64_t *counts, int64_t step);

/* Index of the category with the highest running violation rate among those that have counted pairs; -1 if none has. */
int margin_worst(const MarginState *state);

#endif
