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

bool frozen_is_needed(const Config *config, FrozenModel which)
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

/* The file that the log-probs of the group come from and go to; "": none. A run's own is in its directory. An
 * evaluation reads that if all is in it, and never changes it: it keeps what it computes beside it.
 */
static void cache_path(Run *run, const Frozen *frozen, const PairBatcher *batcher, const char *group,
                       const ReferenceKey *key, double *chosen, double *rejected, char path[FILE_PATH])
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
    bool whole = evaluation && !given &&
                 reference_cache_read(own, group, key, batcher->pairs->count, chosen, rejected, &done, run->world,
                                      &other) == REFERENCE_FOUND &&
                 done == batcher->pairs->count;
    if (evaluation && (given ? reference_cache_is_other(own, key, run->world) : !whole))
        reference_cache_beside(own, key, path);
    else
        memcpy(path, own, FILE_PATH);
}

bool frozen_logps(Run *run, FrozenModel which, PairBatcher *batcher, const char *group, double *chosen,
                  double *rejected, Error *err)
{
    const Config *config = &run->config;
    const Pairs *pairs = batcher->pairs;
    char cache[FILE_PATH], digest[WEIGHTS_DIGEST];
    const Frozen frozen = frozen_of(config, which);
    bool own = !*frozen.cache && run->writer; /* in the run directory */
    if (!frozen_is_needed(config, which)) {
        for (int64_t i = 0; i < pairs->count; i++) chosen[i] = rejected[i] = NAN;
        return true;
    }
    if (!frozen_digest(run, which, digest, err)) return false;
    ReferenceKey key = { pairs->data_digest, digest, run->model_info.tokenizer_digest, "dtype=float32" };
    cache_path(run, &frozen, batcher, group, &key, chosen, rejected, cache);
    int64_t done = 0;
    if (*cache && reference_cache_read(cache, group, &key, pairs->count, chosen, rejected, &done, run->world, err) ==
                      REFERENCE_REFUSED)
        return false;
    if (done > 0)
        log_info(&run->log, "%s log-probs of %s from %s%s", which == FROZEN_REFERENCE ? "reference" : "modpo   ", group,
                 cache, done < pairs->count ? ", as far as they go" : "");
    if (done < pairs->count &&
        (!error_agree(run->world, run->rank > 0 || !*cache || file_check_target(cache, err), err) ||
         !run_load_model(run, frozen.model, err)))
        return false;
    while (done < pairs->count) {
        Verdict verdict;
        if (!run_logps(run, batcher, frozen.title, chosen, rejected, &done, &verdict, err) ||
            (*cache && !reference_cache_write(cache, own ? writer_folder(run->writer) : NULL, group, &key, pairs->count,
                                              chosen, rejected, done, run->world, err)))
            return false;
        if (done < pairs->count && verdict.stop)
            return error_stopped(err, verdict.for_good,
                                 "stopped by %s: %lld of %lld pairs' %s log-probs are %s%s, start again%s to go on",
                                 verdict.why, (long long)done, (long long)pairs->count, frozen.title,
                                 *cache ? "in " : "done, and kept nowhere", cache, run->writer ? " with --resume" : "");
        lifecycle_saved(&run->life, 0);
    }
    return true;
}
