/* One step of training: batch, attack of the prompts, forward, head and objective, backward, reduce, clip, AdamW,
 * margins. */
#include "catdpo/train/trainer.h"

#include "catdpo/model/attack.h"
#include "catdpo/optim/schedule.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What is known of a pair, with these results of its sequences. */
static PairView view_of(const Trainer *t, const BatchGroup *pair, const SequenceResult *result)
{
    const PairBatcher *batcher = &t->run.batcher;
    PairView view = pairs_view(&t->run.pairs, pair->id);
    for (int side = 0; side < PAIR_SIDES; side++) {
        view.logp[side] = result[pair_sequence(batcher, pair, side, 0)].logp;
        if (batcher->base.limits.parts > 1) view.answer[side] = result[pair_sequence(batcher, pair, side, 1)].logp;
    }
    view_frozen(&view, &t->reference, &t->second, pair->id);
    view.baseline = t->baseline;
    return view;
}

static PairScore score_of(const Trainer *t, const PairView *view)
{
    return score_pair(&t->run.config.objective, &t->margins, view);
}

/* A pair that this rank counts goes to margins and metrics. */
static void count_pair(Trainer *t, const BatchGroup *pair, const SequenceResult *result, const PairScore *score)
{
    SequenceResult sides[PAIR_SIDES];
    PairScore clean;
    bool adversary = config_has_adversary(&t->run.config);
    for (int side = 0; side < PAIR_SIDES; side++) {
        sides[side] = result[pair_sequence(&t->run.batcher, pair, side, 0)];
        t->logps[side][pair->place] = sides[side].logp;
    }
    if (adversary) {
        PairView view = view_of(t, pair, t->run.model.attack.clean);
        clean = score_of(t, &view);
    }
    tally_add(&t->tally, &t->margins, &t->run.pairs, pair->id, score, adversary ? &clean : NULL, sides);
}

/* The head has the log-probs of some pairs: what they cost, what that says to margins and metrics, and its gradient. */
static void pair_gradient(void *context, const Batch *batch, int first, int count, const SequenceResult *result,
                          float *coefficient)
{
    Trainer *t = context;
    const PairBatcher *batcher = &t->run.batcher;
    int me, parts = batcher->base.limits.parts;
    CHECK_MPI(MPI_Comm_rank(t->run.grid.comm, &me));
    for (int i = first; i < first + count; i++) {
        const BatchGroup *pair = &batch->group[i];
        PairView view = view_of(t, pair, result);
        PairScore score = score_of(t, &view);
        for (int side = 0; side < PAIR_SIDES; side++) {
            coefficient[pair_sequence(batcher, pair, side, 0)] = (float)(score.coefficient[side] / t->pair_count);
            if (parts > 1)
                coefficient[pair_sequence(batcher, pair, side, 1)] = (float)(score.answer[side] / t->pair_count);
        }
        if (pair->counter == me) count_pair(t, pair, result, &score);
    }
}

/* The margins as they enter the losses of this step. */
static void begin_margins(Trainer *t)
{
    const Pairs *pairs = &t->run.pairs;
    double sum = 0;
    for (int i = 0; i < t->pair_count; i++)
        sum += margin_raw_weight(&t->margins, pairs_categories(pairs, t->pair[i]), pairs->margin_applies[t->pair[i]]);
    margin_begin_step(&t->margins, sum, t->pair_count);
}

static void choose_pairs(Trainer *t)
{
    t->pair_count = sampler_step(&t->sampler, t->step, t->pair);
    for (int i = t->pair_count; i < t->sampler.per_step; i++) t->pair[i] = -1;
    for (int side = 0; side < PAIR_SIDES; side++)
        for (int i = 0; i < t->sampler.per_step; i++) {
            t->logps[side][i] = INFINITY;
            t->ref_logps[side][i] = i < t->pair_count ? t->reference.whole[side][t->pair[i]] : NAN;
        }
    for (int i = 0; i < t->pair_count; i++)
        t->num_tokens += pairs_length(&t->run.pairs, PAIR_CHOSEN, t->pair[i]) +
                         pairs_length(&t->run.pairs, PAIR_REJECTED, t->pair[i]);
    pair_batcher_plan(&t->run.batcher, t->pair, t->pair_count);
}

/* A step whose numbers are not finite changes nothing; whether the run goes on is for the settings to say. The same on
 * all ranks. */
static bool may_skip(Trainer *t, StepMetrics *row, Error *err)
{
    const Config *config = &t->run.config;
    bool skip = config->optimizer.nonfinite == NONFINITE_SKIP && t->skipped < config->optimizer.max_skipped;
    row->skipped = 1;
    t->skipped++;
    if (skip)
        log_warn(&t->run.log, "step %lld is skipped: the loss is %g and the gradient's norm %g", (long long)t->step,
                 row->loss, row->grad_norm);
    return skip || error_fault(err,
                               "step %lld: the loss is %g and the gradient's norm %g: lower optimizer.learning_rate, "
                               "and look at the pairs of "
                               "this step in metrics.h5 (/train/pairs); optimizer.nonfinite = \"skip\" leaves out up "
                               "to %lld such steps",
                               (long long)t->step, row->loss, row->grad_norm, (long long)config->optimizer.max_skipped);
}

/* The step's mean log-ratio of policy and reference over its prompts with completions of others; not below 0.
 * Collective over world. */
static double measure_baseline(Trainer *t)
{
    Run *run = &t->run;
    PairBatcher *batcher = &run->mismatched_batcher;
    double sum = 0;
    int me;
    CHECK_MPI(MPI_Comm_rank(run->grid.comm, &me));
    pair_batcher_plan(batcher, t->pair, t->pair_count);
    for (int pass = 0; pass < batcher->base.passes; pass++) {
        const Batch *batch = batcher_pass(&batcher->base, pass);
        transformer_forward(&run->model, batch, NULL, NULL, NULL);
        for (int i = 0; i < batch->group_count; i++) {
            const BatchGroup *pair = &batch->group[i];
            for (int side = 0; pair->counter == me && side < PAIR_SIDES; side++)
                sum += run->model.result[pair_sequence(batcher, pair, side, 0)].logp -
                       t->mismatched_reference.whole[side][pair->id];
        }
    }
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &sum, 1, MPI_DOUBLE, MPI_SUM, run->world));
    return t->baseline = fmax(0, sum / (PAIR_SIDES * t->pair_count));
}

/* ---- the step --------------------------------------------------------------------------------------------------- */

/* The step's attack; one of type "none" without an adversary. Collective over the grid. */
static Attack begin_adversary(Trainer *t, StepMetrics *row)
{
    const Config *config = &t->run.config;
    row->radius = NAN;
    if (!config_has_adversary(config)) return (Attack){ .type = ATTACK_NONE };
    Attack attack = attack_make(&t->run.model, &config->adversary.attack, config->adversary.radius);
    attack.seed = (uint64_t)config->run.seed;
    attack.draw = (uint64_t)t->step;
    row->radius = attack.radius;
    return attack;
}

/* Gradients of all passes of this replica, and the tally of its pairs. */
static void passes(Trainer *t, const Attack *attack)
{
    Run *run = &t->run;
    if (run->batcher.base.passes == 0) /* this replica has no pair in the step */
        memset(run->model.gradients, 0, (size_t)run->model.gradient_bytes);
    for (int pass = 0; pass < run->batcher.base.passes; pass++) {
        const Batch *batch = batcher_pass(&run->batcher.base, pass);
        if (attack->type != ATTACK_NONE) attack_batch(&run->model, batch, attack);
        transformer_pass(&run->model, batch, pair_gradient, t, pass > 0);
        attack_end(&run->model);
    }
}

bool train_step(Trainer *t, StepMetrics *row, Error *err)
{
    Run *run = &t->run;
    Transformer *model = &run->model;
    const Config *config = &run->config;
    *row = (StepMetrics){ .step = t->step };
    tally_clear(&t->tally);

    timer_start(run->timer, PHASE_BATCH);
    choose_pairs(t);
    begin_margins(t);
    timer_stop(run->timer);
    row->kl = NAN;
    if (objective_of(&config->objective)->baseline) row->kl = measure_baseline(t);
    Attack attack = begin_adversary(t, row);
    passes(t, &attack);

    timer_start(run->timer, PHASE_MARGINS);
    tally_reduce(&t->tally, run->world);
    tally_fill(&t->tally, &t->margins, row);
    timer_stop(run->timer);

    timer_start(run->timer, PHASE_REDUCE);
    optimizer_reduce(&t->optimizer, model->gradients);
    timer_stop(run->timer);
    timer_start(run->timer, PHASE_OPTIMIZER);
    row->grad_norm = optimizer_norm(&t->optimizer, model->gradients);
    row->learning_rate =
        config->optimizer.learning_rate * schedule_factor((ScheduleType)config->schedule.type, config->schedule.warmup,
                                                          config->schedule.floor, t->step, t->total_steps);
    bool finite = isfinite(row->loss) && isfinite(row->grad_norm); /* the same numbers on all ranks */
    if (finite)
        row->clipped = optimizer_update(&t->optimizer, model->trained_weights, model->gradients, row->learning_rate,
                                        row->grad_norm);
    timer_stop(run->timer);
    if (!finite) return may_skip(t, row, err);
    timer_start(run->timer, PHASE_REDUCE);
    optimizer_spread(&t->optimizer, model->trained_weights);
    timer_stop(run->timer);
    timer_start(run->timer, PHASE_MARGINS);
    if (t->probe.source == SOURCE_PAIRS) margin_update(&t->margins, t->tally.counts, t->step);
    if (t->tally.has_groups) margin_update_groups(&t->margins, t->tally.groups);
    timer_stop(run->timer);
    return true;
}

/* ---- the probe before it ----------------------------------------------------------------------------------------- */

static void say_probe(Trainer *t)
{
    const Probe *p = &t->probe;
    double n = 0, violations = 0;
    int worst = -1;
    for (int k = 0; k < p->category_count; k++) {
        n += p->n[k], violations += p->violations[k];
        if (p->n[k] > 0 && (worst < 0 || p->violations[k] / p->n[k] > p->violations[worst] / p->n[worst])) worst = k;
    }
    char judged[48] = "";
    if (p->source == SOURCE_GENERATED) snprintf(judged, sizeof judged, ", %.1f s of it the judge", p->judge_seconds);
    log_info(&t->run.log, "probe    after step %lld: %.3f of %.0f %s, worst %s with %.3f of %.0f; %.1f s%s",
             (long long)t->step, violations / n, n, p->source == SOURCE_GENERATED ? "unsafe" : "violate",
             worst < 0 ? "none" : t->run.pairs.category_name[worst],
             worst < 0 ? NAN : p->violations[worst] / p->n[worst], worst < 0 ? 0 : p->n[worst], p->seconds, judged);
}

bool train_probe(Trainer *t, Verdict *verdict, Error *err)
{
    Run *run = &t->run;
    Probe *p = &t->probe;
    t->probed = false;
    if (!probe_is_due(p, &t->margins, t->step)) return true;
    if (!probe_measure(p, run, &t->margins, t->step, verdict, err)) return false;
    if (verdict->stop) return true;
    t->probed = true;
    margin_update(&t->margins, p->counts, t->step);
    t->safe_probes = probe_is_safe(p, t->margins.target) ? t->safe_probes + 1 : 0;
    say_probe(t);
    return probe_keep(p, run, t->step, err);
}
