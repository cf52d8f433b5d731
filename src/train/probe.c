#include "catdpo/train/probe.h"

#include "catdpo/core/phase.h"
#include "catdpo/files/adapter_file.h"
#include "catdpo/files/pairs_file.h"
#include "catdpo/files/prompts_file.h"
#include "catdpo/files/vocabulary_file.h"
#include "catdpo/objective/score.h"
#include "catdpo/objective/statistics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char group[] = "probe"; /* of the pairs file */

/* ---- what is looked at ------------------------------------------------------------------------------------------- */

/* The first margin.probe_size (0: all) of each category among `count` rows, of those that may be counted: keep[i] comes
 * in as whether it may. One that another category wants counts for all of its own. */
static void choose(uint8_t *keep, int64_t count, const uint8_t *mask, int categories, int64_t size)
{
    int64_t taken[categories];
    memset(taken, 0, sizeof taken);
    for (int64_t i = 0; size > 0 && i < count; i++, mask += categories) {
        bool wanted = false;
        for (int k = 0; k < categories; k++) wanted = wanted || (mask[k] && taken[k] < size);
        keep[i] = keep[i] && wanted;
        for (int k = 0; k < categories; k++) taken[k] += keep[i] && mask[k];
    }
}

bool probe_read_pairs(Pairs *pairs, int64_t **chosen, int64_t *count, const Config *config, MPI_Comm comm, Error *err)
{
    if (!pairs_load(pairs, config->data.path, group, comm, err)) return false;
    int64_t all = pairs->count;
    uint8_t *keep = calloc((size_t)all + 1, 1);
    *chosen = calloc((size_t)all + 1, sizeof **chosen);
    *count = 0;
    bool ok = (keep && *chosen) || error_fault(err, "out of memory for %lld probe pairs", (long long)all);
    if (ok) {
        memcpy(keep, pairs->margin_applies, (size_t)all);
        choose(keep, all, pairs->category_mask, pairs->category_count, config->margin.probe_size);
    }
    for (int64_t i = 0; ok && i < all; i++)
        if (keep[i]) (*chosen)[(*count)++] = i;
    free(keep);
    if (!error_agree(comm, ok, err)) return false;
    return *count > 0 ||
           error_usage(err,
                       "%s: of none of the %lld pairs of /probe is it known that the chosen response is safe and the "
                       "rejected one is not: prepare it with a larger --probe, or set margin.source = \"pairs\"",
                       config->data.path, (long long)all);
}

static bool load_vocabulary(Probe *p, Run *run, Error *err)
{
    const char *path = run->config.model.path;
    H5File file;
    ModelInfo info;
    if (!model_file_open(&file, path, &info, run->world, err)) return false;
    bool ok = vocabulary_read(&file, &p->vocabulary, err);
    h5_close(&file);
    if (!ok) return false;
    return p->vocabulary.count == info.architecture.vocab ||
           error_usage(err,
                       "margin.source = \"generated\" reads the model's answers, but %s does not have the bytes of its "
                       "tokens (an older version imported it): import it again, or set margin.source = \"heldout\"",
                       path);
}

bool probe_read_prompts(Prompts *prompts, const Config *config, MPI_Comm comm, Error *err)
{
    bool there;
    if (!prompts_exist(config->data.path, group, &there, comm, err)) return false;
    if (!there)
        return error_usage(err,
                           "margin.source = \"generated\" asks the prompts of a probe group, and %s has none: prepare "
                           "it with --probe SHARE, such as --probe 0.1, or set margin.source = \"pairs\"",
                           config->data.path);
    if (!prompts_load(prompts, config->data.path, group, comm, err)) return false;
    int64_t count = prompts->count;
    uint8_t *keep = calloc((size_t)count + 1, 1);
    if (!error_agree(comm, keep || error_fault(err, "out of memory for %lld prompts", (long long)count), err)) {
        free(keep);
        return false;
    }
    for (int64_t i = 0; i < count; i++) keep[i] = prompts->benign[i] != PROMPT_BENIGN;
    choose(keep, count, prompts->category_mask, prompts->category_count, config->margin.probe_size);
    prompts_keep(prompts, keep);
    free(keep);
    if (prompts->count == 0)
        return error_usage(err,
                           "%s: /probe/prompts has no prompt that may be harmful: prepare it with a larger --probe, or "
                           "set margin.source = \"pairs\"",
                           config->data.path);
    return (double)prompts->count * (double)config->generate.samples <= INT32_MAX / 8 ||
           error_usage(err, "%lld answers to each of %lld prompts are too many for a probe: lower generate.samples",
                       (long long)config->generate.samples, (long long)prompts->count);
}

/* A category that the margin is for and the probe does not know keeps its margin. */
static void name_unseen(const Probe *p, Run *run)
{
    for (int k = 0; k < p->category_count; k++) {
        bool seen = false;
        for (int64_t i = 0; i < p->chosen_count; i++) seen = seen || pairs_categories(&p->pairs, p->chosen[i])[k];
        for (int64_t i = 0; i < p->prompts.count; i++) seen = seen || prompts_categories(&p->prompts, i)[k];
        if (!seen && run->pairs.category_harm[k])
            log_warn(&run->log, "the probe group has nothing of category \"%s\": its margin stays at margin.initial",
                     run->pairs.category_name[k]);
    }
}

bool probe_load(Probe *p, Run *run, Error *err)
{
    const Config *config = &run->config;
    *p = (Probe){ .source = (MarginSource)config->margin.source, .category_count = run->pairs.category_count };
    if (p->source == SOURCE_PAIRS) return true;
    if (p->source == SOURCE_HELDOUT
            ? !probe_read_pairs(&p->pairs, &p->chosen, &p->chosen_count, config, run->world, err)
            : !probe_read_prompts(&p->prompts, config, run->world, err) || !load_vocabulary(p, run, err))
        return false;
    p->answers = p->prompts.count * config->generate.samples;
    bool ok = p->source == SOURCE_HELDOUT ||
              generate_limits(config, &p->vocabulary, run->model_info.architecture.vocab, &p->limits, err);
    if (!error_agree(run->world, ok, err)) return false;
    name_unseen(p, run);
    return true;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static int larger(int a, int b) { return a > b ? a : b; }

bool probe_widen(Probe *p, const Run *run, TransformerLimits *limits, Error *err)
{
    const Config *config = &run->config;
    const Architecture *a = &run->model_info.architecture;
    const Layout *l = &run->layout;
    if (p->source == SOURCE_HELDOUT) return run_widen_limits(run, &p->pairs, limits, err);
    if (p->source != SOURCE_GENERATED) return true;
    const AttentionShape shape = { .groups = (a->groups + l->rows - 1) / l->rows,
                                   .per_group = a->heads / a->groups,
                                   .head_dim = a->head_dim };
    int64_t longest = p->prompts.longest;
    int64_t answers = (p->prompts.count + l->replicas - 1) / l->replicas * p->limits.samples;
    p->limits.logit_columns = layout_batch_limits(config, a, l->rows, l->columns).logit_columns;
    p->limits.lanes =
        generator_lanes(a, &shape, l->columns, longest, &p->limits, answers, config->generate.cache_mb * 1e6);
    /* prompts are read in passes no wider than training's, whose buffers keep every layer */
    int64_t width = limits->max_width - p->limits.lanes / l->columns;
    p->limits.max_tokens_pass = width > longest ? width : longest;
    TransformerLimits own = generator_model_limits(&p->limits, l->columns, longest);
    limits->max_width = larger(limits->max_width, own.max_width);
    limits->max_chunk = larger(limits->max_chunk, own.max_chunk);
    limits->max_sequences = larger(limits->max_sequences, own.max_sequences);
    limits->longest = larger(limits->longest, own.longest);
    return true;
}

static bool create_pairs(Probe *p, const Run *run, Error *err)
{
    const Config *config = &run->config;
    BatchLimits batch =
        layout_batch_limits(config, &run->model_info.architecture, run->layout.rows, run->layout.columns);
    PairLogps *sets[] = { &p->reference, &p->second };
    size_t count = (size_t)p->pairs.count + 1;
    bool ok = true, segments = objective_of(&config->objective)->segments;
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        for (int side = 0; side < PAIR_SIDES; side++) {
            sets[i]->whole[side] = calloc(count, sizeof(double));
            if (segments) sets[i]->answer[side] = calloc(count, sizeof(double));
            ok = ok && sets[i]->whole[side] && (!segments || sets[i]->answer[side]);
        }
    return (ok || error_fault(err, "out of memory for the log-probs of %lld pairs", (long long)p->pairs.count)) &&
           pair_batcher_create(&p->batcher, &p->pairs, &run->grid, &batch, err);
}

/* Bytes of the longest text that an answer of so many tokens has, with its NUL. */
static size_t text_room(const Vocabulary *v, int tokens)
{
    int32_t longest = 0;
    for (int32_t id = 0; id < v->count; id++)
        if (v->offset[id + 1] - v->offset[id] > v->offset[longest + 1] - v->offset[longest]) longest = id;
    return (vocabulary_room(v, &longest, 1) - 1) * (size_t)tokens + 1;
}

static bool create_generator(Probe *p, Run *run, Error *err)
{
    const Config *config = &run->config;
    const SampleSettings sampling = generate_sampling(config);
    int positions = run->model_info.architecture.max_positions;
    int tokens = p->limits.max_tokens < positions ? p->limits.max_tokens : positions;
    size_t answers = (size_t)p->answers + 1, room = text_room(&p->vocabulary, tokens);
    int64_t mine = (p->prompts.count + run->grid.replicas - 1) / run->grid.replicas * p->limits.samples;
    p->text = malloc(room);
    p->score = calloc(answers, sizeof *p->score);
    p->verdict = calloc(answers, sizeof *p->verdict);
    p->kind = calloc(answers, sizeof *p->kind);
    bool ok = ((p->text && p->score && p->verdict && p->kind) ||
               error_fault(err, "out of memory for %lld answers", (long long)p->answers)) &&
              generator_create(&p->generator, &p->prompts, &run->model, &sampling, &p->limits, err) &&
              generator_reserve(&p->generator, mine * tokens, err);
    return error_agree(run->world, ok, err) &&
           judging_open(&p->judging, config->margin.judge == JUDGE_COMMAND ? config->margin.judge_command : NULL,
                        config->margin.judge_timeout, room, &p->prompts, run->timer, run->world, err);
}

bool probe_create(Probe *p, Run *run, Error *err)
{
    size_t k = (size_t)p->category_count;
    if (p->source == SOURCE_PAIRS) return true;
    p->counts = calloc(4 * k, sizeof *p->counts);
    p->n = calloc(2 * k, sizeof *p->n);
    p->row = p->counts ? p->counts + 2 * k : NULL;
    p->violations = p->n ? p->n + k : NULL;
    bool ok = (p->counts && p->n) || error_fault(err, "out of memory for the counts of %d categories", (int)k);
    if (p->source == SOURCE_HELDOUT) return error_agree(run->world, ok && create_pairs(p, run, err), err);
    if (!error_agree(run->world, ok, err) || !create_generator(p, run, err)) return false;
    log_info(&run->log,
             "probe    %lld prompts of /probe, %d answer%s each of up to %d tokens, %d at once, %.0f MB of keys and "
             "values a rank; judge: %s",
             (long long)p->prompts.count, p->limits.samples, p->limits.samples > 1 ? "s" : "", p->limits.max_tokens,
             p->limits.lanes,
             1e-6 * (double)kv_cache_bytes(run->model.architecture.layers, &run->model.attention,
                                           p->generator.cache.columns),
             p->judging.by_command ? run->config.margin.judge_command : "refusal rules");
    return true;
}

bool probe_frozen(Probe *p, Run *run, Error *err)
{
    if (p->source != SOURCE_HELDOUT || run->config.margin.signal == SIGNAL_LIKELIHOOD) return true;
    return frozen_logps(run, FROZEN_REFERENCE, &p->batcher, group, &p->reference, err) &&
           frozen_logps(run, FROZEN_MODPO, &p->batcher, group, &p->second, err);
}

void probe_free(Probe *p)
{
    PairLogps *sets[] = { &p->reference, &p->second };
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        for (int side = 0; side < PAIR_SIDES; side++) {
            free(sets[i]->whole[side]);
            free(sets[i]->answer[side]);
        }
    pair_batcher_free(&p->batcher);
    pairs_free(&p->pairs);
    free(p->chosen);
    judging_close(&p->judging);
    generator_free(&p->generator);
    vocabulary_free(&p->vocabulary);
    prompts_free(&p->prompts);
    free(p->text);
    free(p->score);
    free(p->verdict);
    free(p->kind);
    free(p->counts);
    free(p->n);
    *p = (Probe){ 0 };
}

/* ---- pairs ------------------------------------------------------------------------------------------------------- */

/* One planned group of pairs: all passes of this replica; counts those that are this rank's. */
static void count_pairs(Probe *p, Run *run, const MarginState *margins, const int64_t *pairs, int count)
{
    int me, parts = p->batcher.base.limits.parts;
    CHECK_MPI(MPI_Comm_rank(run->grid.comm, &me));
    pair_batcher_plan(&p->batcher, pairs, count);
    for (int pass = 0; pass < p->batcher.base.passes; pass++) {
        const Batch *batch = batcher_pass(&p->batcher.base, pass);
        transformer_forward(&run->model, batch, NULL, NULL, NULL);
        const SequenceResult *result = run->model.result;
        for (int i = 0; i < batch->group_count; i++) {
            const BatchGroup *pair = &batch->group[i];
            if (pair->counter != me) continue;
            PairView view = pairs_view(&p->pairs, pair->id);
            for (int side = 0; side < PAIR_SIDES; side++) {
                view.logp[side] = result[pair_sequence(&p->batcher, pair, side, 0)].logp;
                if (parts > 1) view.answer[side] = result[pair_sequence(&p->batcher, pair, side, 1)].logp;
            }
            view_frozen(&view, &p->reference, &p->second, pair->id);
            PairScore score = score_pair(&run->config.objective, margins, &view);
            margin_count(margins, view.categories, true, score.violation, p->row);
        }
    }
}

static bool pass_pairs(Probe *p, Run *run, const MarginState *margins, Verdict *verdict, Error *err)
{
    int64_t per_group = run->config.batch.pairs;
    for (int64_t at = 0; at < p->chosen_count && !verdict->stop; at += per_group) {
        int64_t left = p->chosen_count - at;
        timer_start(run->timer, PHASE_PROBE);
        count_pairs(p, run, margins, p->chosen + at, (int)(left < per_group ? left : per_group));
        timer_stop(run->timer);
        if (!lifecycle_agree(&run->life, true, 0, verdict, err)) return false;
    }
    return true;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* Do all replicas have their answers? */
static bool all_answered(const Probe *p, const Run *run)
{
    int64_t finished = p->generator.finished;
    if (run->grid.replicas > 1)
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &finished, 1, MPI_INT64_T, MPI_SUM, run->grid.replica_comm));
    return finished == p->answers;
}

static bool answer_prompts(Probe *p, Run *run, int64_t step, Verdict *verdict, Error *err)
{
    generator_restart(&p->generator, run->config.generate.seed + step);
    for (bool done = false; !done && !verdict->stop;) {
        Error broken = { 0 };
        timer_start(run->timer, PHASE_PROBE);
        generator_step(&p->generator, &broken);
        done = all_answered(p, run);
        timer_stop(run->timer);
        bool ok = broken.exit_status == EXIT_DONE;
        if (!ok) *err = broken;
        if (!lifecycle_agree(&run->life, ok, 0, verdict, err)) return false;
    }
    return true;
}

/* The answers of this replica that this rank judges: its ranks take turns. */
typedef struct Turn {
    Probe *p;
    int64_t at;    /* the next answer */
    int64_t own;   /* answers of this replica so far */
    int me, ranks; /* of the replica's grid */
} Turn;

static bool next_answer(void *context, ToJudge *next)
{
    Turn *turn = context;
    Probe *p = turn->p;
    for (; turn->at < p->answers; turn->at++) {
        const Answer *answer = &p->generator.answer[turn->at];
        if (answer->at < 0 || turn->own++ % turn->ranks != turn->me) continue;
        *next = (ToJudge){ .id = turn->at,
                           .prompt = turn->at / p->limits.samples,
                           .text = p->text,
                           .length = vocabulary_text(&p->vocabulary, p->generator.token + answer->at, answer->length,
                                                     p->text) };
        turn->at++;
        return true;
    }
    return false;
}

static void take_judged(void *context, int64_t id, const Judged *judged)
{
    Probe *p = ((Turn *)context)->p;
    p->score[id] = judged->score;
    p->verdict[id] = judged->verdict;
    p->kind[id] = judged->kind;
}

/* Collects the verdicts of all ranks; for those that this rank gave, counts them first. */
static void count_answers(Probe *p, const Run *run, const MarginState *margins)
{
    for (int64_t i = 0; i < p->answers; i++)
        if (p->verdict[i] >= 0)
            margin_count(margins, prompts_categories(&p->prompts, i / p->limits.samples), true,
                         p->verdict[i] * margin_one_violation(margins), p->row);
    int count = (int)p->answers;
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, p->score, count, MPI_FLOAT, MPI_MAX, run->world));
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, p->verdict, count, MPI_INT8_T, MPI_MAX, run->world));
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, p->kind, count, MPI_UINT8_T, MPI_MIN, run->world));
}

static bool judge_answers(Probe *p, Run *run, const MarginState *margins, Verdict *verdict, Error *err)
{
    Turn turn = { .p = p };
    CHECK_MPI(MPI_Comm_rank(run->grid.comm, &turn.me));
    CHECK_MPI(MPI_Comm_size(run->grid.comm, &turn.ranks));
    for (int64_t i = 0; i < p->answers; i++) p->score[i] = -1, p->verdict[i] = -1, p->kind[i] = 255;
    timer_start(run->timer, PHASE_JUDGE);
    double start = seconds_now();
    p->judge_failed = !judging_run(&p->judging, next_answer, take_judged, &turn, err);
    p->judge_seconds = seconds_now() - start;
    if (!p->judge_failed) count_answers(p, run, margins);
    timer_stop(run->timer);
    return !p->judge_failed && lifecycle_agree(&run->life, true, 0, verdict, err);
}

/* ---- a probe ----------------------------------------------------------------------------------------------------- */

bool probe_is_due(const Probe *p, const MarginState *margins, int64_t step)
{
    return p->source != SOURCE_PAIRS && step % margins->interval == 0;
}

static bool measure(Probe *p, Run *run, const MarginState *margins, int64_t step, Verdict *verdict, Error *err)
{
    if (p->source == SOURCE_HELDOUT) return pass_pairs(p, run, margins, verdict, err);
    return answer_prompts(p, run, step, verdict, err) &&
           (verdict->stop || judge_answers(p, run, margins, verdict, err));
}

bool probe_measure(Probe *p, Run *run, const MarginState *margins, int64_t step, Verdict *verdict, Error *err)
{
    int k = p->category_count;
    double start = seconds_now();
    Timer *timer = run->model.timer;
    *verdict = (Verdict){ 0 };
    p->judge_failed = false;
    memset(p->row, 0, 2 * (size_t)k * sizeof *p->row);
    run->model.timer = NULL; /* passes of a probe are one phase of the step */
    bool ok = measure(p, run, margins, step, verdict, err);
    run->model.timer = timer;
    if (!ok || verdict->stop) return ok;
    timer_start(run->timer, PHASE_MARGINS);
    CHECK_MPI(MPI_Allreduce(p->row, p->counts, 2 * k, MPI_INT64_T, MPI_SUM, run->world));
    for (int i = 0; i < k; i++) {
        p->n[i] = (double)p->counts[i];
        p->violations[i] = (double)p->counts[k + i] * margin_unit(margins);
    }
    timer_stop(run->timer);
    p->seconds = seconds_now() - start;
    return true;
}

bool probe_is_safe(const Probe *p, double target)
{
    bool any = false;
    for (int k = 0; k < p->category_count; k++) {
        if (p->counts[k] == 0) continue;
        any = true;
        if (!(wilson_interval(p->violations[k], p->counts[k]).high < target)) return false;
    }
    return any;
}

/* ---- probe.h5 ---------------------------------------------------------------------------------------------------- */

/* Of the weights at hand, as a checkpoint of them would have it. Collective. */
static bool digest_weights(Run *run, char digest[WEIGHTS_DIGEST], Error *err)
{
    const Transformer *t = &run->model;
    const Parameters *trained = t->trained;
    int64_t all = run->grid.replica == 0 ? trained->local_floats : 0; /* replicas hold the same weights */
    const ShardedArray weights = { t->trained_weights, 0, all };
    AdapterInfo adapter = { .settings = t->adapters.settings };
    memcpy(adapter.base_digest, run->model_info.weights_digest, WEIGHTS_DIGEST);
    uint64_t *checksums = calloc((size_t)parts_count(trained) + 1, sizeof *checksums);
    bool ok = error_agree(run->world, checksums || error_fault(err, "out of memory for the weights' checksums"), err);
    if (ok) {
        tensors_checksums(t, trained, &weights, checksums);
        ok = trained == &t->parameters ? parts_digest(trained, checksums, digest, err)
                                       : adapter_digest(trained, &adapter, checksums, digest, err);
        ok = error_agree(run->world, ok, err);
    }
    free(checksums);
    return ok;
}

static SampleScores scores_of(const Probe *p, const Run *run)
{
    const MarginSettings *m = &run->config.margin;
    return (SampleScores){ .name = m->judge == JUDGE_COMMAND ? "command" : "refusal",
                           .settings = "{}",
                           .digest = m->judge == JUDGE_COMMAND ? "" : refusal_rules_digest(),
                           .threshold = JUDGING_THRESHOLD,
                           .score = p->score,
                           .verdict = p->verdict,
                           .kind = p->kind };
}

/* What samples.h5 says beside the answers. */
typedef struct Words {
    char model[FILE_PATH + 64], prompts[CONFIG_TEXT + 16], settings[GENERATE_TEXT + 64], digest[WEIGHTS_DIGEST];
    char *config; /* owned */
} Words;

static bool find_words(const Probe *p, Run *run, int64_t step, Words *words, Error *err)
{
    *words = (Words){ .config = config_text(&run->config) };
    snprintf(words->model, sizeof words->model, "%s after step %lld", run->config.run.dir, (long long)step);
    snprintf(words->prompts, sizeof words->prompts, "%s: /%s", run->config.data.path, group);
    generate_describe(&run->config, &p->limits, words->settings);
    snprintf(words->settings + strlen(words->settings), 64, " step=%lld", (long long)step);
    return error_agree(run->world, words->config || error_fault(err, "out of memory for the settings"), err) &&
           digest_weights(run, words->digest, err);
}

static bool write_answers(const Probe *p, Run *run, const Samples *answers, Words *words, Error *err)
{
    const SampleScores scores = scores_of(p, run);
    char path[FILE_PATH];
    Samples s = *answers;
    s.model = words->model;
    s.prompts = words->prompts;
    s.weights_digest = words->digest;
    s.data_digest = (char *)p->prompts.data_digest;
    s.tokenizer_digest = (char *)p->prompts.tokenizer_digest;
    s.template_digest = (char *)p->prompts.template_digest;
    s.settings = words->settings;
    s.config = words->config;
    s.scores = &scores;
    run_path(run, "probe.h5", path);
    return samples_write(path, writer_folder(run->writer), &s, run->world, err);
}

bool probe_keep(const Probe *p, Run *run, int64_t step, Error *err)
{
    Gathered all = { 0 };
    Words words;
    if (p->source != SOURCE_GENERATED) return true;
    timer_start(run->timer, PHASE_OUTPUT);
    bool ok = find_words(p, run, step, &words, err) && gather_answers(&p->generator, &p->vocabulary, &all, err) &&
              write_answers(p, run, &all.samples, &words, err);
    gathered_free(&all);
    free(words.config);
    timer_stop(run->timer);
    return ok;
}
