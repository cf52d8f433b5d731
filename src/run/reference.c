#include "catdpo/run/reference.h"

#include "catdpo/core/file.h"
#include "catdpo/files/foreign.h"
#include "catdpo/files/reference_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Where a frozen model is, and where its log-probs go. */
typedef struct Frozen {
    const char *model;
    const char *cache; /* as the settings say; "": a file of the run's own */
    const char *file;  /* its name in run.dir */
    const char *title; /* for progress and messages */
} Frozen;

static Frozen frozen_of(const Config *config, FrozenModel which)
{
    if (which == FROZEN_MODPO)
        return (Frozen){ config->objective.modpo_model, "", "modpo_model.h5", "objective.modpo_model" };
    return (Frozen){ *config->reference.model ? config->reference.model : config->model.path, config->reference.cache,
                     "reference.h5", "reference" };
}

/* Does the objective need it? Its log-probs are NaN otherwise. */
static bool frozen_is_needed(const Config *config, FrozenModel which)
{
    const Objective *objective = objective_of(&config->objective);
    return which == FROZEN_MODPO ? objective->second_model : !objective->no_reference;
}

bool frozen_refuse_foreign(const Config *config, Error *err)
{
    for (int which = FROZEN_REFERENCE; which <= FROZEN_MODPO; which++)
        if (frozen_is_needed(config, which) && !foreign_refuse(frozen_of(config, which).model, FOREIGN_MODEL, err))
            return false;
    return true;
}

bool frozen_digest(const Run *run, FrozenModel which, char digest[WEIGHTS_DIGEST], Error *err)
{
    H5File file;
    ModelInfo info;
    snprintf(digest, WEIGHTS_DIGEST, "none");
    if (!frozen_is_needed(&run->config, which)) return true;
    if (!model_file_open(&file, frozen_of(&run->config, which).model, &info, run->world, err)) return false;
    h5_close(&file);
    snprintf(digest, WEIGHTS_DIGEST, "%s", info.weights_digest);
    return true;
}

/* ---- the cache --------------------------------------------------------------------------------------------------- */

/* The log-probs of one set of pairs in a file: whole completions under `group`, second segments beside it. */
typedef struct Cached {
    char path[FILE_PATH]; /* "": none */
    char answer[256];     /* group of the second segments */
    const char *group;
    ReferenceKey key;
    int64_t count;
} Cached;

/* *done: how many pairs are known from the file. */
static ReferenceStatus read_cached(const Run *run, const Cached *c, const char *path, const PairLogps *logps,
                                   int64_t *done, Error *err)
{
    int64_t answers = 0;
    ReferenceStatus status = reference_cache_read(path, c->group, &c->key, c->count, logps->whole[0], logps->whole[1],
                                                  done, run->world, err);
    if (status != REFERENCE_FOUND || !logps->answer[0]) return status;
    status = reference_cache_read(path, c->answer, &c->key, c->count, logps->answer[0], logps->answer[1], &answers,
                                  run->world, err);
    if (status != REFERENCE_FOUND) answers = 0;
    *done = answers < *done ? answers : *done;
    return status;
}

static bool write_cached(const Run *run, const Cached *c, const char *folder, const PairLogps *logps, int64_t done,
                         Error *err)
{
    return !*c->path ||
           (reference_cache_write(c->path, folder, c->group, &c->key, c->count, logps->whole[0], logps->whole[1], done,
                                  run->world, err) &&
            (!logps->answer[0] || reference_cache_write(c->path, folder, c->answer, &c->key, c->count, logps->answer[0],
                                                        logps->answer[1], done, run->world, err)));
}

/* The file that the log-probs come from and go to. A run's own is in its directory. An evaluation reads that if all is
 * in it, and never changes it: it keeps what it computes beside it. */
static void choose_path(Run *run, const Frozen *frozen, Cached *c, const PairLogps *logps)
{
    const Config *config = &run->config;
    bool given = *frozen->cache;
    char own[FILE_PATH] = "";
    int64_t done = 0;
    Error other = { 0 };
    if (given)
        snprintf(own, sizeof own, "%s", frozen->cache);
    else if (*config->run.dir)
        run_path(run, frozen->file, own);
    bool evaluation = !run->writer && *own;
    bool whole =
        evaluation && !given && read_cached(run, c, own, logps, &done, &other) == REFERENCE_FOUND && done == c->count;
    if (evaluation && (given ? reference_cache_is_other(own, &c->key, run->world) : !whole))
        reference_cache_beside(own, &c->key, c->path);
    else
        memcpy(c->path, own, FILE_PATH);
}

static void fill_with_nan(const PairLogps *logps, int64_t count)
{
    for (int side = 0; side < PAIR_SIDES; side++)
        for (int64_t i = 0; i < count; i++) {
            logps->whole[side][i] = NAN;
            if (logps->answer[side]) logps->answer[side][i] = NAN;
        }
}

bool frozen_logps(Run *run, FrozenModel which, PairBatcher *batcher, const char *group, const PairLogps *logps,
                  Error *err)
{
    const Config *config = &run->config;
    const Pairs *pairs = batcher->pairs;
    char digest[WEIGHTS_DIGEST];
    const Frozen frozen = frozen_of(config, which);
    const char *folder = !*frozen.cache && run->writer ? writer_folder(run->writer) : NULL; /* in the run directory */
    if (!frozen_is_needed(config, which)) {
        fill_with_nan(logps, pairs->count);
        return true;
    }
    if (!frozen_digest(run, which, digest, err)) return false;
    Cached c = { .group = group,
                 .key = { pairs->data_digest, digest, run->model_info.tokenizer_digest, "dtype=float32" },
                 .count = pairs->count };
    snprintf(c.answer, sizeof c.answer, "%.200s_answer", group);
    choose_path(run, &frozen, &c, logps);
    int64_t done = 0;
    if (*c.path && read_cached(run, &c, c.path, logps, &done, err) == REFERENCE_REFUSED) return false;
    if (done > 0)
        log_info(&run->log, "%s log-probs of %s from %s%s", which == FROZEN_REFERENCE ? "reference" : "modpo   ", group,
                 c.path, done < pairs->count ? ", as far as they go" : "");
    if (done < pairs->count &&
        (!error_agree(run->world, run->rank > 0 || !*c.path || file_check_target(c.path, err), err) ||
         !run_load_model(run, frozen.model, err)))
        return false;
    while (done < pairs->count) {
        Verdict verdict;
        if (!run_logps(run, batcher, frozen.title, logps, &done, &verdict, err) ||
            !write_cached(run, &c, folder, logps, done, err))
            return false;
        if (done < pairs->count && verdict.stop)
            return error_stopped(err, verdict.for_good,
                                 "stopped by %s: %lld of %lld pairs' %s log-probs are %s%s, start again%s to go on",
                                 verdict.why, (long long)done, (long long)pairs->count, frozen.title,
                                 *c.path ? "in " : "done, and kept nowhere", c.path,
                                 run->writer ? " with --resume" : "");
        lifecycle_saved(&run->life, 0);
    }
    return true;
}
