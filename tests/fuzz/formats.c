/* Each format: a small valid file, and what the program does with one beside `catdpo check`. */
#include "fuzz.h"

#include "../common/sample_files.h"
#include "catdpo/files/checkpoint.h"
#include "catdpo/commands/cli.h"
#include "catdpo/files/eval_file.h"
#include "catdpo/files/metrics.h"
#include "catdpo/files/reference_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 3, K = 2, STEPS = 3 };

static const char categories[K][CATEGORY_NAME] = { "violence", "privacy" };
static const uint8_t harm[K] = { 1, 0 };

/* ---- models ---- */

static const Architecture tiny = { .name = "qwen3",
                                   .hidden = 4,
                                   .mlp = 4,
                                   .vocab = 8,
                                   .layers = 1,
                                   .heads = 2,
                                   .groups = 1,
                                   .head_dim = 2,
                                   .max_positions = 16,
                                   .norm_epsilon = 1e-5,
                                   .attention_bias = true,
                                   .qk_norm = true,
                                   .query_scalar = 2,
                                   .local_theta = 1e3,
                                   .window = 2,
                                   .layer_types = "s",
                                   .rope = { .type = ROPE_LLAMA3,
                                             .theta = 1e4,
                                             .factor = 2,
                                             .low_frequency_factor = 1,
                                             .high_frequency_factor = 4,
                                             .original_max_positions = 8 } };

static void fill(float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++) values[i] = (float)(i % 7) / 8;
}

static void make_model(const char *path)
{
    Error err = { 0 };
    Transformer t;
    H5File f;
    uint64_t checksums[64];
    const ModelInfo digests = { .tokenizer_digest = "t", .weights_digest = "w" };
    uint8_t bytes[4] = "{}\n";
    int64_t stop[1] = { 1 };
    Blobs tokenizer = { .count = 3,
                        .member = {
                            { .name = "tokenizer.json", .size = 3, .bytes = bytes },
                            { .name = "empty", .bytes = bytes },
                            { .name = "stop_tokens", .size = 1, .bytes = (uint8_t *)stop, .type = DATA_INT64 } } };
    fuzz_must(fuzz_transformer(&t, &tiny, &err), &err);
    CHECK(parts_count(&t.parameters) <= 64);
    fill(t.weights, t.parameters.local_floats);
    ShardedArray all = { t.weights, 0, t.parameters.local_floats };
    tensors_checksums(&t, &t.parameters, &all, checksums);
    fuzz_must(h5_create(&f, path, NULL, MPI_COMM_SELF, &err) && h5_write_format(&f, MODEL_FORMAT, 1, &err) &&
                  h5_create_group(&f, "/model", &err) && fields_write(&f, &model_format, &tiny, NULL, &err) &&
                  fields_write(&f, &model_digests, &digests, NULL, &err) &&
                  tensors_create(&f, &t.parameters, "/model", checksums, &err) &&
                  h5_write_blobs(&f, "/tokenizer", &tokenizer, &err) &&
                  tensors_write(&f, &t, &t.parameters, "/model", &all, &err) && h5_commit(&f, &err),
              &err);
    transformer_free(&t);
}

/* What a checkpoint takes over from the model that the run began with. */
static void copy_model(const char *path)
{
    Error err = { 0 };
    H5File from, to;
    char copy[FILE_PATH];
    if (h5_open(&from, path, MPI_COMM_SELF, &err)) {
        fuzz_must(h5_create(&to, fuzz_path(copy, "copy.h5"), NULL, MPI_COMM_SELF, &err) &&
                      h5_create_group(&to, "/model", &err),
                  &err);
        Blobs templates = { 0 };
        bool ok = h5_copy_attributes(&from, &to, "/model", &err) && h5_copy_group(&from, &to, "/tokenizer", &err) &&
                  templates_read(&from, &templates, &err) && h5_write_blobs(&to, "/templates", &templates, &err) &&
                  h5_commit(&to, &err);
        blobs_free(&templates);
        h5_close(&to);
        h5_close(&from);
        fuzz_verdict(ok, &err);
    }
}

static void read_model(const char *path)
{
    Error err = { 0 };
    H5File f;
    ModelInfo info;
    Transformer t;
    char digest[WEIGHTS_DIGEST];
    bool ok = model_file_open(&f, path, &info, MPI_COMM_SELF, &err);
    if (ok && (ok = fuzz_transformer(&t, &info.architecture, &err))) {
        ok = model_load(&f, &t, digest, &err);
        transformer_free(&t);
    }
    h5_close(&f);
    fuzz_verdict(ok, &err);
    if (ok) copy_model(path);
}

/* ---- checkpoints ---- */

typedef struct State {
    Transformer t;
    Optimizer optimizer;
    MarginState margins;
} State;

static void state_make(State *s)
{
    Error err = { 0 };
    Config config;
    const OptimizerSettings settings = { .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .shard = true };
    fuzz_must(fuzz_transformer(&s->t, &tiny, &err) &&
                  optimizer_create(&s->optimizer, &s->t.parameters, fuzz_grid(), &settings, &err) &&
                  config_load(&config, NULL, 0, NULL, &err) &&
                  margin_create(&s->margins, &config.margin, &config.objective, K, &err),
              &err);
}

static void state_free(State *s)
{
    margin_free(&s->margins);
    optimizer_free(&s->optimizer);
    transformer_free(&s->t);
}

static void make_checkpoint(const char *path)
{
    Error err = { 0 };
    State s;
    char model[FILE_PATH];
    make_model(fuzz_path(model, "model.h5"));
    state_make(&s);
    fill(s.t.weights, s.t.parameters.local_floats);
    fill(s.optimizer.v, s.optimizer.end - s.optimizer.first);
    uint8_t text[2] = "t";
    const Blobs templates = { .count = 1, .member = { { .name = "chat_template.jinja", .size = 1, .bytes = text } } };
    const Checkpoint about = { .step = STEPS,
                               .total_steps = 10,
                               .num_tokens = 100,
                               .seed = 1,
                               .sampling = "uniform",
                               .config = "a = 1;\n",
                               .version = "v",
                               .layout = "1x1x1",
                               .data_digest = "d",
                               .tokenizer_digest = "t",
                               .template_digest = "c",
                               .start_digest = "s",
                               .reference_digest = "r",
                               .category_name = categories,
                               .templates = &templates };
    fuzz_must(checkpoint_write(path, NULL, model, &s.t, &s.optimizer, &s.margins, &about, &err), &err);
    state_free(&s);
}

/* What was accepted can be gone on from: a step does not leave the numbers' range. */
static void go_on(State *s, const Checkpoint *head)
{
    static const int64_t counts[2 * K] = { 2, 2, 4, 4 };
    CHECK(head->step >= 0 && head->step < INT64_MAX && head->config);
    margin_update(&s->margins, counts, head->step + 1);
    for (int k = 0; k < K; k++)
        CHECK(isfinite(s->margins.margin[k]) && s->margins.violation_rate[k] >= 0 &&
              s->margins.violation_rate[k] <= 1 && s->margins.n[k] >= 0 && s->margins.violations[k] >= 0);
    float *gradient = calloc((size_t)s->t.parameters.local_floats, sizeof *gradient);
    CHECK(gradient);
    optimizer_update(&s->optimizer, s->t.weights, gradient, 1e-6, 0);
    free(gradient);
    CHECK(s->optimizer.updates >= 1);
}

static void read_checkpoint(const char *path)
{
    Error err = { 0 };
    Checkpoint head;
    State s;
    read_model(path);
    bool ok = checkpoint_open(path, &head, MPI_COMM_SELF, &err);
    fuzz_verdict(ok, &err);
    if (!ok) return;
    state_make(&s);
    ok = checkpoint_load(path, &s.t, &s.optimizer, &s.margins, categories, &err);
    fuzz_verdict(ok, &err);
    if (ok) go_on(&s, &head);
    state_free(&s);
    checkpoint_free(&head);
}

/* ---- pairs ---- */

/* A group with segments, one without and without pairs, and prompts. */
static void make_pairs(const char *path)
{
    Error err = { 0 };
    H5File f;
    int64_t offsets[N + 1] = { 0, 3, 5, 9 }, start[1] = { 0 };
    int32_t token[9] = { 1, 2, 3, 1, 2, 7, 6, 5, 4 }, prompts[N] = { 1, 1, 2 }, ends[2 * N] = { 1, 1, 0, 1, 2, 0 };
    uint8_t member[N * K] = { 1, 0, 0, 1, 1, 1 }, ones[N] = { 1, 1, 1 }, harms[K] = { 1, 0 };
    int8_t better[N] = { 1, 1, 1 };
    double weights[2 * N] = { 1, 1, 0.5, 1, 1, -1 };
    char names[K][CATEGORY_NAME] = { "violence", "privacy" };
    const PairSide side = { offsets, 9, token, prompts };
    const Pairs pairs = { .count = N,
                          .category_name = names,
                          .category_harm = harms,
                          .side = { side, side },
                          .category_mask = member,
                          .chosen_safe = ones,
                          .rejected_safe = ones,
                          .chosen_better = better,
                          .segment_end = ends,
                          .segment_weight = weights,
                          .vocab_size = 8,
                          .data_digest = "sha",
                          .tokenizer_digest = "sha",
                          .template_digest = "sha",
                          .settings = (char *)"{}" },
                none = { .side = { { .offsets = start }, { .offsets = start } } };
    const PairsShape shape = { N, K, { 9, 9 }, true }, empty = { 0, K, { 0, 0 }, false };
    const SampleShape prompt_shape = { K, N, 9, 9 };
    const Prompts asked = { .count = N,
                            .offsets = offsets,
                            .tokens = token,
                            .category_mask = member,
                            .benign = ones,
                            .source_file = prompts,
                            .source_row = offsets,
                            .text_offsets = offsets,
                            .text = (uint8_t *)(char[]){ "a prompt." } };
    fuzz_must(h5_create(&f, path, NULL, MPI_COMM_SELF, &err) &&
                  h5_write_format(&f, pairs_format.name, pairs_format.version, &err) &&
                  sample_pairs(&f, "train", true, &pairs, &shape, &err) &&
                  sample_pairs(&f, "heldout", false, &none, &empty, &err) &&
                  sample_prompts(&f, "prompts", false, &asked, &prompt_shape, &err) && h5_commit(&f, &err),
              &err);
}

/* Pairs that were accepted hold what pairs.h promises. */
static void use_pairs(const Pairs *pairs)
{
    CHECK(pairs->settings && pairs->category_count >= 1 && pairs->category_count <= CATEGORIES_MAX);
    for (int64_t i = 0; i < pairs->count; i++) {
        int members = 0;
        for (int k = 0; k < pairs->category_count; k++) members += pairs_categories(pairs, i)[k];
        CHECK(members >= 1 && members <= pairs->category_count && pairs->margin_applies[i] <= 1);
        for (int side = 0; side < PAIR_SIDES; side++) {
            CHECK(pairs_prompt(pairs, side, i) >= 1 && pairs_completion(pairs, side, i) >= 1 &&
                  pairs_length(pairs, side, i) <= pairs->longest);
            for (int t = 0; t < pairs_length(pairs, side, i); t++)
                CHECK(pairs_tokens(pairs, side, i)[t] >= 0 && pairs_tokens(pairs, side, i)[t] < pairs->vocab_size);
        }
    }
}

/* Prompts that were accepted hold what prompts.h promises. */
static void use_prompts(const Prompts *prompts)
{
    CHECK(prompts->category_count >= 1 && prompts->category_count <= CATEGORIES_MAX);
    for (int64_t i = 0; i < prompts->count; i++) {
        CHECK(prompts_length(prompts, i) >= 1 && prompts_length(prompts, i) <= prompts->longest);
        CHECK(memchr(prompts_categories(prompts, i), 1, (size_t)prompts->category_count));
        for (int t = 0; t < prompts_length(prompts, i); t++)
            CHECK(prompts_tokens(prompts, i)[t] >= 0 && prompts_tokens(prompts, i)[t] < prompts->vocab_size);
        for (int64_t b = prompts->text_offsets[i]; b < prompts->text_offsets[i + 1]; b++) CHECK(prompts->text[b]);
    }
}

static void read_pairs(const char *path)
{
    Error err = { 0 };
    Pairs pairs;
    Prompts prompts;
    bool known = prompts_load(&prompts, path, "prompts", MPI_COMM_SELF, &err);
    fuzz_verdict(known, &err);
    if (known) use_prompts(&prompts);
    prompts_free(&prompts);
    err = (Error){ 0 };
    bool ok = pairs_load(&pairs, path, "train", MPI_COMM_SELF, &err);
    fuzz_verdict(ok, &err);
    if (ok) use_pairs(&pairs);
    pairs_free(&pairs);
}

/* ---- reference cache ---- */

static const ReferenceKey key = { "d", "w", "t", "dtype=float32" };
static const double logps[2][N] = { { -1, -2, -3 }, { -4, -5, -6 } };

static void make_reference(const char *path)
{
    Error err = { 0 };
    unlink(path);
    fuzz_must(reference_cache_write(path, NULL, "train", &key, N, logps[0], logps[1], N, MPI_COMM_SELF, &err), &err);
}

/* Read, then the other group put beside it, then read again. */
static void read_reference(const char *path)
{
    for (int round = 0; round < 2; round++) {
        Error err = { 0 };
        double chosen[N], rejected[N];
        int64_t done = 0;
        ReferenceStatus status =
            reference_cache_read(path, "train", &key, N, chosen, rejected, &done, MPI_COMM_SELF, &err);
        fuzz_verdict(status != REFERENCE_REFUSED, &err);
        if (status == REFERENCE_REFUSED) return;
        if (status == REFERENCE_FOUND) CHECK(done >= 0 && done <= N);
        for (int i = 0; status == REFERENCE_FOUND && i < done; i++) CHECK(isfinite(chosen[i]) && isfinite(rejected[i]));
        bool ok = reference_cache_write(path, NULL, round == 0 ? "heldout" : "train", &key, N, logps[0], logps[1], N,
                                        MPI_COMM_SELF, &err);
        fuzz_verdict(ok, &err);
        if (!ok) return;
    }
}

/* ---- metrics ---- */

static const char *const phases[1] = { "forward" };

static MetricsInfo metrics_info(void)
{
    MetricsInfo info = sample_metrics(K, categories, harm, 2, 1, phases);
    info.capacity = STEPS;
    return info;
}

static void append(Metrics *m, int64_t step)
{
    static const double zeros[K] = { 0 };
    static const int64_t counts[K] = { 1, 2 };
    StepMetrics row = sample_step(step, zeros, counts);
    metrics_append(m, &row);
}

static void make_metrics(const char *path)
{
    Error err = { 0 };
    const MetricsInfo info = metrics_info();
    Metrics *m = metrics_create(path, &info, MPI_COMM_SELF, &err);
    fuzz_must(m != NULL, &err);
    for (int step = 1; step <= STEPS; step++) append(m, step);
    fuzz_must(metrics_flush(m, &err), &err);
    metrics_free(m);
}

/* Continued behind step 2 and written to; then what came out can be continued again. */
static void read_metrics(const char *path)
{
    const MetricsInfo info = metrics_info();
    for (int64_t step = STEPS - 1; step <= STEPS; step++) {
        Error err = { 0 };
        Metrics *m = metrics_resume(path, &info, step, MPI_COMM_SELF, &err);
        fuzz_verdict(m != NULL, &err);
        /* bytes that were spoilt by hand may only then trip HDF5 */
        if (!m) CHECK(step < STEPS || strstr(err.message, "(HDF5: "));
        if (!m) return;
        append(m, step + 1);
        bool ok = metrics_flush(m, &err);
        fuzz_verdict(ok, &err);
        metrics_free(m);
        if (!ok) return;
    }
}

/* ---- results of an evaluation ---- */

static void make_eval(const char *path)
{
    Error err = { 0 };
    static const double half[K] = { 0.5, 0.5 }, low[K] = { 0.25, 0.25 }, high[K] = { 0.75, 0.75 }, one[N] = { 1, 1, 1 };
    static const int64_t counts[K] = { 2, 2 }, index[N] = { 0, 1, 2 };
    const EvalSummary summary = { 0.5, 0.5, 0.5, 0, 0 };
    const EvalResult result = { .model = "m",
                                .weights_digest = "w",
                                .data_digest = "d",
                                .split = "heldout",
                                .signal = "reward",
                                .step = -1,
                                .beta = 0.1,
                                .category_count = K,
                                .category_name = categories,
                                .category_harm = harm,
                                .pairs = counts,
                                .accuracy = half,
                                .accuracy_low = low,
                                .accuracy_high = high,
                                .n = counts,
                                .violations = one,
                                .violation_rate = half,
                                .violation_rate_low = low,
                                .violation_rate_high = high,
                                .rewards_margins = half,
                                .accuracy_summary = summary,
                                .violation_rate_summary = summary,
                                .worst_category = "violence",
                                .pair_count = N,
                                .logps_chosen = logps[0],
                                .logps_rejected = logps[1],
                                .ref_logps_chosen = logps[0],
                                .ref_logps_rejected = logps[1],
                                .violation = one,
                                .index = index };
    fuzz_must(eval_file_write(path, &result, MPI_COMM_SELF, &err), &err);
}

/* Only catdpo check reads it. */
static void read_eval(const char *path) { (void)path; }

/* ---- all of them ---- */

void format_read(const FuzzFormat *format, const char *path)
{
    const char *files[] = { path };
    const CommandLine check = { .file_count = 1, .files = files };
    int status = command_check(&check, MPI_COMM_NULL);
    CHECK(status == EXIT_DONE || status == EXIT_USAGE);
    fuzz_all_closed();
    format->read(path);
}

const FuzzFormat formats[] = {
    { "model", make_model, read_model },       { "checkpoint", make_checkpoint, read_checkpoint },
    { "pairs", make_pairs, read_pairs },       { "reference", make_reference, read_reference },
    { "metrics", make_metrics, read_metrics }, { "eval", make_eval, read_eval },
    { "samples", samples_make, samples_look },
};
const int format_count = sizeof formats / sizeof *formats;

const FuzzFormat *format_named(const char *name)
{
    for (int i = 0; i < format_count; i++)
        if (strcmp(formats[i].name, name) == 0) return &formats[i];
    fatal(__FILE__, __LINE__, "no format is called \"%s\"", name);
}
