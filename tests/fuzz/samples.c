/* samples.h5: a generation that was stopped half way, with a judge's scores; gone on from, finished and written again.
 */
#include "fuzz.h"

#include "catdpo/files/scores_file.h"
#include "catdpo/generate/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { P = 3, K = 2, VOCAB = 8, PROMPT_TOKENS = 9, SAMPLES = 2, KNOWN = 3 };

static char categories[K][CATEGORY_NAME] = { "violence", "privacy" };
static int64_t offsets[P + 1] = { 0, 3, 5, 9 }, rows[P] = { 0, 1, 2 };
static int32_t prompt_token[PROMPT_TOKENS] = { 1, 2, 3, 1, 2, 7, 6, 5, 4 };
static uint8_t mask[P * K] = { 1, 0, 0, 1, 1, 1 }, benign[P] = { 0, 1, 255 }, text[] = "whyhowwhere";
static int64_t text_offsets[P + 1] = { 0, 3, 6, 11 };
static const Prompts prompts = { .count = P,
                                 .category_count = K,
                                 .category_name = categories,
                                 .offsets = offsets,
                                 .tokens = prompt_token,
                                 .category_mask = mask,
                                 .benign = benign,
                                 .source_row = rows,
                                 .text_offsets = text_offsets,
                                 .text = text,
                                 .vocab_size = VOCAB,
                                 .longest = 4 };

/* A byte a token: one that is no UTF-8, a NUL, a special token, two by byte fallback. */
static int64_t byte_at[VOCAB + 1] = { 0, 1, 2, 3, 4, 5, 6, 7, 8 };
static uint8_t byte[VOCAB] = { 'a', 0xc3, 0, ' ', 'x', 0xc3, 0xa9, 'b' }, special[VOCAB] = { [4] = 1 },
               fallback[VOCAB] = { [5] = 1, [6] = 1 };
static const Vocabulary vocabulary = {
    .count = VOCAB, .offset = byte_at, .byte = byte, .special = special, .fallback = fallback, .strip = 1
};

static const Architecture tiny = { .name = "llama",
                                   .hidden = 4,
                                   .mlp = 4,
                                   .vocab = VOCAB,
                                   .layers = 1,
                                   .heads = 2,
                                   .groups = 1,
                                   .head_dim = 2,
                                   .max_positions = 4,
                                   .norm_epsilon = 1e-5,
                                   .tied = true,
                                   .rope = { .theta = 1e4 } };
static const GenerateLimits limits = { .samples = SAMPLES,
                                       .max_tokens = 2,
                                       .lanes = 2,
                                       .max_tokens_pass = 8,
                                       .logit_columns = 2,
                                       .stop_count = 1,
                                       .stop = { 7 } };
static const SampleSettings sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 };

static void start(Transformer *t, Generator *g)
{
    Error err = { 0 };
    const TransformerLimits sizes = generator_model_limits(&limits, 1, prompts.longest);
    fuzz_must(transformer_create(t, &tiny, fuzz_grid(), &sizes, NULL, &err), &err);
    for (int64_t i = 0; i < t->parameters.local_floats; i++) t->weights[i] = (float)(i % 7) / 8;
    fuzz_must(generator_create(g, &prompts, t, &sampling, &limits, &err), &err);
}

static void end(Transformer *t, Generator *g)
{
    generator_free(g);
    transformer_free(t);
}

/* ---- reading ---- */

/* Its own answers are all there, in their order, and the file that they make is whole. */
static void finish(Generator *g)
{
    Error err = { 0 };
    Gathered all;
    H5File f;
    Samples back;
    char path[FILE_PATH];
    fuzz_path(path, "whole.h5");
    while (generator_step(g, &err)) {}
    fuzz_verdict(err.exit_status == EXIT_DONE, &err);
    CHECK(g->finished == P * SAMPLES);
    fuzz_must(gather_answers(g, &vocabulary, &all, &err), &err);
    Samples *s = &all.samples;
    s->model = s->prompts = s->weights_digest = s->data_digest = s->tokenizer_digest = s->template_digest =
        s->settings = s->config = "x";
    unlink(path);
    fuzz_must(samples_write(path, NULL, s, MPI_COMM_SELF, &err), &err);
    fuzz_must(h5_open(&f, path, MPI_COMM_SELF, &err) && samples_read(&f, &back, &err), &err);
    CHECK(back.count == P * SAMPLES && back.count == back.total);
    samples_free(&back);
    h5_close(&f);
    gathered_free(&all);
}

/* What the program does with the file, beginning to end. */
static bool go_on(const char *path, Error *err)
{
    H5File f;
    Samples s = { 0 };
    Judges judges;
    bool ok = h5_open(&f, path, MPI_COMM_SELF, err) && samples_read(&f, &s, err);
    if (ok && !(ok = scores_check(&f, s.count, &judges, err))) samples_free(&s);
    h5_close(&f);
    if (!ok) return false;
    Transformer t;
    Generator g;
    start(&t, &g);
    ok = restore_answers(&g, &s, path, err);
    samples_free(&s);
    if (ok) finish(&g);
    end(&t, &g);
    return ok;
}

void samples_look(const char *path)
{
    Error err = { 0 };
    bool ok = go_on(path, &err);
    fuzz_verdict(ok, &err);
}

/* ---- a valid file ---- */

void samples_make(const char *path)
{
    enum { TOKENS = 4 };
    Error err = { 0 };
    H5File f;
    int32_t prompt[KNOWN] = { 0, 0, 1 }, sample[KNOWN] = { 0, 1, 0 }, token[TOKENS] = { 7, 1, 2, 3 };
    int64_t offset[KNOWN + 1] = { 0, 1, 2, 4 }, answers = KNOWN;
    uint8_t finish[KNOWN] = { FINISH_STOP, FINISH_CONTEXT, FINISH_LENGTH }, kind[KNOWN] = { 0, 1, 2 };
    float logp[TOKENS] = { -1, -2, -1, -2 }, entropy[TOKENS] = { 1, 1, 1, 1 }, score[KNOWN] = { 0, 1, NAN };
    int8_t verdict[KNOWN] = { 0, 1, -1 };
    Samples s = { .model = "m",
                  .prompts = "p",
                  .weights_digest = "w",
                  .data_digest = "d",
                  .tokenizer_digest = "t",
                  .template_digest = "c",
                  .settings = "s",
                  .config = "a = 1;\n",
                  .samples = SAMPLES,
                  .total = P * SAMPLES,
                  .category_name = categories,
                  .prompt_offset = offsets,
                  .prompt_token = prompt_token,
                  .prompt_row = rows,
                  .benign = benign,
                  .category_mask = mask,
                  .prompt = prompt,
                  .sample = sample,
                  .offset = offset,
                  .token = token,
                  .logp = logp,
                  .entropy = entropy,
                  .finish = finish };
    const int64_t lengths[] = { K, P, P + 1, PROMPT_TOKENS, KNOWN, KNOWN + 1, TOKENS };
    CHECK(samples_format.axes == sizeof lengths / sizeof *lengths);
    fuzz_must(h5_create(&f, path, NULL, MPI_COMM_SELF, &err) &&
                  h5_write_format(&f, samples_format.name, samples_format.version, &err) &&
                  fields_write(&f, &samples_format, &s, lengths, &err) &&
                  h5_write_array(&f, "/scores/rules/score", DATA_FLOAT32, 1, &answers, score, &err) &&
                  h5_write_array(&f, "/scores/rules/verdict", DATA_INT8, 1, &answers, verdict, &err) &&
                  h5_write_array(&f, "/scores/rules/kind", DATA_UINT8, 1, &answers, kind, &err) && h5_commit(&f, &err),
              &err);
    fuzz_must(go_on(path, &err), &err);
}
