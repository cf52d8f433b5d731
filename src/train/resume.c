/* Going on from a checkpoint: which one, whether this run is the one that wrote it, and what it brings back. */
#include "catdpo/train/trainer.h"

#include "catdpo/core/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- candidates ------------------------------------------------------------------------------------------------- */

enum { MOST_CANDIDATES = 256 };

typedef struct Candidate {
    int64_t step; /* INT64_MAX: the file does not say, it is broken */
    char path[FILE_PATH];
} Candidate;

/* Step of a checkpoint; a file whose head cannot be read comes first, so that it is named. */
static int64_t step_of(const char *path)
{
    Checkpoint head;
    Error ignored = { 0 };
    if (!checkpoint_open(path, &head, MPI_COMM_NULL, &ignored)) return INT64_MAX;
    int64_t step = head.step;
    checkpoint_free(&head);
    return step;
}

static int newest_first(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;
    return x->step != y->step ? (x->step < y->step) - (x->step > y->step) : strcmp(y->path, x->path);
}

static bool is_checkpoint(const char *name)
{
    long long step;
    int length = 0;
    return strcmp(name, "final.h5") == 0 ||
           (sscanf(name, "step-%lld.h5%n", &step, &length) == 1 && length > 0 && !name[length]);
}

/* Rank 0: the checkpoints of run.dir. */
static bool list_folder(const Run *run, Candidate *list, int *count, Error *err)
{
    char folder[FILE_PATH];
    run_path(run, "checkpoints", folder);
    DIR *entries = opendir(folder);
    if (!entries) return errno == ENOENT || error_usage(err, "%s: cannot be read: %s", folder, strerror(errno));
    for (struct dirent *entry; (entry = readdir(entries)) && *count < MOST_CANDIDATES;) {
        Candidate *c = &list[*count];
        if (!is_checkpoint(entry->d_name) || snprintf(c->path, FILE_PATH, "%s/%s", folder, entry->d_name) >= FILE_PATH)
            continue;
        c->step = step_of(c->path);
        ++*count;
    }
    closedir(entries);
    qsort(list, (size_t)*count, sizeof *list, newest_first);
    return true;
}

/* The same on all ranks; owned by the caller, NULL on failure. */
static Candidate *list_candidates(const Run *run, const char *path, int *count, Error *err)
{
    Candidate *list = calloc(MOST_CANDIDATES, sizeof *list);
    *count = 0;
    bool ok = list || error_fault(err, "out of memory for the names of checkpoints");
    if (ok && run->rank == 0 && *path) {
        list[0].step = 0;
        ok = snprintf(list[0].path, FILE_PATH, "%s", path) < FILE_PATH ||
             error_usage(err, "%.200s...: the path is too long", path);
        *count = 1;
    } else if (ok && run->rank == 0)
        ok = list_folder(run, list, count, err);
    if (!error_agree(run->world, ok, err)) {
        free(list);
        return NULL;
    }
    CHECK_MPI(MPI_Bcast(count, 1, MPI_INT, 0, run->world));
    CHECK_MPI(MPI_Bcast(list, (int)(sizeof *list) * *count, MPI_BYTE, 0, run->world));
    return list;
}

/* ---- may this run go on from it? -------------------------------------------------------------------------------- */

static bool is_allowed(const char *allowed, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = allowed; at && *at; at += strcspn(at, ","), at += *at == ',')
        if (strcspn(at, ",") == length && strncmp(at, name, length) == 0) return true;
    return false;
}

static const char *const names[] = { "data",      "tokenizer", "template", "model", "objective",
                                     "optimizer", "schedule",  "batch",    "seed",  NULL };

static bool check_list(const char *allowed, Error *err)
{
    for (const char *at = allowed; at && *at; at += strcspn(at, ","), at += *at == ',') {
        bool known = false;
        for (int i = 0; names[i]; i++)
            known = known || (strcspn(at, ",") == strlen(names[i]) && strncmp(at, names[i], strlen(names[i])) == 0);
        if (!known)
            return error_usage(err,
                               "--allow: \"%.*s\" is none of data, tokenizer, template, model, objective, optimizer, "
                               "schedule, batch, seed",
                               (int)strcspn(at, ","), at);
    }
    return true;
}

static bool same_digest(const char *path, const char *name, const char *then, const char *now, const char *allowed,
                        Error *err)
{
    return strcmp(then, now) == 0 || is_allowed(allowed, name) ||
           error_usage(err,
                       "%s was written with another %s (%.12s...) than this run's (%.12s...): name the same again, "
                       "start a new run, or accept it "
                       "with --allow=%s",
                       path, name, then, now, name);
}

/* Settings that the checkpoint's future depends on. Layout, output and the like may change freely. */
static bool same_settings(const Config *now, const Checkpoint *head, const char *path, const char *allowed, Error *err)
{
    /* how answers are made is part of the margins that follow them */
    const char *answers = now->margin.source == SOURCE_GENERATED ? "generate." : NULL;
    const char *const keys[][5] = { { "objective.", "margin.", "adversary.", answers, NULL },
                                    { "optimizer.", NULL },
                                    { "schedule.", NULL },
                                    { "batch.", NULL },
                                    { "run.seed", NULL } };
    static const char *const free_keys[] = { "optimizer.shard",
                                             "optimizer.nonfinite",
                                             "optimizer.max_skipped",
                                             "batch.max_tokens",
                                             "batch.accumulation",
                                             "batch.share_prompt",
                                             "generate.slots",
                                             "generate.cache_mb",
                                             "margin.judge_command",
                                             "margin.judge_timeout",
                                             NULL };
    static const char *const group[] = { "objective", "optimizer", "schedule", "batch", "seed" };
    Config then;
    if (!config_load_text(&then, head->config, path, err)) return false;
    static const char *const lora[] = { "lora.", NULL }, *const start[] = { "lora.adapter", NULL };
    char text[512];
    if ((now->lora.rank > 0 || then.lora.rank > 0) && config_difference(now, &then, lora, start, text, sizeof text))
        return error_usage(err, "%s belongs to a run of other adapters: %s. Set it back, or start a new run", path,
                           text);
    for (int i = 0; i < 5; i++) {
        if (!is_allowed(allowed, group[i]) && config_difference(now, &then, keys[i], free_keys, text, sizeof text))
            return error_usage(err,
                               "%s belongs to a run with other settings: %s. Set it back, start a new run, or accept "
                               "it with --allow=%s",
                               path, text, group[i]);
    }
    return true;
}

static bool same_run(const Trainer *t, const Checkpoint *head, const char *path, const char *allowed, Error *err)
{
    const Pairs *pairs = &t->run.pairs;
    return (strcmp(head->reference_digest, t->reference_digest) == 0 ||
            error_usage(err,
                        "%s was trained against another frozen reference (%.12s...) than %s (%.12s...): name the model "
                        "that the run started with "
                        "as model.path or reference.model; a half-trained model is no reference",
                        path, head->reference_digest,
                        *t->run.config.reference.model ? t->run.config.reference.model : t->run.config.model.path,
                        t->reference_digest)) &&
           same_digest(path, "data", head->data_digest, pairs->data_digest, allowed, err) &&
           same_digest(path, "tokenizer", head->tokenizer_digest, pairs->tokenizer_digest, allowed, err) &&
           same_digest(path, "template", head->template_digest, pairs->template_digest, allowed, err) &&
           same_digest(path, "model", head->start_digest, t->start_digest, allowed, err) &&
           same_settings(&t->run.config, head, path, allowed, err);
}

bool resume_check(Trainer *t, const char *path, const char *allowed, Error *err)
{
    Run *run = &t->run;
    int count;
    if (!check_list(allowed, err) || !frozen_digest(run, FROZEN_REFERENCE, t->reference_digest, err)) return false;
    Candidate *list = list_candidates(run, path, &count, err);
    if (!list) return false;
    bool ok = true, found = false;
    for (int i = 0; ok && !found && i < count; i++) {
        Checkpoint head;
        Error broken = { 0 };
        found = checkpoint_open(list[i].path, &head, run->world, &broken);
        if (found) {
            ok = error_agree(run->world, same_run(t, &head, list[i].path, allowed, err), err);
            checkpoint_free(&head);
        } else if (*path)
            ok = error_usage(err, "%s", broken.message);
    }
    free(list);
    return ok;
}

/* ---- going on --------------------------------------------------------------------------------------------------- */

static bool load(Trainer *t, const char *path, Error *err)
{
    Run *run = &t->run;
    Checkpoint head;
    if (!checkpoint_open(path, &head, run->world, err)) return false;
    bool ok =
        weights_resume(t, path, err) && checkpoint_load(path, &run->model, &t->optimizer, &t->margins,
                                                        (const char(*)[CATEGORY_NAME])run->pairs.category_name, err);
    if (ok) {
        t->step = t->first_step = head.step;
        t->num_tokens = head.num_tokens;
        t->skipped = head.skipped;
        t->safe_probes = head.safe_probes;
        char layout[LAYOUT_TEXT];
        layout_text(&run->layout, layout);
        if (strcmp(layout, head.layout) != 0)
            log_info(&run->log,
                     "resume   on another layout (replicas x rows x columns: %s, before %s): the same pairs, counts "
                     "and margins; weights and "
                     "moments an epoch later within 2e-3 relative and 5e-5 absolute of the old layout's",
                     layout, head.layout);
    }
    checkpoint_free(&head);
    return ok;
}

/* Checkpoints of steps that this run will do again, or that are broken, must not be found once more. On rank 0. */
static bool set_aside(const Candidate *c, const char *as, Error *err)
{
    char path[FILE_PATH + 16];
    snprintf(path, sizeof path, "%s.%s", c->path, as);
    return rename(c->path, path) == 0 ||
           error_usage(err, "%s: cannot be renamed to %s: %s", c->path, path, strerror(errno));
}

/* The metrics of the run that the checkpoint lies in, where run.dir has none yet: a run may go on in another folder. On
 * rank 0. */
static bool fetch_metrics(const Run *run, const char *checkpoint, Error *err)
{
    char target[FILE_PATH], source[FILE_PATH + 32], unfinished[FILE_PATH];
    Error why = { 0 };
    run_path(run, "metrics.h5", target);
    if (access(target, F_OK) == 0) return true;
    const char *slash = strrchr(checkpoint, '/');
    snprintf(source, sizeof source, "%.*s../metrics.h5", slash ? (int)(slash + 1 - checkpoint) : 0, checkpoint);
    if (!file_temporary(target, writer_folder(run->writer), unfinished, sizeof unfinished, err)) return false;
    int in = open(source, O_RDONLY | O_CLOEXEC),
        out = in >= 0 ? open(unfinished, O_WRONLY | O_CREAT | O_CLOEXEC, 0666) : -1;
    bool ok = out >= 0 && file_copy(in, out);
    if (in >= 0) close(in);
    if (out >= 0 && close(out) != 0) ok = false;
    ok = ok && file_replace(unfinished, target, &why);
    return ok || error_usage(err,
                             "%s has no metrics.h5, and that of %s cannot be copied there: a run goes on with its "
                             "history, so put its metrics.h5 "
                             "into run.dir",
                             run->config.run.dir, checkpoint);
}

/* What the folder holds besides the checkpoint that was loaded. On rank 0. */
static bool tidy(const Trainer *t, const char *loaded, const Candidate *broken, int broken_count, Error *err)
{
    int count = 0;
    Candidate *list = calloc(MOST_CANDIDATES, sizeof *list);
    bool ok = list || error_fault(err, "out of memory for the names of checkpoints");
    for (int i = 0; ok && i < broken_count; i++) ok = set_aside(&broken[i], "broken", err);
    ok = ok && list_folder(&t->run, list, &count, err);
    for (int i = 0; ok && i < count; i++)
        if (list[i].step > t->step) ok = set_aside(&list[i], "abandoned", err);
    Candidate best;
    run_path(&t->run, "checkpoints/best.h5", best.path);
    if (ok && access(best.path, F_OK) == 0 && step_of(best.path) > t->step) ok = set_aside(&best, "abandoned", err);
    free(list);
    return ok && fetch_metrics(&t->run, loaded, err);
}

/* Violation rate of the worst held-out category in best.h5; infinite: there is no such file. */
static double best_so_far(const Run *run)
{
    char path[FILE_PATH];
    double best = INFINITY;
    Checkpoint head;
    Error ignored = { 0 };
    run_path(run, "checkpoints/best.h5", path);
    if (run->rank == 0 && access(path, F_OK) == 0 && checkpoint_open(path, &head, MPI_COMM_NULL, &ignored)) {
        best = head.heldout_worst >= 0 ? head.heldout_worst : INFINITY;
        checkpoint_free(&head);
    }
    CHECK_MPI(MPI_Bcast(&best, 1, MPI_DOUBLE, 0, run->world));
    return best;
}

bool resume_load(Trainer *t, const char *path, bool *found, Error *err)
{
    Run *run = &t->run;
    int count, broken = 0;
    *found = false;
    Candidate *list = list_candidates(run, path, &count, err);
    if (!list) return false;
    while (broken < count && !*found) {
        Error why = { 0 };
        *found = load(t, list[broken].path, &why);
        if (*found) break;
        if (*path || broken + 1 == count) {
            error_usage(err, "%s%s", why.message,
                        *path ? ""
                              : "; no other checkpoint is left: start a new run, or replace this one with --overwrite");
            break;
        }
        log_warn(&run->log, "%s; going on from the checkpoint before it", why.message);
        broken++;
    }
    bool ok = count == 0 || *found;
    if (*found) {
        ok = error_agree(run->world, run->rank > 0 || tidy(t, list[broken].path, list, broken, err), err);
        t->best = best_so_far(run);
        log_info(&run->log, "resume   %s, after step %lld of %lld", list[broken].path, (long long)t->step,
                 (long long)t->total_steps);
    }
    free(list);
    return ok;
}
