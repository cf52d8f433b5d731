/* Margins: offsets of pairs, counting of violations, and the update. Sums across pairs are integers, so that they are
 * exact and every rank arrives at the same bits. */
#include "catdpo/objective/margin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HARD_UNITS = 2 }; /* units of one violation */
static const int64_t SOFT_UNITS = INT64_C(1) << 32;

void margin_resolve(MarginSettings *m)
{
    if (isnan(m->target)) m->target = m->target_form == TARGET_ABSOLUTE ? 0.2 : 0;
}

/* Settings of the probe and its judge that nothing would read. */
static bool probe_agrees(const MarginSettings *m, const char *keys[2], char *message, size_t size)
{
    bool generated = m->source == SOURCE_GENERATED;
    if (m->source == SOURCE_PAIRS && m->probe_size != 0) {
        keys[0] = "margin.probe_size", keys[1] = "margin.source";
        snprintf(
            message, size,
            "margin.source = \"pairs\" looks at no probe group: leave margin.probe_size at 0, or set margin.source "
            "to \"heldout\" or \"generated\"");
    } else if (!generated && m->judge != JUDGE_REFUSAL) {
        keys[0] = "margin.judge", keys[1] = "margin.source";
        snprintf(
            message, size,
            "margin.judge = \"command\" judges answers, and margin.source is not \"generated\": set it so, or leave "
            "margin.judge at \"refusal\"");
    } else if (m->judge == JUDGE_COMMAND && !*m->judge_command) {
        keys[0] = "margin.judge", keys[1] = "margin.judge_command";
        snprintf(message, size,
                 "margin.judge = \"command\" needs margin.judge_command: the program and its arguments, as a shell has "
                 "them");
    } else if (m->judge != JUDGE_COMMAND && *m->judge_command) {
        keys[0] = "margin.judge_command", keys[1] = "margin.judge";
        snprintf(message, size,
                 "margin.judge_command is set, but margin.judge = \"refusal\": set it to \"command\", or leave the "
                 "program out");
    } else if (generated && (m->soft || m->signal != SIGNAL_LIKELIHOOD)) {
        keys[0] = m->soft ? "margin.soft" : "margin.signal", keys[1] = "margin.source";
        snprintf(
            message, size,
            "margin.source = \"generated\" counts judged answers, not pairs: leave margin.signal at \"likelihood\" "
            "and margin.soft at false");
    }
    return keys[0] == NULL;
}

bool margin_agree(const MarginSettings *m, const ObjectiveSettings *objective, const char *keys[2], char *message,
                  size_t size)
{
    const Objective *row = objective_of(objective);
    MarginUse use = objective_margins(objective);
    bool adaptive = use == MARGINS_ADAPTIVE && m->scope != SCOPE_FIXED;
    const char *remedy =
        row->margins == MARGINS_OPTIONAL ? "objective.margins to true" : "objective.type to \"safedpo\" or \"catdpo\"";
    bool none = use == MARGINS_NONE || use == MARGINS_GROUPS;
    if (none && m->initial != 0) {
        keys[0] = "margin.initial", keys[1] = "objective.type";
        snprintf(message, size,
                 "margin.initial = %g, but objective.type = \"%s\" has no margins: set margin.initial to 0, or %s",
                 m->initial, row->name, remedy);
    } else if (none && m->form != FORM_OFFSET) {
        keys[0] = "margin.form", keys[1] = "objective.type";
        snprintf(message, size,
                 "margin.form = \"weight\", but objective.type = \"%s\" has no margins: leave margin.form at "
                 "\"offset\", or set %s",
                 row->name, remedy);
    } else if (m->target_form != TARGET_ABSOLUTE && m->scope == SCOPE_GLOBAL) {
        keys[0] = "margin.target_form", keys[1] = "margin.scope";
        snprintf(message, size,
                 "margin.target_form compares categories with each other, but margin.scope = \"global\" has one margin "
                 "for all: set margin.target_form to \"absolute\", or margin.scope to \"category\"");
    } else if (use == MARGINS_FIXED && m->initial == 0) {
        keys[0] = "objective.type", keys[1] = "margin.initial";
        snprintf(message, size,
                 "objective.type = \"%s\" keeps the margin at margin.initial, which is 0: set it (10 is usual), or "
                 "objective.type to \"dpo\"",
                 row->name);
    } else if (adaptive && m->min > m->max) {
        keys[0] = "margin.min", keys[1] = "margin.max";
        snprintf(message, size, "margin.min = %g is above margin.max = %g", m->min, m->max);
    } else if (adaptive && (m->initial < m->min || m->initial > m->max)) {
        keys[0] = "margin.initial", keys[1] = m->initial < m->min ? "margin.min" : "margin.max";
        snprintf(message, size, "margin.initial = %g is outside margin.min = %g to margin.max = %g", m->initial, m->min,
                 m->max);
    }
    return keys[0] == NULL && probe_agrees(m, keys, message, size);
}

double margin_initial_error(double rate) { return sqrt(rate * (1 - rate)); }

bool margin_create(MarginState *state, const MarginSettings *settings, const ObjectiveSettings *objective,
                   int category_count, Error *err)
{
    size_t k = (size_t)category_count;
    MarginUse use = objective_margins(objective);
    *state = (MarginState){
        .category_count = category_count,
        .scope = use == MARGINS_ADAPTIVE ? (MarginScope)settings->scope : SCOPE_FIXED,
        .form = use == MARGINS_GROUPS ? FORM_EXPONENT : (MarginForm)settings->form,
        .aggregation = (MarginAggregation)settings->aggregation,
        .signal = (ViolationSignal)settings->signal,
        .soft = settings->soft,
        .beta = objective->beta,
        .min = settings->min,
        .max = settings->max,
        .eta = settings->eta,
        .target = settings->target,
        .target_form = (TargetForm)settings->target_form,
        .prior = settings->prior,
        .deadband = settings->deadband,
        .averaging = settings->averaging,
        .tie = settings->tie,
        .temperature = settings->temperature,
        .warmup_steps = settings->warmup_steps,
        .interval = settings->interval,
        .group_step = objective->group_step,
        .normaliser = 1,
        .pooled_rate = settings->initial_rate,
        .pooled_error = margin_initial_error(settings->initial_rate),
    };
    CHECK(category_count >= 1);
    state->margin = calloc(k, 3 * sizeof(double) + 5 * sizeof(int64_t));
    if (!state->margin) return error_fault(err, "no memory left for the margins of %d categories", category_count);
    state->violation_rate = state->margin + k;
    state->standard_error = state->violation_rate + k;
    state->n = (int64_t *)(void *)(state->standard_error + k);
    state->violations = state->n + k;
    state->pending = state->violations + k;
    state->members = state->pending + 2 * k;
    for (size_t c = 0; c < k; c++) {
        state->margin[c] = use == MARGINS_NONE || use == MARGINS_GROUPS ? 0 : settings->initial;
        state->violation_rate[c] = settings->initial_rate;
        state->standard_error[c] = state->pooled_error;
    }
    return true;
}

void margin_free(MarginState *state)
{
    free(state->margin);
    *state = (MarginState){ 0 };
}

double margin_offset(const MarginState *state, const uint8_t *category_mask, bool applies)
{
    if (!applies) return 0;
    double largest = 0, sum = 0;
    int count = 0;
    for (int k = 0; k < state->category_count; k++) {
        if (!category_mask[k]) continue;
        if (count == 0 || state->margin[k] > largest) largest = state->margin[k];
        sum += state->margin[k];
        count++;
    }
    switch (state->aggregation) {
    case AGGREGATE_MAX: return largest;
    case AGGREGATE_MEAN: return count > 0 ? sum / count : 0;
    case AGGREGATE_SUM: return sum;
    }
    return 0;
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

void margin_know_members(MarginState *state, const uint8_t *category_mask, int64_t pairs)
{
    for (int64_t i = 0; i < pairs; i++)
        for (int k = 0; k < state->category_count; k++)
            state->members[k] += category_mask[i * state->category_count + k];
}

static double group_weight(const MarginState *state, const uint8_t *category_mask)
{
    double sum = 0;
    int count = 0;
    for (int k = 0; k < state->category_count; k++) {
        if (!category_mask[k]) continue;
        sum += exp(state->margin[k] - state->largest);
        count++;
    }
    return count > 0 ? sum / count : 1;
}

static void begin_groups(MarginState *state)
{
    double sum = 0, members = 0;
    state->largest = 0;
    for (int k = 0; k < state->category_count; k++) state->largest = fmax(state->largest, state->margin[k]);
    for (int k = 0; k < state->category_count; k++) {
        sum += (double)state->members[k] * exp(state->margin[k] - state->largest);
        members += (double)state->members[k];
    }
    state->normaliser = members > 0 ? sum / members : 1;
}

void margin_count_group(const MarginState *state, const uint8_t *category_mask, double loss, int64_t *groups)
{
    const double most = 1 << 20; /* nats: sums of many losses fit an integer */
    int64_t units = isnan(loss) ? 0 : llrint(fmax(-most, fmin(most, loss)) * (double)SOFT_UNITS);
    for (int k = 0; k < state->category_count; k++) {
        if (!category_mask[k]) continue;
        groups[k]++;
        groups[state->category_count + k] += units;
    }
}

void margin_update_groups(MarginState *state, const int64_t *groups)
{
    int count = state->category_count;
    double smallest = INFINITY;
    for (int k = 0; k < count; k++) {
        if (groups[k] > 0)
            state->margin[k] +=
                state->group_step * ((double)groups[count + k] / (double)SOFT_UNITS / (double)groups[k]);
        smallest = fmin(smallest, state->margin[k]);
    }
    for (int k = 0; k < count; k++) state->margin[k] -= smallest;
}

/* ---- entering the loss ------------------------------------------------------------------------------------------- */

PairMargin margin_of(const MarginState *state, const uint8_t *category_mask, bool applies)
{
    if (state->form != FORM_OFFSET)
        return (PairMargin){ 0, margin_raw_weight(state, category_mask, applies) / state->normaliser };
    return (PairMargin){ margin_offset(state, category_mask, applies), 1 };
}

double margin_raw_weight(const MarginState *state, const uint8_t *category_mask, bool applies)
{
    if (state->form == FORM_EXPONENT) return group_weight(state, category_mask);
    return state->form == FORM_WEIGHT ? 1 + margin_offset(state, category_mask, applies) : 1;
}

void margin_begin_step(MarginState *state, double sum, int64_t pairs)
{
    if (state->form == FORM_EXPONENT)
        begin_groups(state);
    else
        state->normaliser = sum / (double)pairs;
}

double violation_signal(const MarginState *state, const PairView *pair, const PairTerms *terms)
{
    switch (state->signal) {
    case SIGNAL_LIKELIHOOD:
        return pair->logp[PAIR_CHOSEN] / pair->tokens[PAIR_CHOSEN] -
               pair->logp[PAIR_REJECTED] / pair->tokens[PAIR_REJECTED];
    case SIGNAL_REWARD: return terms->h;
    case SIGNAL_MARGIN: return terms->excess;
    }
    return 0;
}

int64_t violation_score(const MarginState *state, double signal)
{
    if (isnan(signal)) return state->soft ? SOFT_UNITS : HARD_UNITS;
    if (!state->soft) return fabs(signal) < state->tie ? HARD_UNITS / 2 : signal <= 0 ? HARD_UNITS : 0;
    double scale = state->signal == SIGNAL_LIKELIHOOD ? 1 : state->beta;
    return llrint(sigmoid(-scale * signal / state->temperature) * (double)SOFT_UNITS);
}

int64_t margin_one_violation(const MarginState *state) { return state->soft ? SOFT_UNITS : HARD_UNITS; }

double margin_unit(const MarginState *state) { return state->soft ? 1 / (double)SOFT_UNITS : 1.0 / HARD_UNITS; }

void margin_count(const MarginState *state, const uint8_t *category_mask, bool applies, int64_t score, int64_t *counts)
{
    if (!applies) return;
    for (int k = 0; k < state->category_count; k++) {
        if (!category_mask[k]) continue;
        counts[k]++;
        counts[state->category_count + k] += score;
    }
}

/* base^n by squaring: the same bits on every rank, where pow may take another path on another kind of processor. */
static double power(double base, int64_t n)
{
    double result = 1;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1) result *= base;
    return result;
}

/* A running rate and its standard error after n more pairs with these violations; the prior has this weight, in pairs,
 * and lies at `centre`. */
static void follow(const MarginState *state, double *rate, double *error, int64_t n, int64_t violations, double prior,
                   double centre)
{
    if (n == 0) return; /* absent is not the same as without violation */
    double weight = 1 - power(1 - state->averaging, n), keep = 1 - weight;
    double hits = (double)violations * margin_unit(state) + prior * centre, all = (double)n + prior;
    double q = (hits + 0.5) / (all + 1);
    *rate += weight * (hits / all - *rate);
    *error = sqrt(keep * keep * (*error * *error) + weight * weight * (q * (1 - q) / (all + 2)));
}

/* Brings the rates of all categories and the pooled one up to what is pending. */
static void follow_all(MarginState *state)
{
    int count = state->category_count;
    int64_t n = 0, violations = 0;
    for (int k = 0; k < count; k++) n += state->pending[k], violations += state->pending[count + k];
    double centre = n > 0 ? (double)violations * margin_unit(state) / (double)n : 0;
    for (int k = 0; k < count; k++)
        follow(state, &state->violation_rate[k], &state->standard_error[k], state->pending[k],
               state->pending[count + k], state->prior, centre);
    follow(state, &state->pooled_rate, &state->pooled_error, n, violations, 0, 0);
}

/* What the rates of categories are compared with. */
typedef struct TargetReference {
    double rate;
    int categories; /* that have been counted */
    int best;       /* of them with the smallest rate; -1: none */
    double squares; /* sum of their squared standard errors */
} TargetReference;

static TargetReference find_reference(const MarginState *state)
{
    TargetReference r = { .best = -1 };
    double sum = 0;
    for (int k = 0; k < state->category_count; k++) {
        if (state->n[k] == 0) continue;
        if (r.best < 0 || state->violation_rate[k] < state->violation_rate[r.best]) r.best = k;
        sum += state->violation_rate[k];
        r.squares += state->standard_error[k] * state->standard_error[k];
        r.categories++;
    }
    if (state->target_form == TARGET_MEAN && r.categories > 0) r.rate = sum / r.categories;
    if (state->target_form == TARGET_BEST && r.best >= 0) r.rate = state->violation_rate[r.best];
    return r;
}

/* Standard error of category k's rate less the reference. */
static double excess_error(const MarginState *state, const TargetReference *r, int k)
{
    double own = state->standard_error[k] * state->standard_error[k], m = r->categories;
    if (state->target_form == TARGET_MEAN) return sqrt((1 - 1 / m) * (1 - 1 / m) * own + (r->squares - own) / (m * m));
    if (state->target_form == TARGET_BEST && k != r->best)
        return sqrt(own + state->standard_error[r->best] * state->standard_error[r->best]);
    return state->standard_error[k];
}

static double moved(const MarginState *state, double margin, double excess, double error)
{
    if (state->deadband > 0 && fabs(excess) <= state->deadband * error) return margin;
    return fmin(fmax(margin + state->eta * excess, state->min), state->max);
}

static void move_all(MarginState *state)
{
    int count = state->category_count;
    int64_t all = 0;
    TargetReference reference = find_reference(state);
    for (int k = 0; k < count; k++) {
        all += state->pending[k];
        if (state->scope == SCOPE_CATEGORY && state->pending[k] > 0)
            state->margin[k] = moved(state, state->margin[k], state->violation_rate[k] - reference.rate - state->target,
                                     excess_error(state, &reference, k));
    }
    if (state->scope == SCOPE_GLOBAL && all > 0) {
        double margin = moved(state, state->margin[0], state->pooled_rate - state->target, state->pooled_error);
        for (int k = 0; k < count; k++) state->margin[k] = margin;
    }
}

void margin_update(MarginState *state, const int64_t *counts, int64_t step)
{
    int count = state->category_count;
    for (int k = 0; k < count; k++) {
        state->n[k] += counts[k];
        state->violations[k] += counts[count + k];
    }
    for (int k = 0; k < 2 * count; k++) state->pending[k] += counts[k];
    if (step % state->interval != 0) return;
    follow_all(state);
    if (state->scope != SCOPE_FIXED && step > state->warmup_steps) {
        move_all(state);
        state->updates++;
        state->last_update = step;
    }
    memset(state->pending, 0, 2 * (size_t)count * sizeof *state->pending);
}

int margin_worst(const MarginState *state)
{
    int worst = -1;
    for (int k = 0; k < state->category_count; k++)
        if (state->n[k] > 0 && (worst < 0 || state->violation_rate[k] > state->violation_rate[worst])) worst = k;
    return worst;
}
