#include "catdpo/generate/run.h"

#include "catdpo/core/memory_limit.h"
#include "catdpo/files/foreign.h"
#include "catdpo/files/prompts_file.h"
#include "catdpo/files/vocabulary_file.h"
#include "catdpo/core/timer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* The prompts of the named group, or, of a file of prompts alone, those. */
static bool load_prompts(Generation *x, Run *run, Error *err)
{
    bool ours = run->rank > 0 || foreign_refuse(x->prompts_path, FOREIGN_PAIRS, err), there = true;
    if (!error_agree(run->world, ours, err)) return false;
    if (!x->group) {
        x->group = "prompts";
        if (!prompts_exist(x->prompts_path, x->group, &there, run->world, err)) return false;
        if (!there) x->group = run->config.data.heldout;
    }
    if (!prompts_load(&x->prompts, x->prompts_path, x->group, run->world, err)) return false;
    return x->prompts.count > 0 ||
           error_usage(err, "%s has no prompts in /%s: name another group with --split", x->prompts_path, x->group);
}

static bool load_vocabulary(Generation *x, Run *run, Error *err)
{
    H5File file;
    ModelInfo info;
    if (!model_file_open(&file, x->model_path, &info, run->world, err)) return false;
    bool ok = vocabulary_read(&file, &x->vocabulary, err);
    h5_close(&file);
    if (ok && x->vocabulary.count > 0 && x->vocabulary.count != info.architecture.vocab)
        return error_usage(err, "%s: the bytes of %lld tokens are stored, but the model has %d: import it again",
                           x->model_path, (long long)x->vocabulary.count, info.architecture.vocab);
    return ok;
}

static bool check_fit(const Generation *x, const Run *run, Error *err)
{
    const ModelInfo *info = &run->model_info;
    if (strcmp(x->prompts.tokenizer_digest, info->tokenizer_digest) != 0 ||
        x->prompts.vocab_size > info->architecture.vocab)
        return error_usage(err,
                           "%s was prepared with another tokenizer (%.12s...) than that of %s (%.12s...): prepare it "
                           "again with this model",
                           x->prompts_path, x->prompts.tokenizer_digest, x->model_path, info->tokenizer_digest);
    return true;
}

static void print_header(const Generation *x, Run *run)
{
    char data[CONFIG_TEXT + 160];
    snprintf(data, sizeof data, "prompts  %s: /%s, %lld prompts, %d categories, longest %lld tokens", x->prompts_path,
             x->group, (long long)x->prompts.count, x->prompts.category_count, (long long)x->prompts.longest);
    run_print_header(run, x->model_path, data);
    log_info(&run->log, "answers  %s; %d at once on a replica, %.0f MB of keys and values a rank", x->settings,
             x->limits.lanes,
             (double)x->generator.cache.columns * 8e-6 * run->model.architecture.layers * run->model.attention.groups *
                 run->model.attention.head_dim);
    if (x->vocabulary.count == 0)
        log_warn(&run->log,
                 "%s does not have the bytes of its tokens (an older version imported it), so %s will have "
                 "token ids and no texts: import it again",
                 x->model_path, x->out);
}

/* ---- samples.h5 -------------------------------------------------------------------------------------------------- */

/* Is the file that is there the beginning of what this generation would write? */
static bool check_same(const Generation *x, const Run *run, const Samples *s, Error *err)
{
    const struct {
        const char *what, *theirs, *ours;
    } parts[] = { { "weights", s->weights_digest, run->model_info.weights_digest },
                  { "prompts", s->data_digest, x->prompts.data_digest },
                  { "settings", s->settings, x->settings } };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strcmp(parts[i].theirs, parts[i].ours) != 0)
            return error_usage(err,
                               "%s holds answers of other %s (%.300s; now %.300s): name another file with --out, or "
                               "replace it with --overwrite",
                               x->out, parts[i].what, parts[i].theirs, parts[i].ours);
    bool same =
        s->prompt_count == x->prompts.count &&
        s->prompt_offset[s->prompt_count] == x->prompts.offsets[x->prompts.count] &&
        memcmp(s->prompt_offset, x->prompts.offsets, sizeof(int64_t) * (size_t)(x->prompts.count + 1)) == 0 &&
        memcmp(s->prompt_token, x->prompts.tokens, sizeof(int32_t) * (size_t)x->prompts.offsets[x->prompts.count]) == 0;
    return same || error_usage(err,
                               "%s holds answers to other prompts than /%s of %s: name another file with --out, or "
                               "replace it with --overwrite",
                               x->out, x->group, x->prompts_path);
}

static bool take_over(Generation *x, const Run *run, bool overwrite, Error *err)
{
    int there = run->rank == 0 && access(x->out, F_OK) == 0;
    CHECK_MPI(MPI_Bcast(&there, 1, MPI_INT, 0, run->world));
    if (!there || overwrite) return true;
    H5File file;
    Samples s;
    if (!h5_open(&file, x->out, run->world, err)) return false;
    bool ok = samples_read(&file, &s, err);
    h5_close(&file);
    if (!ok) return false;
    ok = check_same(x, run, &s, err) && restore_answers(&x->generator, &s, x->out, err);
    x->restored = s.count;
    samples_free(&s);
    return error_agree(run->world, ok, err);
}

static bool save(Generation *x, Run *run, Error *err)
{
    Gathered all = { 0 };
    double start = seconds_now();
    char *config = config_text(&run->config), prompts[FILE_PATH + 256];
    const Vocabulary *vocabulary = x->vocabulary.count > 0 ? &x->vocabulary : NULL;
    snprintf(prompts, sizeof prompts, "%s: /%s", x->prompts_path, x->group);
    bool ok = error_agree(run->world, config || error_fault(err, "out of memory for the settings"), err) &&
              gather_answers(&x->generator, vocabulary, &all, err);
    if (ok) {
        Samples *s = &all.samples;
        s->model = (char *)x->model_path;
        s->prompts = prompts;
        s->weights_digest = run->model_info.weights_digest;
        s->data_digest = x->prompts.data_digest;
        s->tokenizer_digest = x->prompts.tokenizer_digest;
        s->template_digest = x->prompts.template_digest;
        s->settings = x->settings;
        s->config = config;
        ok = samples_write(x->out, NULL, s, run->world, err);
    }
    gathered_free(&all);
    free(config);
    lifecycle_saved(&run->life, seconds_now() - start);
    return ok;
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

bool generation_open(Generation *x, Run *run, bool overwrite, Error *err)
{
    const Config *config = &run->config;
    if (!run_open_model(run, x->model_path, err) || !load_prompts(x, run, err) || !load_vocabulary(x, run, err))
        return false;
    const Architecture *a = &run->model_info.architecture;
    bool ok = check_fit(x, run, err) && generate_limits(config, &x->vocabulary, a->vocab, &x->limits, err);
    if (!error_agree(run->world, ok, err)) return false;
    generate_describe(config, &x->limits, x->settings);
    ok = generate_layout(&run->layout, config, a, &x->prompts, &x->limits, run->world, err);
    if (ok && (double)x->prompts.count * x->limits.samples > INT32_MAX)
        ok = error_usage(err, "%lld prompts with %d answers each are more than one file holds: lower generate.samples",
                         (long long)x->prompts.count, x->limits.samples);
    TransformerLimits limits = generator_model_limits(&x->limits, run->layout.columns, x->prompts.longest);
    if (!error_agree(run->world, ok, err) || !run_place_model(run, &limits, err)) return false;
    const SampleSettings sampling = generate_sampling(config);
    ok = generator_create(&x->generator, &x->prompts, &run->model, &sampling, &x->limits, err);
    if (!error_agree(run->world, ok, err) || !take_over(x, run, overwrite, err)) return false;
    print_header(x, run);
    return run_load_model(run, x->model_path, err);
}

/* Answers complete on all replicas. Collective over replica_comm. */
static int64_t count_finished(const Generation *x, const Run *run)
{
    int64_t finished = x->generator.finished;
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &finished, 1, MPI_INT64_T, MPI_SUM, run->grid.replica_comm));
    return finished;
}

/* seconds: of all passes and what lies between them. */
static void print_rates(const Generation *x, Run *run, double seconds)
{
    const Generator *g = &x->generator;
    double mine[] = { (double)g->prefilled, (double)g->decoded, g->prefill_seconds, g->decode_seconds }, all[4];
    CHECK_MPI(MPI_Allreduce(mine, all, 2, MPI_DOUBLE, MPI_SUM, run->grid.replica_comm));
    CHECK_MPI(MPI_Allreduce(mine + 2, all + 2, 2, MPI_DOUBLE, MPI_MAX, run->grid.replica_comm));
    double read = (double)run->model.weight_bytes * (double)g->decode_passes / (all[3] + 1e-9);
    log_info(&run->log,
             "rate     %.1f tokens/s in %.2f s: passes that read prompts %.2f s (%.0f tokens), %lld others %.2f s "
             "(weights read at %.1f GB/s a rank)",
             all[1] / seconds, seconds, all[2], all[0], (long long)g->decode_passes, all[3], 1e-9 * read);
}

bool generation_run(Generation *x, Run *run, Error *err)
{
    int64_t total = x->prompts.count * x->limits.samples, finished = count_finished(x, run);
    Progress progress;
    Verdict verdict = { 0 };
    double start = seconds_now();
    run->life.interval = run->config.checkpoint.minutes * 60;
    if (x->restored > 0)
        log_info(&run->log, "%lld of %lld answers are in %s already", (long long)finished, (long long)total, x->out);
    progress_begin(&progress, &run->log, (ProgressMode)run->config.run.progress, "generate", finished, total);
    bool ok = true;
    while (ok && finished < total && !verdict.stop) {
        Error broken = { 0 };
        timer_start(run->timer, PHASE_OTHER);
        generator_step(&x->generator, &broken);
        timer_stop(run->timer);
        if (broken.exit_status != EXIT_DONE) *err = broken;
        ok = lifecycle_agree(&run->life, broken.exit_status == EXIT_DONE, 0, &verdict, err);
        finished = count_finished(x, run);
        progress_update(&progress, finished,
                        &(ProgressFields){ .loss = NAN,
                                           .worst_rate = NAN,
                                           .tokens_per_second = (double)x->generator.decoded * run->grid.replicas /
                                                                (seconds_now() - start) });
        if (ok && verdict.checkpoint && finished < total) ok = save(x, run, err);
    }
    progress_end(&progress);
    double seconds = seconds_now() - start;
    if (!ok) return false;
    if (finished < total)
        return error_stopped(err, verdict.for_good,
                             "stopped by %s: %lld of %lld answers are in %s, start again to go on", verdict.why,
                             (long long)finished, (long long)total, x->out);
    if (x->restored < total && !save(x, run, err)) return false;
    if (x->restored < total) print_rates(x, run, seconds);
    return true;
}

void generation_close(Generation *x)
{
    generator_free(&x->generator);
    vocabulary_free(&x->vocabulary);
    prompts_free(&x->prompts);
}
