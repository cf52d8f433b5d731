/* catdpo eval */
#include "catdpo/run/attacked.h"
#include "catdpo/run/evaluate.h"
#include "catdpo/run/reference.h"
#include "catdpo/run/run.h"

#include "catdpo/commands/cli.h"
#include "catdpo/core/file.h"
#include "catdpo/core/text.h"
#include "catdpo/files/eval_file.h"
#include "catdpo/objective/statistics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What an evaluation finds. */
typedef struct Outcome {
    Evaluation evaluation;
    Attacked attacked;
    MarginState margins;
    uint64_t *prompt; /* [N] where hidden features are kept */
} Outcome;

static void print_summary(const char *name, const Fairness *f)
{
    printf("%-16s micro %.3f  macro %.3f  worst %.3f  gap %.3f  variance %.4f\n", name, f->micro, f->macro, f->worst,
           f->gap, f->variance);
}

static void print_rate(int64_t count, double rate, double low, double high)
{
    char text[64] = "-";
    if (count > 0) snprintf(text, sizeof text, "%.3f [%.3f, %.3f]", rate, low, high);
    printf("%-22s  ", text);
}

static void print_table(const Evaluation *e, const Pairs *pairs, const Fairness *accuracy, const Fairness *violation)
{
    enum { LEAST = 8, MOST = 32 };
    int width = LEAST;
    for (int k = 0; k < pairs->category_count; k++) {
        int columns = text_columns(pairs->category_name[k]);
        width = columns > width ? columns : width;
    }
    width = width > MOST ? MOST : width;
    printf("%-*s  %6s  %-22s  %5s  %-22s  %8s\n", width, "category", "pairs", "accuracy [95 %]", "n",
           "violation rate [95 %]", "margin");
    for (int k = 0; k < pairs->category_count; k++) {
        const char *name = pairs->category_name[k];
        int bytes = text_bytes(name, width), columns = text_columns(name);
        printf("%.*s%*s  %6lld  ", bytes, name, columns < width ? width - columns : 0, "", (long long)e->pairs[k]);
        print_rate(e->pairs[k], e->accuracy[k], e->accuracy_low[k], e->accuracy_high[k]);
        printf("%5lld  ", (long long)e->n[k]);
        print_rate(e->n[k], e->rate[k], e->rate_low[k], e->rate_high[k]);
        if (e->pairs[k] > 0)
            printf("%8.3f\n", e->reward[k]);
        else
            printf("%8s\n", "-");
    }
    print_summary("accuracy", accuracy);
    print_summary("violation rate", violation);
    if (violation->worst_category >= 0)
        printf("worst category   %s\n", pairs->category_name[violation->worst_category]);
}

static EvalSummary summary(const Fairness *f)
{
    return (EvalSummary){ f->micro, f->macro, f->worst, f->gap, f->variance };
}

/* Violation rates over the harm categories by radius. */
static void print_attack(const EvalAttack *a, const Evaluation *e, const Pairs *pairs)
{
    int k = pairs->category_count;
    printf("attack %s, %s, %lld steps; radii %s\n%-8s  %-14s  %-14s  %s\n", a->type, a->norm, (long long)a->steps,
           a->unit, "radius", "violation rate", "worst category", "drawn directions");
    for (int i = 0; i < a->radii; i++) {
        Fairness f = fairness(a->violations + (int64_t)i * k, e->n, pairs->category_harm, k, WORST_IS_HIGHEST);
        double drawn = 0, n = 0;
        for (int c = 0; c < k; c++)
            if (pairs->category_harm[c] && e->n[c] > 0) {
                drawn += a->random_violation_rate[(int64_t)i * k + c] * (double)e->n[c];
                n += (double)e->n[c];
            }
        printf("%-8g  %-14.3f  %-14.3f  %.3f\n", a->radius[i], f.micro, f.worst, drawn / n);
    }
}

static bool report(Run *run, const Outcome *o, const char *model, const char *split, const char *out, Error *err)
{
    const Evaluation *e = &o->evaluation;
    const Pairs *pairs = &run->pairs;
    int k = pairs->category_count;
    Fairness accuracy = fairness(e->right, e->pairs, pairs->category_harm, k, WORST_IS_LOWEST);
    Fairness violation = fairness(e->violations, e->n, pairs->category_harm, k, WORST_IS_HIGHEST);
    const EvalResult result = {
        .model = model,
        .weights_digest = run->model_info.weights_digest,
        .data_digest = pairs->data_digest,
        .split = split,
        .signal = config_choice(&run->config, "margin.signal"),
        .step = run->model_info.step,
        .beta = run->config.objective.beta,
        .category_count = k,
        .category_name = (const char(*)[CATEGORY_NAME])pairs->category_name,
        .category_harm = pairs->category_harm,
        .pairs = e->pairs,
        .accuracy = e->accuracy,
        .accuracy_low = e->accuracy_low,
        .accuracy_high = e->accuracy_high,
        .n = e->n,
        .violations = e->violations,
        .violation_rate = e->rate,
        .violation_rate_low = e->rate_low,
        .violation_rate_high = e->rate_high,
        .rewards_margins = e->reward,
        .accuracy_summary = summary(&accuracy),
        .violation_rate_summary = summary(&violation),
        .worst_category = violation.worst_category < 0 ? "" : pairs->category_name[violation.worst_category],
        .pair_count = pairs->count,
        .logps_chosen = e->logps.whole[PAIR_CHOSEN],
        .logps_rejected = e->logps.whole[PAIR_REJECTED],
        .ref_logps_chosen = e->reference.whole[PAIR_CHOSEN],
        .ref_logps_rejected = e->reference.whole[PAIR_REJECTED],
        .violation = e->violation,
        .index = e->index,
        .attack = o->attacked.result,
        .features = { e->logps.features ? run->model.hidden.length : 0, e->logps.features, o->prompt },
    };
    if (run->rank == 0) print_table(e, pairs, &accuracy, &violation);
    if (run->rank == 0 && o->attacked.result.radii > 0) print_attack(&o->attacked.result, e, pairs);
    return eval_file_write(out, &result, run->world, err);
}

/* Of all pairs under the model; an evaluation that is stopped leaves nothing behind. */
static bool log_probs(Run *run, Evaluation *e, Error *err)
{
    int64_t done = 0;
    while (done < run->pairs.count) {
        Verdict verdict;
        if (!run_logps(run, &run->batcher, "evaluate", &e->logps, &done, &verdict, err)) return false;
        if (verdict.stop && done < run->pairs.count)
            return error_stopped(err, false, "stopped by %s after %lld of %lld pairs, nothing was written: start again",
                                 verdict.why, (long long)done, (long long)run->pairs.count);
        lifecycle_saved(&run->life, 0); /* nothing to save */
    }
    return true;
}

/* ---- what is evaluated ------------------------------------------------------------------------------------------ */

typedef struct Task {
    const char *model, *split, *out; /* not owned */
    char final[FILE_PATH], results[FILE_PATH];
} Task;

/* Without --model: the final checkpoint of the run that run.dir holds, if it has one, else model.path. Says which. */
static void choose_model(Run *run, Task *task)
{
    const Config *config = &run->config;
    int trained = 0;
    if (!task->model && *config->run.dir) {
        run_path(run, "checkpoints/final.h5", task->final);
        trained = run->rank == 0 && access(task->final, F_OK) == 0;
        CHECK_MPI(MPI_Bcast(&trained, 1, MPI_INT, 0, run->world));
    }
    if (task->model)
        log_info(&run->log, "eval     %s, as --model says", task->model);
    else if (trained)
        log_info(&run->log, "eval     %s, the run's final checkpoint; --model evaluates another", task->final);
    else
        log_info(&run->log, "eval     model.path = %s: %s%s", config->model.path,
                 *config->run.dir ? config->run.dir : "there is no run.dir, so no final checkpoint",
                 *config->run.dir ? " has no checkpoints/final.h5" : "");
    if (!task->model) task->model = trained ? task->final : config->model.path;
}

/* The options, and what may be left out with them. */
static bool read_task(Run *run, Task *task, const CommandLine *line, Error *err)
{
    static const char *const data[] = { "data.path", NULL }, *const reference[] = { "model.path", NULL };
    Config *config = &run->config;
    const char *pairs = command_option(line, "--data");
    *task = (Task){ .model = command_option(line, "--model"),
                    .split = command_option(line, "--split"),
                    .out = command_option(line, "--out") };
    if (pairs && snprintf(config->data.path, sizeof config->data.path, "%s", pairs) >= CONFIG_TEXT)
        return error_usage(err, "--data is longer than %d bytes", CONFIG_TEXT - 1);
    if (!config_require(config, data, err) ||
        (!(task->model && *config->reference.model) && !config_require(config, reference, err)))
        return false;
    if (!task->out && !*config->run.dir)
        return error_usage(err, "where do the results go? Name a file with --out, or set run.dir");
    const char *attack = command_option(line, "--attack");
    for (int i = 0; attack && config_is_choice("eval.attack", *attack ? attack : "contrastive"); i++) {
        config->eval.attack.type = i;
        if (strcmp(config_choice(config, "eval.attack"), *attack ? attack : "contrastive") == 0) break;
    }
    config->eval.features = config->eval.features || command_option(line, "--features");
    if (!task->split) task->split = config->data.heldout;
    if (!task->out) {
        run_path(run, "eval.h5", task->results);
        task->out = task->results;
    }
    choose_model(run, task);
    return true;
}

/* The reference itself: all differences from it are zero. */
static void say_same_weights(Run *run)
{
    static const char words[] =
        "policy and reference are the same weights: accuracy is 0.5 and the reward margin 0 for "
        "every category; only violation rates by margin.signal = \"likelihood\" say something";
    if (run->model_info.step < 0)
        log_info(&run->log, "note     %s", words);
    else
        log_warn(&run->log, "%s. They are those of a checkpoint: set reference.model to the model before training",
                 words);
}

/* FNV-1a of the tokens of pair i's prompt. */
static uint64_t prompt_hash(const Pairs *pairs, int64_t i)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    const int32_t *token = pairs_tokens(pairs, PAIR_CHOSEN, i);
    for (int t = 0; t < pairs_prompt(pairs, PAIR_CHOSEN, i); t++)
        for (int byte = 0; byte < 4; byte++)
            hash = (hash ^ ((uint32_t)token[t] >> 8 * byte & 0xff)) * UINT64_C(0x100000001b3);
    return hash;
}

/* Room for hidden features of all completions, if they are asked for, and what tells their prompts apart; both owned by
 * the caller. */
static bool make_features(const Run *run, Outcome *o, Error *err)
{
    const Pairs *pairs = &run->pairs;
    if (!run->config.eval.features) return true;
    int64_t bytes = (int64_t)sizeof(float) * pairs->count * PAIR_SIDES * run->model.hidden.length;
    o->evaluation.logps.features = memory_allocate(bytes, "features (evaluate fewer pairs)", err);
    if (!o->evaluation.logps.features) return false;
    o->prompt = memory_allocate((int64_t)sizeof *o->prompt * pairs->count, "hashes of prompts", err);
    for (int64_t i = 0; o->prompt && i < pairs->count; i++) o->prompt[i] = prompt_hash(pairs, i);
    return o->prompt != NULL;
}

static bool evaluate(Run *run, Outcome *o, const CommandLine *line, MPI_Comm world, Error *err)
{
    Evaluation *e = &o->evaluation;
    static const char *const nothing[] = { NULL };
    char reference_digest[WEIGHTS_DIGEST];
    Task task;
    if (!run_begin(run, line->config, line->set_count, line->sets, nothing, world, err) ||
        !read_task(run, &task, line, err) ||
        !error_agree(world, run->rank > 0 || frozen_refuse_foreign(&run->config, err), err) ||
        !run_open(run, task.split, task.model, run->config.eval.attack.type == ATTACK_NONE ? PASS_FORWARD : PASS_ATTACK,
                  err) ||
        !run_watch(run, err))
        return false;
    bool attack = run->config.eval.attack.type != ATTACK_NONE;
    run->life.interval = 0; /* an evaluation saves nothing before its end */
    if (run->pairs.count == 0)
        return error_usage(err, "%s has no pairs in /%s: prepare it with a larger --heldout", run->config.data.path,
                           task.split);
    const ObjectiveSettings *objective = &run->config.objective;
    bool segments = objective_of(objective)->segments;
    if (!run_refuse_data(run, &run->pairs, err)) return false;
    bool ok = evaluation_create(e, &run->pairs, segments, err) &&
              margin_create(&o->margins, &run->config.margin, objective, run->pairs.category_count, err) &&
              make_features(run, o, err) && (!attack || attacked_create(&o->attacked, run, segments, err));
    if (!error_agree(world, ok, err) || (*run->config.run.dir && !run_make_folder(run, NULL, err)) ||
        !error_agree(world, run->rank > 0 || file_check_target(task.out, err), err) ||
        !frozen_digest(run, FROZEN_REFERENCE, reference_digest, err) ||
        !frozen_logps(run, FROZEN_REFERENCE, &run->batcher, task.split, &e->reference, err) ||
        !frozen_logps(run, FROZEN_MODPO, &run->batcher, task.split, &e->second, err) ||
        !run_load_model(run, task.model, err))
        return false;
    bool same = strcmp(run->model_info.weights_digest, reference_digest) == 0;
    if (same) say_same_weights(run);
    bool known = same && !e->logps.features;
    for (int side = 0; known && side < PAIR_SIDES; side++) { /* its log-probs are known */
        memcpy(e->logps.whole[side], e->reference.whole[side], sizeof(double) * (size_t)run->pairs.count);
        if (segments)
            memcpy(e->logps.answer[side], e->reference.answer[side], sizeof(double) * (size_t)run->pairs.count);
    }
    if (!known && !log_probs(run, e, err)) return false;
    evaluation_measure(e, &run->pairs, objective, &o->margins);
    if (attack && !attacked_measure(&o->attacked, run, e, &o->margins, err)) return false;
    if (!report(run, o, task.model, task.split, task.out, err)) return false;
    log_info(&run->log, "results  %s", task.out);
    return true;
}

int command_eval(const CommandLine *line, MPI_Comm world)
{
    Error err = { 0 };
    Run run = { 0 };
    Outcome o = { 0 };
    int rank;
    CHECK_MPI(MPI_Comm_rank(world, &rank));
    log_open(&run.log, stderr, rank);
    if (!evaluate(&run, &o, line, world, &err)) log_error(&run.log, &err);
    margin_free(&o.margins);
    attacked_free(&o.attacked);
    memory_free(o.prompt);
    memory_free(o.evaluation.logps.features);
    evaluation_free(&o.evaluation);
    run_close(&run);
    return err.exit_status;
}
