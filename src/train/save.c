/* Checkpoints of a run: when one is complete the metrics that it builds on are on the disk, so a resumed run finds
 * every step. */
#include "catdpo/train/trainer.h"

#include "catdpo/core/file.h"
#include "catdpo/core/thread.h"
#include "catdpo/objective/statistics.h"
#include "version.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the best by the held-out pairs ----------------------------------------------------------------------------- */

/* Violation rate of the worst category of the held-out pairs under today's weights and margins; NaN if the pass was
 * interrupted: then the next lifecycle_agree stops the run. */
static bool heldout_worst(Trainer *t, double *worst, Error *err)
{
    Run *run = &t->run;
    const Pairs *pairs = &run->heldout;
    Evaluation *e = &t->heldout;
    int64_t done = 0;
    while (done < pairs->count) {
        Verdict verdict;
        if (!run_logps(run, &run->heldout_batcher, "held-out", &e->logps, &done, &verdict, err)) return false;
        if (verdict.stop && done < pairs->count) return true;
    }
    evaluation_measure(e, pairs, &run->config.objective, &t->margins);
    Fairness f = fairness(e->violations, e->n, pairs->category_harm, pairs->category_count, WORST_IS_HIGHEST);
    *worst = f.worst;
    return true;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static bool write_checkpoint(Trainer *t, const char *path, double worst, Error *err)
{
    Run *run = &t->run;
    char *text = config_text(&run->config), layout[LAYOUT_TEXT];
    if (!error_agree(run->world, text || error_fault(err, "out of memory for the settings"), err)) {
        free(text);
        return false;
    }
    layout_text(&run->layout, layout);
    const Checkpoint about = {
        .layout = layout,
        .step = t->step,
        .total_steps = t->total_steps,
        .num_tokens = t->num_tokens,
        .seed = t->sampler.seed,
        .skipped = t->skipped,
        .safe_probes = t->safe_probes,
        .heldout_worst = isfinite(worst) ? worst : -1,
        .sampling = config_choice(&run->config, "batch.sampling"),
        .config = text,
        .version = CATDPO_VERSION,
        .data_digest = run->pairs.data_digest,
        .tokenizer_digest = run->pairs.tokenizer_digest,
        .template_digest = run->pairs.template_digest,
        .start_digest = t->start_digest,
        .reference_digest = t->reference_digest,
        .base_digest = t->base_digest,
        .category_name = (const char(*)[CATEGORY_NAME])run->pairs.category_name,
        .templates = &run->templates,
    };
    bool ok = checkpoint_write(path, writer_folder(run->writer), run->config.model.path, &run->model, &t->optimizer,
                               &t->margins, &about, err);
    free(text);
    return ok;
}

/* best.h5 is a second name of the same file, which outlives the first; where a file system has no such names, a second
 * file. */
static bool keep_as_best(Trainer *t, const char *path, double worst, Error *err)
{
    Run *run = &t->run;
    char best[FILE_PATH], unfinished[FILE_PATH + 16];
    Error ignored = { 0 };
    run_path(run, "checkpoints/best.h5", best);
    snprintf(unfinished, sizeof unfinished, "%s/best.h5.tmp", writer_folder(run->writer));
    bool linked = run->rank > 0 || (link(path, unfinished) == 0 && file_replace(unfinished, best, &ignored));
    return error_agree(run->world, linked, &ignored) || write_checkpoint(t, best, worst, err);
}

/* ---- the latest ones -------------------------------------------------------------------------------------------- */

static int64_t step_of(const char *name)
{
    long long step;
    int length = 0;
    return sscanf(name, "step-%lld.h5%n", &step, &length) == 1 && length > 0 && !name[length] ? step : -1;
}

static void *remove_file(void *path)
{
    unlink(path);
    free(path);
    return NULL;
}

/* Removing a large file takes seconds, in which the file system frees its blocks. So it is renamed at once and removed
 * by a thread. False if it cannot be removed. */
static bool remove_meanwhile(const Trainer *t, const char *path, int64_t step)
{
    char *doomed = malloc(FILE_PATH + 64);
    if (!doomed) return unlink(path) == 0;
    snprintf(doomed, FILE_PATH + 64, "%s/removed-%lld", writer_folder(t->run.writer), (long long)step);
    if (rename(path, doomed) != 0) {
        free(doomed);
        return false;
    }
    pthread_t thread;
    if (thread_start(&thread, remove_file, doomed) == 0)
        pthread_detach(thread);
    else
        remove_file(doomed);
    return true;
}

/* Of the checkpoints up to this step only the last `keep` stay. On rank 0; what cannot be removed does no harm. */
static void remove_old(const Trainer *t)
{
    char folder[FILE_PATH], path[FILE_PATH + 300];
    run_path(&t->run, "checkpoints", folder);
    for (;;) {
        int64_t count = 0, oldest = INT64_MAX;
        DIR *entries = opendir(folder);
        if (!entries) return;
        for (struct dirent *entry; (entry = readdir(entries));) {
            int64_t step = step_of(entry->d_name);
            if (step < 0 || step > t->step) continue;
            count++;
            if (step < oldest) {
                oldest = step;
                snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            }
        }
        closedir(entries);
        if (count <= t->run.config.checkpoint.keep || !remove_meanwhile(t, path, oldest)) return;
    }
}

bool save_clear(Trainer *t, Error *err)
{
    char folder[FILE_PATH], path[FILE_PATH + 300];
    run_path(&t->run, "checkpoints", folder);
    DIR *entries = opendir(folder);
    if (!entries) return errno == ENOENT || error_usage(err, "%s: cannot be read: %s", folder, strerror(errno));
    bool ok = true;
    for (struct dirent *entry; ok && (entry = readdir(entries));) {
        bool ours = step_of(entry->d_name) >= 0 || strcmp(entry->d_name, "final.h5") == 0 ||
                    strcmp(entry->d_name, "best.h5") == 0;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        ok = !ours || unlink(path) == 0 || error_usage(err, "%s: cannot be removed: %s", path, strerror(errno));
    }
    closedir(entries);
    return ok;
}

bool save(Trainer *t, bool final, Error *err)
{
    Run *run = &t->run;
    char path[FILE_PATH], name[64] = "checkpoints/final.h5";
    double start = seconds_now(), worst = NAN;
    if (!final) snprintf(name, sizeof name, "checkpoints/step-%08lld.h5", (long long)t->step);
    run_path(run, name, path);
    lifecycle_saved(&run->life, 0); /* what asked for this one is answered */
    timer_start(run->timer, PHASE_CHECKPOINT);
    bool ok = (!run->config.checkpoint.best || heldout_worst(t, &worst, err)) && metrics_flush(t->metrics, err) &&
              error_agree(run->world, !t->log || steplog_sync(t->log, err), err) &&
              write_checkpoint(t, path, worst, err);
    bool best = ok && worst < t->best;
    if (best) t->best = worst;
    ok = ok && (!best || keep_as_best(t, path, worst, err));
    timer_stop(run->timer);
    if (!ok) return false;
    if (run->rank == 0 && !final) remove_old(t);
    double seconds = seconds_now() - start;
    lifecycle_saved(&run->life, seconds);
    char measured[64] = "";
    if (isfinite(worst))
        snprintf(measured, sizeof measured, ", worst held-out category %.3f%s", worst, best ? " (best)" : "");
    log_info(&run->log, "checkpoint %s in %.1f s%s", path, seconds, measured);
    return true;
}
