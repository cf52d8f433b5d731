#include "catdpo/train/tally.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAIRS,
    LOSS,
    ACCURACY,
    CHOSEN,
    REJECTED = CHOSEN + 4,
    ENTROPY = REJECTED + 4,
    CORRECT,
    PULL, /* |coefficients| */
    SCALARS
};                                                         /* indices into sums */
enum { SIDE_REWARD, SIDE_LOGP, SIDE_LOGITS, SIDE_TOKENS }; /* behind CHOSEN and REJECTED */
enum {
    CATEGORY_PAIRS,
    CATEGORY_REWARD,
    CATEGORY_ACCURACY,
    CATEGORY_LOSS,
    CATEGORY_PULL,
    CATEGORY_SATURATION,
    CATEGORY_SUMS
};
/* and behind all of these, with an adversary */
enum { CLEAN_LOSS, ADVERSARY_SCALARS };
enum { CATEGORY_CLEAN, CATEGORY_ATTACKED, ADVERSARY_SUMS };

enum { ROWS = 9 }; /* of K numbers that tally_fill hands out */

static bool has_groups(const Config *config) { return objective_of(&config->objective)->margins == MARGINS_GROUPS; }

/* Of all sums. */
static int sum_count(bool adversary, int categories)
{
    return SCALARS + CATEGORY_SUMS * categories + (adversary ? ADVERSARY_SCALARS + ADVERSARY_SUMS * categories : 0);
}

static double *adversary_sums(const Tally *t) { return t->sums + sum_count(false, t->category_count); }

int64_t tally_bytes(const Config *config, int category_count)
{
    return (has_groups(config) ? 4 : 2) * category_count * (int64_t)sizeof(int64_t) +
           sum_count(config_has_adversary(config), category_count) * (int64_t)sizeof(double);
}

bool tally_create(Tally *t, const Config *config, int category_count, Error *err)
{
    size_t k = (size_t)category_count;
    *t = (Tally){ .category_count = category_count,
                  .has_groups = has_groups(config),
                  .has_adversary = config_has_adversary(config),
                  .counts_clean = config->adversary.counts == COUNT_CLEAN };
    t->counts = calloc(4 * k, sizeof *t->counts);
    t->groups = t->counts ? t->counts + 2 * k : NULL;
    t->partial = calloc(2 * k, sizeof *t->partial);
    t->sums = calloc((size_t)sum_count(true, category_count), sizeof *t->sums);
    t->row = calloc(ROWS * k, sizeof *t->row);
    t->pairs = calloc(k, sizeof *t->pairs);
    if (t->counts && t->partial && t->sums && t->row && t->pairs) return true;
    tally_free(t);
    return error_fault(err, "out of memory for the sums of %d categories", category_count);
}

void tally_free(Tally *t)
{
    free(t->counts);
    free(t->partial);
    free(t->sums);
    free(t->row);
    free(t->pairs);
    *t = (Tally){ 0 };
}

void tally_clear(Tally *t)
{
    size_t k = (size_t)t->category_count;
    memset(t->counts, 0, sizeof *t->counts * 4 * k);
    memset(t->sums, 0, sizeof *t->sums * (size_t)sum_count(true, t->category_count));
}

static void add_adversary(Tally *t, const MarginState *margins, const Pairs *pairs, int64_t pair,
                          const PairScore *score, const PairScore *clean)
{
    double *scalars = adversary_sums(t), unit = margin_unit(margins);
    scalars[CLEAN_LOSS] += clean->loss;
    for (int k = 0; pairs->margin_applies[pair] && k < t->category_count; k++) {
        if (!pairs_categories(pairs, pair)[k]) continue;
        double *sums = scalars + ADVERSARY_SCALARS + ADVERSARY_SUMS * k;
        sums[CATEGORY_CLEAN] += (double)clean->violation * unit;
        sums[CATEGORY_ATTACKED] += (double)score->violation * unit;
    }
}

void tally_add(Tally *t, const MarginState *margins, const Pairs *pairs, int64_t pair, const PairScore *score,
               const PairScore *clean, const SequenceResult result[PAIR_SIDES])
{
    const uint8_t *mask = pairs_categories(pairs, pair);
    const PairScore *counted = clean && t->counts_clean ? clean : score;
    if (clean) add_adversary(t, margins, pairs, pair, score, clean);
    margin_count(margins, mask, pairs->margin_applies[pair], counted->violation, t->counts);
    if (t->has_groups) margin_count_group(margins, mask, score->unweighted, t->groups);
    t->sums[PAIRS] += 1;
    t->sums[LOSS] += score->loss;
    t->sums[ACCURACY] += score->accuracy;
    for (int side = 0; side < PAIR_SIDES; side++) {
        double *sums = t->sums + (side == PAIR_CHOSEN ? CHOSEN : REJECTED);
        sums[SIDE_REWARD] += score->reward[side];
        sums[SIDE_LOGP] += result[side].logp;
        sums[SIDE_LOGITS] += result[side].logits;
        sums[SIDE_TOKENS] += pairs_completion(pairs, side, pair);
        t->sums[ENTROPY] += result[side].entropy;
    }
    t->sums[CORRECT] += result[PAIR_CHOSEN].correct;
    double pull = fabs(score->coefficient[PAIR_CHOSEN]) + fabs(score->coefficient[PAIR_REJECTED]);
    t->sums[PULL] += pull;
    for (int k = 0; k < t->category_count; k++)
        if (mask[k]) {
            double *sums = t->sums + SCALARS + CATEGORY_SUMS * k;
            sums[CATEGORY_PAIRS] += 1;
            sums[CATEGORY_REWARD] += score->reward_margin;
            sums[CATEGORY_ACCURACY] += score->accuracy;
            sums[CATEGORY_LOSS] += score->loss;
            sums[CATEGORY_PULL] += pull;
            sums[CATEGORY_SATURATION] += score->saturation;
        }
}

void tally_reduce(Tally *t, MPI_Comm world)
{
    int k = t->category_count;
    memcpy(t->partial, t->counts, sizeof *t->counts * 2 * (size_t)k);
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, t->counts, t->has_groups ? 4 * k : 2 * k, MPI_INT64_T, MPI_SUM, world));
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, t->sums, sum_count(t->has_adversary, k), MPI_DOUBLE, MPI_SUM, world));
}

void tally_fill(const Tally *t, const MarginState *margins, StepMetrics *row)
{
    const double *s = t->sums, *chosen = s + CHOSEN, *rejected = s + REJECTED;
    double pairs = s[PAIRS];
    int k = t->category_count;
    row->loss = s[LOSS] / pairs;
    row->rewards_chosen = chosen[SIDE_REWARD] / pairs;
    row->rewards_rejected = rejected[SIDE_REWARD] / pairs;
    row->rewards_margins = row->rewards_chosen - row->rewards_rejected;
    row->rewards_accuracies = s[ACCURACY] / pairs;
    row->logps_chosen = chosen[SIDE_LOGP] / pairs;
    row->logps_rejected = rejected[SIDE_LOGP] / pairs;
    row->logits_chosen = chosen[SIDE_LOGITS] / chosen[SIDE_TOKENS];
    row->logits_rejected = rejected[SIDE_LOGITS] / rejected[SIDE_TOKENS];
    row->entropy = s[ENTROPY] / (chosen[SIDE_TOKENS] + rejected[SIDE_TOKENS]);
    row->mean_token_accuracy = s[CORRECT] / chosen[SIDE_TOKENS];

    const double *adversary = adversary_sums(t);
    row->clean_loss = t->has_adversary ? adversary[CLEAN_LOSS] / pairs : NAN;
    double *violations = t->row, *reward = t->row + k, *accuracy = t->row + 2 * k, *loss = t->row + 3 * k,
           *margin = t->row + 4 * k, *share = t->row + 5 * k, *saturation = t->row + 6 * k, *clean = t->row + 7 * k,
           *attacked = t->row + 8 * k;
    for (int i = 0; i < k; i++) {
        const double *sums = s + SCALARS + CATEGORY_SUMS * i;
        t->pairs[i] = (int64_t)sums[CATEGORY_PAIRS];
        violations[i] = (double)t->counts[k + i] * margin_unit(margins);
        reward[i] = sums[CATEGORY_REWARD] / sums[CATEGORY_PAIRS]; /* 0 / 0: NaN, no value */
        accuracy[i] = sums[CATEGORY_ACCURACY] / sums[CATEGORY_PAIRS];
        loss[i] = sums[CATEGORY_LOSS] / sums[CATEGORY_PAIRS];
        margin[i] = margins->margin[i];
        share[i] = sums[CATEGORY_PULL] / s[PULL];
        saturation[i] = sums[CATEGORY_SATURATION] / sums[CATEGORY_PAIRS];
        const double *both = adversary + ADVERSARY_SCALARS + ADVERSARY_SUMS * i;
        clean[i] = t->has_adversary ? both[CATEGORY_CLEAN] : NAN;
        attacked[i] = t->has_adversary ? both[CATEGORY_ATTACKED] : NAN;
    }
    row->n = t->counts;
    row->violations = violations;
    row->pairs = t->pairs;
    row->margin = margin;
    row->category_rewards_margins = reward;
    row->category_accuracy = accuracy;
    row->category_loss = loss;
    row->coefficient_share = share;
    row->saturation = saturation;
    row->clean_violations = clean;
    row->attacked_violations = attacked;
    row->partial_n = t->partial;
    row->partial_violations = t->partial + k;
}
