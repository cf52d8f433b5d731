/* Promise: a text that is read in parts and then grows by a token at a time, from a cache, has the logits that it has
 * in one pass, up to rounding: on every grid, beside other texts that are read or grow, and when it continues a prompt
 * that another text has read. What is chosen by those logits (greedy decoding, one MAXLOC over the vocabulary) is what
 * the model finds most likely when it reads the whole text, with the same log-probs. */
#include "catdpo/core/phase.h"
#include "catdpo/core/rng.h"
#include "catdpo/files/model_file.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TEXTS = 5, LENGTH = 24, PROMPT = 9, CACHE = 2 * TEXTS * LENGTH };
static const char *const fixtures[] = { "tiny_llama", "tiny_llama3_tied", "tiny_qwen2", "tiny_qwen3", "tiny_gemma3" };
enum { FIXTURES = sizeof fixtures / sizeof *fixtures };

/* Two orders of the same sums in float: their errors as of a random walk over some hundred terms a logit depends on
 * in turn, relative to the largest logit. */
static const double TOLERANCE = 100 * FLT_EPSILON;

static void must(bool ok, const Error *err)
{
    if (!ok) print_error("%s\n", err->message);
    assert_true(ok);
}

typedef struct Text {
    int32_t token[LENGTH];
    int prompt, length;
    int done;      /* tokens that are in the cache */
    int from, own; /* columns of the cache for the prompt and for what follows */
    double logp;   /* of the tokens that were chosen */
} Text;

typedef struct Scene {
    Grid grid;
    H5File file;
    Transformer model;
    Timer *timer;
    Batcher batcher;
    KvCache cache;
    Text text[TEXTS];
    float *logits; /* [TEXTS][LENGTH][v] of the token at that place, by one pass */
    double top[TEXTS][LENGTH], lse[TEXTS][LENGTH];
    bool whole;         /* fill these; or compare with them */
    const Batch *batch; /* the pass under way */
    double worst, scale;
    int compared;
    int chosen[TEXTS];
} Scene;

/* ---- texts ------------------------------------------------------------------------------------------------------ */

/* Text t lies on process column t % C; the last one continues the prompt of the one before it there. */
static void make_texts(Scene *s, uint64_t seed)
{
    Rng rng = rng_stream(seed, 0);
    int vocab = s->model.architecture.vocab, like = TEXTS - 1 - s->grid.columns;
    for (int t = 0; t < TEXTS; t++) {
        Text *text = &s->text[t];
        *text = (Text){ .prompt = 2 + (int)rng_below(&rng, PROMPT), .from = t * LENGTH, .own = (TEXTS + t) * LENGTH };
        text->length = LENGTH - (int)rng_below(&rng, LENGTH / 2);
        for (int i = 0; i < LENGTH; i++) text->token[i] = (int32_t)rng_below(&rng, (uint64_t)vocab);
    }
    Text *last = &s->text[TEXTS - 1], *first = &s->text[like];
    last->prompt = first->prompt;
    last->from = first->from;
    memcpy(last->token, first->token, sizeof *last->token * (size_t)first->prompt);
}

static bool continues_other(const Scene *s, int t) { return t == TEXTS - 1 && s->grid.columns < TEXTS; }

/* The next `count` tokens, each to predict the one after it; what follows the last is not known. */
static Sequence next_tokens(const Text *t, int count, int column)
{
    int in_prompt = t->done < t->prompt ? t->done : t->prompt;
    return (Sequence){ .token = t->token,
                       .known = t->done + count,
                       .begin = t->done,
                       .end = t->done + count,
                       .predict = t->done + 1,
                       .predict_end = t->done + count + 1,
                       .column = column,
                       .cached = { { t->from, in_prompt }, { t->own, t->done - in_prompt } },
                       .keep = { t->done < t->prompt ? t->from + t->done : t->own + t->done - t->prompt, count } };
}

/* Tokens of the text that the next pass takes: some of the prompt, or one; 0: none. */
static int next_count(Scene *s, int t, Rng *rng)
{
    Text *text = &s->text[t];
    if (text->done >= text->length) return 0;
    if (text->done == 0 && continues_other(s, t)) {
        if (s->text[t - s->grid.columns].done < text->prompt) return 0;
        text->done = text->prompt; /* the other has read it */
    }
    return text->done < text->prompt ? 1 + (int)rng_below(rng, (uint64_t)(text->prompt - text->done)) : 1;
}

/* ---- passes ----------------------------------------------------------------------------------------------------- */

/* Which text's token a target is, and its place there. */
static int text_of(const Scene *s, const Target *target, int *place)
{
    const Batch *b = s->batch;
    for (int i = 0; i < b->segment_count; i++) {
        const Segment *segment = &b->segment[i];
        if (target->column < segment->start || target->column >= segment->start + segment->length) continue;
        *place = segment->position + target->column - segment->start + 1;
        return (int)b->group[target->sequence].id; /* a group is one sequence here */
    }
    fail_msg("the target's column %d is in no segment", target->column);
    return -1;
}

static void read_logits(void *context, const ChunkLogits *logits)
{
    Scene *s = context;
    int v = logits->vocab->local;
    for (int j = 0; j < logits->count; j++) {
        int place = 0, t = text_of(s, &logits->target[j], &place);
        if (place >= s->text[t].length) continue;
        const float *have = logits->logits + (int64_t)j * v;
        float *want = s->logits + ((int64_t)t * LENGTH + place) * v;
        if (s->whole) {
            memcpy(want, have, sizeof *want * (size_t)v);
            s->top[t][place] = logits->top[j];
            s->lse[t][place] = logits->lse[j];
            continue;
        }
        for (int r = 0; r < v; r++) {
            s->worst = fmax(s->worst, isfinite(have[r]) ? fabs((double)have[r] - want[r]) : INFINITY);
            s->scale = fmax(s->scale, fabs(want[r]));
        }
        s->worst = fmax(s->worst, fabs(logits->top[j] - s->top[t][place]));
        s->worst = fmax(s->worst, fabs(logits->lse[j] - s->lse[t][place]));
        s->compared++;
    }
}

static void run_pass(Scene *s, LogitsReader *read)
{
    batcher_plan_single(&s->batcher);
    s->batch = batcher_pass(&s->batcher, 0);
    transformer_forward(&s->model, s->batch, s->whole ? NULL : &s->cache, read, s);
}

/* All texts from their beginning, in one pass. */
static void read_whole(Scene *s, LogitsReader *read)
{
    s->whole = true;
    batcher_clear(&s->batcher);
    for (int t = 0; t < TEXTS; t++)
        batcher_add(&s->batcher, t,
                    &(Sequence){ .token = s->text[t].token,
                                 .known = s->text[t].length,
                                 .end = s->text[t].length,
                                 .predict = read ? 1 : s->text[t].prompt,
                                 .predict_end = s->text[t].length,
                                 .column = t % s->grid.columns },
                    1);
    run_pass(s, read);
    s->whole = false;
}

static void open_scene(Scene *s, const char *fixture, int rows, int columns)
{
    Error err = { 0 };
    char path[256], digest[WEIGHTS_DIGEST];
    ModelInfo info;
    snprintf(path, sizeof path, "%s/%s.h5", REFERENCE_DIR, fixture);
    *s = (Scene){ 0 };
    must(grid_create(&s->grid, MPI_COMM_WORLD, 1, rows, columns, &err), &err);
    must(model_file_open(&s->file, path, &info, MPI_COMM_WORLD, &err), &err);
    s->timer = timer_new(PHASES, phase_name);
    TransformerLimits limits = {
        .max_width = TEXTS * LENGTH, .max_chunk = TEXTS * LENGTH, .max_sequences = TEXTS, .longest = LENGTH
    };
    must(transformer_create(&s->model, &info.architecture, &s->grid, &limits, s->timer, &err), &err);
    must(model_load(&s->file, &s->model, digest, &err), &err);
    BatchLimits batch = { .columns = columns, .groups = TEXTS, .max_tokens = 1 << 20, .accumulation = 1 };
    batch.logit_columns = LENGTH; /* more than one chunk where texts are many */
    BatchSizes most = { TEXTS, TEXTS * LENGTH, TEXTS * LENGTH, TEXTS * LENGTH };
    must(batcher_create(&s->batcher, &s->grid, &batch, &most, &err), &err);
    must(kv_cache_create(&s->cache, info.architecture.layers, &s->model.attention, CACHE, &err), &err);
    s->logits = calloc((size_t)(TEXTS * LENGTH * s->model.head.vocab.local + 1), sizeof(float));
    assert_non_null(s->logits);
}

static void close_scene(Scene *s)
{
    free(s->logits);
    kv_cache_free(&s->cache);
    batcher_free(&s->batcher);
    transformer_free(&s->model);
    timer_free(s->timer);
    h5_close(&s->file);
    grid_free(&s->grid);
}

/* ---- the promises ----------------------------------------------------------------------------------------------- */

static void check_growth(const char *fixture, int rows, int columns)
{
    Scene s;
    open_scene(&s, fixture, rows, columns);
    make_texts(&s, 3);
    read_whole(&s, read_logits);
    Rng rng = rng_stream(4, 0);
    for (bool more = true; more;) {
        batcher_clear(&s.batcher);
        int count[TEXTS];
        more = false;
        for (int t = 0; t < TEXTS; t++) {
            count[t] = next_count(&s, t, &rng);
            Sequence next = next_tokens(&s.text[t], count[t], t % columns);
            if (count[t] > 0) batcher_add(&s.batcher, t, &next, 1);
            more = more || count[t] > 0;
        }
        if (more) run_pass(&s, read_logits);
        for (int t = 0; t < TEXTS; t++) s.text[t].done += count[t];
    }
    double most[2] = { s.worst, s.scale };
    MPI_Allreduce(MPI_IN_PLACE, most, 2, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    int compared = s.compared, expected = 0;
    MPI_Allreduce(MPI_IN_PLACE, &compared, 1, MPI_INT, MPI_SUM, s.grid.row_comm);
    for (int t = 0; t < TEXTS; t++) expected += s.text[t].length - 1 - (continues_other(&s, t) ? s.text[t].prompt : 0);
    assert_int_equal(compared, expected);
    if (!(most[0] <= TOLERANCE * most[1]))
        fail_msg("%s on %d x %d: logits from the cache are off by %g of %g", fixture, rows, columns, most[0], most[1]);
    close_scene(&s);
}

/* The largest logit of every target that is not known. */
static void choose(void *context, const ChunkLogits *logits)
{
    Scene *s = context;
    struct {
        double logit;
        int token;
    } best[TEXTS];
    int v = logits->vocab->local;
    for (int j = 0; j < logits->count; j++) {
        best[j].logit = -INFINITY;
        best[j].token = logits->vocab->length;
        for (int r = 0; r < v; r++)
            if (logits->logits[(int64_t)j * v + r] > best[j].logit) {
                best[j].logit = logits->logits[(int64_t)j * v + r];
                best[j].token = axis_global(logits->vocab, r);
            }
    }
    MPI_Allreduce(MPI_IN_PLACE, best, logits->count, MPI_DOUBLE_INT, MPI_MAXLOC, s->grid.column_comm);
    for (int j = 0; j < logits->count; j++) {
        int place = 0, t = text_of(s, &logits->target[j], &place);
        assert_int_equal(logits->target[j].token, -1);
        s->chosen[t] = best[j].token;
        s->text[t].logp += best[j].logit - logits->lse[j];
    }
}

static void check_greedy(const char *fixture, int rows, int columns)
{
    Scene s;
    open_scene(&s, fixture, rows, columns);
    make_texts(&s, 5);
    for (bool more = true; more;) {
        batcher_clear(&s.batcher);
        more = false;
        for (int t = 0; t < TEXTS; t++) {
            Text *text = &s.text[t];
            int known = text->done < text->prompt ? text->prompt : text->done + 1; /* the prompt in one pass */
            s.chosen[t] = -1;
            if (known >= text->length) continue;
            Sequence next = next_tokens(text, known - text->done, t % columns);
            next.predict = known;
            batcher_add(&s.batcher, t, &next, 1);
            text->done = known;
            more = true;
        }
        if (!more) break;
        run_pass(&s, choose);
        MPI_Allreduce(MPI_IN_PLACE, s.chosen, TEXTS, MPI_INT, MPI_MAX, s.grid.row_comm);
        for (int t = 0; t < TEXTS; t++)
            if (s.chosen[t] >= 0) s.text[t].token[s.text[t].done] = s.chosen[t];
    }
    read_whole(&s, NULL);
    for (int i = 0; i < TEXTS; i++) {
        const Text *text = &s.text[s.batch->group[i].id];
        const SequenceResult *result = &s.model.result[i];
        double logp = text->logp, tokens = text->length - text->prompt;
        MPI_Allreduce(MPI_IN_PLACE, &logp, 1, MPI_DOUBLE, MPI_MIN, s.grid.row_comm); /* others have 0 */
        if (!(fabs(logp - result->logp) <= TOLERANCE * (10 * tokens - logp)) || result->correct != tokens)
            fail_msg("%s on %d x %d: log-prob %.9g while it was written, %.9g when it is read; %g of %g tokens are the "
                     "most likely",
                     fixture, rows, columns, logp, result->logp, result->correct, tokens);
    }
    close_scene(&s);
}

static void on_all_grids(void (*check)(const char *fixture, int rows, int columns))
{
    int ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (int f = 0; f < FIXTURES; f++)
        for (int rows = 1; rows <= 3 && rows <= ranks; rows++)
            if (ranks % rows == 0 && ranks / rows <= 4) check(fixtures[f], rows, ranks / rows);
}

static void growing_texts_have_the_logits_of_one_pass(void **state)
{
    (void)state;
    on_all_grids(check_growth);
}

static void greedy_choice_is_the_most_likely(void **state)
{
    (void)state;
    on_all_grids(check_greedy);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(growing_texts_have_the_logits_of_one_pass),
        cmocka_unit_test(greedy_choice_is_the_most_likely),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}
