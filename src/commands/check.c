/* catdpo check: what files are, and whether they are whole. By one process, without MPI. */
#include "catdpo/files/checkpoint.h"
#include "catdpo/commands/cli.h"
#include "catdpo/files/eval_file.h"
#include "catdpo/files/samples_file.h"
#include "catdpo/files/scores_file.h"
#include "catdpo/core/log.h"
#include "catdpo/files/merge_file.h"
#include "catdpo/files/metrics.h"
#include "catdpo/files/pairs_file.h"
#include "catdpo/files/prompts_file.h"
#include "catdpo/files/reference_file.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SHOWN_FROM = 20000000 }; /* numbers of a file from which on progress is shown: about a second */

typedef struct Check {
    H5File file;
    Log log;
    Progress progress;
    int64_t done; /* numbers verified so far */
} Check;

/* ---- what is said ------------------------------------------------------------------------------------------------ */

static void say(const char *label, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(const char *label, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("  %-11s ", label);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
}

static void say_categories(int64_t count, const char name[][CATEGORY_NAME])
{
    enum { SHOWN = 8 };
    printf("  %-11s %lld:", "categories", (long long)count);
    for (int64_t k = 0; k < count && k < SHOWN; k++) printf("%s %s", k > 0 ? "," : "", name[k]);
    puts(count > SHOWN ? ", ..." : "");
}

static void count_numbers(void *context, int64_t numbers)
{
    Check *c = context;
    char note[64];
    c->done += numbers;
    snprintf(note, sizeof note, "of %.0f MB", (double)c->progress.total * 4);
    progress_update(&c->progress, c->done / 1000000, &(ProgressFields){ NAN, NAN, NULL, NAN, note });
}

/* ---- one kind of file each: everything in the open file is verified ---------------------------------------------- */

static bool check_tokenizer(H5File *file, int vocab, Error *err)
{
    TokenizerInfo t;
    Blobs templates;
    if (!tokenizer_verify(file, vocab, &t, err) || !templates_read(file, &templates, err)) return false;
    blobs_free(&templates);
    say("tokenizer", "%d members, %lld bytes, digest %.12s...", t.members, (long long)t.bytes,
        *t.digest ? t.digest : "none");
    return true;
}

static bool check_digest(const Check *c, const char *digest, const ModelInfo *info, Error *err)
{
    static const char words[] = "%s: its weights have the digest %s, the file says %s: damaged. Copy or import again";
    return strcmp(digest, info->weights_digest) == 0 ||
           error_usage(err, words, c->file.path, digest, info->weights_digest);
}

/* What an adapter is of, and whether its base is at hand: if so it has to be the right one. */
static bool check_base(const Check *c, const ModelInfo *info, Error *err)
{
    const AdapterInfo *adapter = &info->adapter;
    char modules[ADAPTER_TEXT], layers[ADAPTER_TEXT], path[FILE_PATH];
    H5File file;
    ModelInfo base;
    Error unheard = { 0 };
    say("adapter", "rank %d, alpha %g, %s; layers: %.200s", adapter->settings.rank, adapter->settings.alpha,
        adapters_modules_text(&adapter->settings, &info->architecture, modules),
        adapters_layers_text(&adapter->settings, &info->architecture, layers));
    if (!adapter_find_base(c->file.path, adapter, path, &unheard)) {
        say("base", "%s, weights %s: not here, and needed to use the adapter", adapter->base, adapter->base_digest);
        return true;
    }
    if (!model_file_open(&file, path, &base, MPI_COMM_NULL, err)) return false;
    h5_close(&file);
    say("base", "%s, weights %s", path, base.weights_digest);
    return strcmp(base.weights_digest, adapter->base_digest) == 0 ||
           error_usage(err,
                       "%s: its base %s has the weights digest %s, the adapter was trained on %s: put that model there",
                       c->file.path, path, base.weights_digest, adapter->base_digest);
}

/* Tensors of the model or its adapter and, in a checkpoint, of the moments. */
static bool check_tensors(Check *c, const ModelInfo *info, Error *err)
{
    const Grid alone = { .replicas = 1, .rows = 1, .columns = 1, .world = MPI_COMM_NULL, .comm = MPI_COMM_NULL };
    const Architecture *a = &info->architecture;
    bool adapter = info->adapter.settings.rank > 0;
    const char *const groups[] = { adapter ? "/adapter" : "/model", "/optimizer/m", "/optimizer/v" };
    int count = info->step < 0 ? 1 : 3;
    Parameters model;
    Adapters adapters;
    char digest[WEIGHTS_DIGEST];
    if (!parameters_layout(&model, a, &alone, err)) return false;
    if (!adapters_layout(&adapters, &info->adapter.settings, a, &model, &alone, err)) {
        parameters_free(&model);
        return false;
    }
    const Parameters *p = adapter ? &adapters.parameters : &model;
    say("model", "%s, %lld parameters, %d layers, hidden %d, %d heads (%d key/value), vocabulary %d", a->name,
        (long long)model.logical, a->layers, a->hidden, a->heads, a->groups, a->vocab);
    uint64_t *checksums = calloc((size_t)parts_count(p), sizeof *checksums);
    bool ok = checksums || error_fault(err, "out of memory for the checksums of %s", c->file.path);
    c->done = 0;
    bool shown = c->log.terminal >= 0 && count * p->logical > SHOWN_FROM;
    progress_begin(&c->progress, &c->log, shown ? PROGRESS_BAR : PROGRESS_OFF, "check", 0,
                   count * p->logical / 1000000);
    for (int i = 0; ok && i < count; i++) {
        ok = tensors_verify(&c->file, p, groups[i], i == 2, checksums, count_numbers, c, err);
        if (i == 0)
            ok = ok &&
                 (adapter ? adapter_digest(p, &info->adapter, checksums, digest, err)
                          : parts_digest(p, checksums, digest, err)) &&
                 check_digest(c, digest, info, err);
    }
    log_close(&c->log); /* wipes the bar */
    if (ok) say("weights", "%d tensors, digest %s", parts_count(p), digest);
    free(checksums);
    adapters_free(&adapters);
    parameters_free(&model);
    return ok && (!adapter || check_base(c, info, err));
}

/* The models that it is the average of, if it is one. */
static bool check_sources(Check *c, Error *err)
{
    MergeSources from;
    if (!merge_sources_read(&c->file, &from, err)) return false;
    for (int i = 0; i < from.count; i++)
        say(i == 0 ? "merged" : "", "%g of %s, weights %s", from.weight[i], from.model[i], from.digest[i]);
    return true;
}

static bool check_model(Check *c, Error *err)
{
    ModelInfo info;
    char path[FILE_PATH];
    memcpy(path, c->file.path, sizeof path);
    h5_close(&c->file);
    return model_file_open(&c->file, path, &info, MPI_COMM_NULL, err) && check_tensors(c, &info, err) &&
           check_sources(c, err) && check_tokenizer(&c->file, info.architecture.vocab, err);
}

static bool check_checkpoint(Check *c, Error *err)
{
    Checkpoint s;
    if (!checkpoint_read(&c->file, &s, err)) return false;
    say("step", "%lld of %lld, %lld tokens, catdpo %s", (long long)s.step, (long long)s.total_steps,
        (long long)s.num_tokens, s.version);
    say("made with", "data %.12s..., reference %s", s.data_digest, s.reference_digest);
    say_categories(s.category_count, s.category_name);
    double low = INFINITY, high = -INFINITY;
    for (int k = 0; k < s.category_count; k++) low = fmin(low, s.margin[k]), high = fmax(high, s.margin[k]);
    say("margins", "%.4f to %.4f", low, high);
    checkpoint_free(&s);
    return check_model(c, err);
}

static bool check_part(Check *c, const char *group, bool first, Error *err)
{
    Pairs pairs;
    if (!pairs_load(&pairs, c->file.path, group, MPI_COMM_NULL, err)) return false;
    if (first) {
        say("made with", "data %.12s..., tokenizer %.12s..., template %.12s...", pairs.data_digest,
            pairs.tokenizer_digest, pairs.template_digest);
        say_categories(pairs.category_count, (const char(*)[CATEGORY_NAME])pairs.category_name);
    }
    say(group, "%lld pairs, %lld tokens, longest sequence %lld", (long long)pairs.count,
        (long long)(pairs.side[PAIR_CHOSEN].token_count + pairs.side[PAIR_REJECTED].token_count),
        (long long)pairs.longest);
    pairs_free(&pairs);
    return true;
}

/* Prompts to generate from, where a group has them. */
static bool check_prompts(Check *c, const char *group, const char *name, Error *err)
{
    Prompts prompts;
    bool there;
    if (!prompts_exist(c->file.path, group, &there, MPI_COMM_NULL, err)) return false;
    if (!there) return true;
    if (!prompts_load(&prompts, c->file.path, group, MPI_COMM_NULL, err)) return false;
    int64_t harmful = 0;
    for (int64_t i = 0; i < prompts.count; i++) harmful += prompts.benign[i] == PROMPT_HARMFUL;
    say(name, "%lld prompts, %lld of them harmful, longest %lld tokens", (long long)prompts.count, (long long)harmful,
        (long long)prompts.longest);
    prompts_free(&prompts);
    return true;
}

static bool check_pairs(Check *c, Error *err)
{
    bool probe;
    Blobs templates;
    if (!templates_read(&c->file, &templates, err)) return false;
    blobs_free(&templates);
    return check_part(c, "train", true, err) && check_prompts(c, "train", "", err) &&
           check_part(c, "heldout", false, err) && check_prompts(c, "heldout", "", err) &&
           h5_exists(&c->file, "/probe", &probe, err) &&
           (!probe || (check_part(c, "probe", false, err) && check_prompts(c, "probe", "", err))) &&
           check_prompts(c, "prompts", "prompts only", err);
}

static bool check_metrics(Check *c, Error *err)
{
    MetricsSummary *s = malloc(sizeof *s);
    bool ok = (s || error_fault(err, "no memory left")) && metrics_check(&c->file, s, err);
    if (ok) {
        if (s->steps > 0)
            say("steps", "1 to %lld, up to %lld pairs a step", (long long)s->steps, (long long)s->pairs);
        else
            say("steps", "none yet");
        say("run", "grid %s, started %s, %lld restart%s, %lld ranks", s->grid, s->started, (long long)s->restarts,
            s->restarts == 1 ? "" : "s", (long long)s->ranks);
        say_categories(s->categories, (const char(*)[CATEGORY_NAME])s->name);
    }
    free(s);
    return ok;
}

static bool check_reference(Check *c, Error *err)
{
    static const char *const groups[] = { "train", "heldout", "probe", "mismatched", "train_answer", "heldout_answer" };
    char data[DIGEST_TEXT], weights[DIGEST_TEXT], tokenizer[DIGEST_TEXT], settings[256];
    if (!h5_read_string(&c->file, "/", "data_digest", data, sizeof data, err) ||
        !h5_read_string(&c->file, "/", "weights_digest", weights, sizeof weights, err) ||
        !h5_read_string(&c->file, "/", "tokenizer_digest", tokenizer, sizeof tokenizer, err) ||
        !h5_read_string(&c->file, "/", "settings", settings, sizeof settings, err))
        return false;
    say("made with", "data %.12s..., weights %s, %s", data, weights, settings);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        int64_t count;
        if (!reference_check(&c->file, groups[i], &count, err)) return false;
        if (count >= 0) say(groups[i], "%lld pairs", (long long)count);
    }
    return true;
}

static bool check_eval(Check *c, Error *err)
{
    EvalResult r;
    if (!eval_file_read(&c->file, &r, err)) return false;
    say("evaluated", "%s on %lld pairs of %s", r.model, (long long)r.pair_count, r.split);
    say("accuracy", "micro %.3f, worst %.3f", r.accuracy_summary.micro, r.accuracy_summary.worst);
    say("violations", "micro %.3f, worst %.3f", r.violation_rate_summary.micro, r.violation_rate_summary.worst);
    eval_file_free(&r);
    return true;
}

static bool check_samples(Check *c, Error *err)
{
    Samples s;
    Judges judges;
    if (!samples_read(&c->file, &s, err)) return false;
    bool ok = scores_check(&c->file, s.count, &judges, err);
    say("answers", "%lld of %lld, %lld to each of %lld prompts%s", (long long)s.count, (long long)s.total,
        (long long)s.samples, (long long)s.prompt_count, s.count < s.total ? ": not complete" : "");
    say("by", "%s, weights %s", s.model, s.weights_digest);
    say("settings", "%.300s", s.settings);
    for (int j = 0; ok && j < judges.count; j++)
        say(judges.name[j], "%lld of %lld judged answers are bad", (long long)judges.bad[j],
            (long long)judges.judged[j]);
    samples_free(&s);
    return ok;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static const struct Kind {
    const char *format;
    bool (*check)(Check *c, Error *err);
} kinds[] = {
    { CHECKPOINT_FORMAT, check_checkpoint }, { MODEL_FORMAT, check_model },           { "catdpo-pairs", check_pairs },
    { "catdpo-metrics", check_metrics },     { "catdpo-reference", check_reference }, { "catdpo-eval", check_eval },
    { SAMPLES_FORMAT, check_samples },
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static bool check_kind(Check *c, Error *err)
{
    char format[64] = "", creator[128] = "unknown", created[64] = "unknown";
    int64_t version;
    bool marked, named;
    if (!h5_has_attribute(&c->file, "/", "format", &marked, err)) return false;
    if (marked && !h5_read_string(&c->file, "/", "format", format, sizeof format, err)) return false;
    int kind = 0;
    while (kind < KINDS && strcmp(kinds[kind].format, format) != 0) kind++;
    if (kind == KINDS && marked)
        return error_usage(err, "%s: an HDF5 file of another program: its format is \"%s\"", c->file.path, format);
    if (kind == KINDS)
        return error_usage(err, "%s: an HDF5 file of another program: no root attribute \"format\"", c->file.path);
    if (!h5_read_int64(&c->file, "/", "format_version", 1, INT64_MAX, &version, err) ||
        !h5_has_attribute(&c->file, "/", "creator", &named, err) ||
        (named && !h5_read_string(&c->file, "/", "creator", creator, sizeof creator, err)) ||
        !h5_has_attribute(&c->file, "/", "created", &named, err) ||
        (named && !h5_read_string(&c->file, "/", "created", created, sizeof created, err)))
        return false;
    say("format", "%s, version %lld, by %s, %s", format, (long long)version, creator, created);
    if (!c->file.sealed)
        say("seal", "none: written by another program; attributes and small values cannot be verified");
    return kinds[kind].check(c, err);
}

static bool ends_in(const char *name, const char *end)
{
    size_t length = strlen(name), tail = strlen(end);
    return length >= tail && strcmp(name + length - tail, end) == 0;
}

/* Settings, as train would read them. */
static bool check_config(const char *path, Error *err)
{
    Config config;
    if (!config_load(&config, path, 0, NULL, err)) return false;
    say("settings", "the defaults but for");
    config_print_changes(&config, "    ", stdout);
    return true;
}

/* The faults of the file, whose name stands above them. */
static void say_bad(const char *path, const Error *err)
{
    size_t length = strlen(path);
    const char *label = "BAD: ";
    for (const char *line = err->message;; line++) {
        bool named = strncmp(line, path, length) == 0 && line[length] == ':',
             numbered = named && line[length + 1] != ' ';
        line += named ? length + 1 + (line[length + 1] == ' ') : 0;
        int end = (int)strcspn(line, "\n");
        printf("  %s%s%.*s\n", label, numbered ? "line " : "", end, line);
        label = "     ";
        line += end;
        if (!*line) break;
    }
}

static bool check_h5(const char *path, Error *err)
{
    Check c = { 0 };
    log_open(&c.log, stderr, 0);
    bool ok = h5_open(&c.file, path, MPI_COMM_NULL, err) && check_kind(&c, err);
    h5_close(&c.file);
    log_close(&c.log);
    return ok;
}

/* One block on stdout. True if the file is whole. */
static bool check_file(const char *path)
{
    Error err = { 0 };
    printf("%s\n", path);
    fflush(stdout);
    bool ok = ends_in(path, ".cfg") ? check_config(path, &err) : check_h5(path, &err);
    if (ok)
        puts("  ok");
    else
        say_bad(path, &err);
    fflush(stdout);
    return ok;
}

/* ---- run directories --------------------------------------------------------------------------------------------- */

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static int is_ours(const struct dirent *entry) { return entry->d_name[0] != '.' && ends_in(entry->d_name, ".h5"); }

/* The *.h5 of a directory, in order; *count grows by their number, *bad by those that are not whole. */
static bool check_directory(const char *directory, int *count, int *bad)
{
    struct dirent **entry;
    int found = scandir(directory, &entry, is_ours, by_name);
    if (found < 0) return false;
    for (int i = 0; i < found; i++) {
        char path[FILE_PATH + 512];
        snprintf(path, sizeof path, "%s/%s", directory, entry[i]->d_name);
        *bad += !check_file(path);
        free(entry[i]);
    }
    *count += found;
    free(entry);
    return true;
}

/* The files of a run directory. True if there are some and all are whole. */
static bool check_run(const char *directory)
{
    char checkpoints[FILE_PATH + 16];
    int count = 0, bad = 0;
    snprintf(checkpoints, sizeof checkpoints, "%.*s/checkpoints", FILE_PATH, directory);
    bool listed = check_directory(directory, &count, &bad);
    if (!listed)
        printf("%s\n  BAD: cannot list the directory: %s\n", directory, strerror(errno));
    else if (!check_directory(checkpoints, &count, &bad) && errno != ENOENT) {
        printf("%s\n  BAD: cannot list the directory: %s\n", checkpoints, strerror(errno));
        bad++;
    } else if (count == 0)
        printf("%s\n  BAD: holds no .h5 file, and no checkpoints/ with any: name a run directory or a file\n",
               directory);
    return listed && count > 0 && bad == 0;
}

int command_check(const CommandLine *line, MPI_Comm comm)
{
    CHECK(comm == MPI_COMM_NULL);
    bool whole = true;
    for (int i = 0; i < line->file_count; i++) {
        struct stat status;
        char path[FILE_PATH];
        snprintf(path, sizeof path, "%s", line->files[i]);
        size_t length = strlen(path);
        while (length > 1 && path[length - 1] == '/') path[--length] = '\0';
        bool directory = strlen(line->files[i]) < FILE_PATH && stat(path, &status) == 0 && S_ISDIR(status.st_mode);
        whole = (directory ? check_run(path) : check_file(line->files[i])) && whole;
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "catdpo: cannot write the answer: %s\n", strerror(errno));
        return EXIT_FAULT;
    }
    return whole ? EXIT_DONE : EXIT_USAGE;
}
