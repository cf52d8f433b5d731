/* Promise: whatever the groups, the grid and the limits, every token that is run attends to exactly the tokens of its
 * own text before it, at its position in it; every target is there once, on one replica and one process column; passes
 * and chunks keep their limits. Likewise when texts go on from a cache, prompts and growing texts side by side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/core/rng.h"
#include "catdpo/data/batch.h"

enum { GROUPS = 7, MEMBERS = 4, LENGTH = 40, COLUMNS = 3, REPLICAS = 3, CACHE = 10 * LENGTH };

static int below(Rng *rng, int n) { return (int)rng_below(rng, (uint64_t)n); }
static int at_most(int a, int b) { return a < b ? a : b; }

/* ---- what a batch says ------------------------------------------------------------------------------------------ */

static int collect(const int *from, int start, int count, int32_t *text, int n)
{
    for (int i = 0; i < count; i++) text[n++] = from[start + i];
    return n;
}

/* The tokens that the one in `column` of this process column attends to, itself last. Returns how many; checks its
 * position. */
static int attended(const Batch *b, const Grid *grid, const int *cache, int column, int32_t *text)
{
    const int *token = b->token + grid->column * b->width;
    for (const Segment *s = b->segment; s < b->segment + b->segment_count; s++) {
        if (column < s->start || column >= s->start + s->length) continue;
        int n = 0;
        for (int i = 0; i < CACHED_RANGES; i++) n = collect(cache, s->cached[i].start, s->cached[i].length, text, n);
        n = collect(token, s->prefix_start, s->prefix_length, text, n);
        assert_int_equal(n, s->position);
        return collect(token, s->start, column - s->start + 1, text, n);
    }
    fail_msg("column %d is in no segment", column);
    return 0;
}

static void check_columns(const Batch *b, const Grid *grid)
{
    const int *token = b->token + grid->column * b->width;
    int laid = 0;
    for (int i = 0; i < b->width; i++) assert_true((token[i] >= 0) == (i < b->used));
    for (int i = 0; i < b->segment_count; i++) {
        assert_int_equal(b->segment[i].start, laid);
        laid += b->segment[i].length;
    }
    assert_int_equal(laid, b->used);
}

/* ---- texts without a cache -------------------------------------------------------------------------------------- */

typedef struct Scene {
    int groups, members[GROUPS];
    Sequence sequence[GROUPS][MEMBERS];
    int32_t text[GROUPS][MEMBERS][LENGTH];
    int seen[GROUPS][MEMBERS][LENGTH]; /* how often a token was a target */
} Scene;

static void make_scene(Scene *s, Rng *rng, int columns)
{
    *s = (Scene){ .groups = 1 + below(rng, GROUPS) };
    for (int g = 0; g < s->groups; g++) {
        int shared = below(rng, LENGTH / 2), column = below(rng, 4) == 0 ? below(rng, columns) : -1;
        s->members[g] = 1 + below(rng, MEMBERS);
        for (int m = 0; m < s->members[g]; m++) {
            int known = shared + 2 + below(rng, LENGTH - shared - 1), prompt = 1 + below(rng, known - 1);
            for (int i = 0; i < known; i++) s->text[g][m][i] = i < shared ? 1000 * g + i : below(rng, 5);
            s->sequence[g][m] = (Sequence){ .token = s->text[g][m],
                                            .known = known,
                                            .end = known - 1,
                                            .predict = prompt,
                                            .predict_end = known,
                                            .column = column };
        }
    }
}

static BatchLimits random_limits(Rng *rng, int columns)
{
    return (BatchLimits){ .columns = columns,
                          .groups = GROUPS,
                          .max_tokens = 1 + below(rng, 3 * LENGTH),
                          .accumulation = 1 + below(rng, 3),
                          .logit_columns = 1 + below(rng, 2 * LENGTH),
                          .share_prompt = below(rng, 2) };
}

static const BatchSizes sizes = { .sequences = GROUPS * MEMBERS,
                                  .width = GROUPS * MEMBERS * LENGTH,
                                  .targets = GROUPS * MEMBERS * LENGTH,
                                  .chunk = GROUPS * MEMBERS * LENGTH };

static void check_targets(Scene *scene, const Batch *b, const Grid *grid)
{
    int32_t text[2 * LENGTH];
    for (int i = 0; i < b->group_count; i++)
        for (int j = 0; j < b->target_count; j++) {
            const Target *t = &b->target[j];
            int g = (int)b->group[i].id, m = t->sequence - b->group[i].sequence;
            if (t->sequence < b->group[i].sequence || t->sequence >= b->group[i + 1].sequence) continue;
            const Sequence *s = &scene->sequence[g][m];
            int n = attended(b, grid, NULL, t->column, text);
            assert_memory_equal(text, s->token, sizeof *text * (size_t)n);
            assert_int_equal(t->token, s->token[n]);
            assert_true(n >= s->predict && n < s->predict_end);
            assert_true(s->column < 0 || s->column == grid->column);
            scene->seen[g][m][n]++;
        }
}

static void check_limits(const Batch *b, const BatchLimits *limits, const Scene *scene)
{
    int largest = 0; /* targets of a group, which goes alone if they are too many */
    for (int i = 0; i < b->group_count; i++) {
        const Sequence *s = scene->sequence[b->group[i].id];
        int targets = 0;
        for (int m = 0; m < scene->members[b->group[i].id]; m++) targets += s[m].predict_end - s[m].predict;
        largest = targets > largest ? targets : largest;
    }
    assert_true(b->width <= limits->max_tokens || b->group_count == 1);
    for (int i = 0; i < b->chunk_count; i++) {
        const Chunk *c = &b->chunk[i];
        assert_true(c->width <= limits->logit_columns || c->width <= largest);
        assert_true(c[1].target - c->target <= c->width);
        for (int j = c->target; j < c[1].target; j++) {
            assert_true(b->target[j].sequence >= b->group[c->group].sequence);
            assert_true(b->target[j].sequence < b->group[c[1].group].sequence);
        }
    }
    for (int i = 0; i < b->group_count; i++) {
        assert_int_equal(b->group[i + 1].sequence - b->group[i].sequence, scene->members[b->group[i].id]);
        assert_int_equal(b->group[i].place, b->group[i].id); /* added in this order */
    }
}

static void every_target_sees_its_own_text(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 300; seed++) {
        Rng rng = rng_stream(seed, 0);
        Grid grid = { .replicas = 1 + below(&rng, REPLICAS), .rows = 1, .columns = 1 + below(&rng, COLUMNS) };
        BatchLimits limits = random_limits(&rng, grid.columns);
        Scene scene;
        make_scene(&scene, &rng, grid.columns);
        for (grid.replica = 0; grid.replica < grid.replicas; grid.replica++)
            for (grid.column = 0; grid.column < grid.columns; grid.column++) {
                Batcher b;
                Error err = { 0 };
                assert_true(batcher_create(&b, &grid, &limits, &sizes, &err));
                batcher_clear(&b);
                for (int g = 0; g < scene.groups; g++) batcher_add(&b, g, scene.sequence[g], scene.members[g]);
                batcher_plan(&b);
                for (int pass = 0; pass < b.passes; pass++) {
                    const Batch *batch = batcher_pass(&b, pass);
                    check_columns(batch, &grid);
                    check_targets(&scene, batch, &grid);
                    check_limits(batch, &limits, &scene);
                }
                batcher_free(&b);
            }
        for (int g = 0; g < scene.groups; g++)
            for (int m = 0; m < scene.members[g]; m++)
                for (int t = 0; t < LENGTH; t++) {
                    const Sequence *s = &scene.sequence[g][m];
                    assert_int_equal(scene.seen[g][m][t], t >= s->predict && t < s->predict_end);
                }
    }
}

static void common_prompt_is_run_once(void **state)
{
    (void)state;
    static const int32_t text[3][6] = { { 1, 2, 3, 4, 5, 6 }, { 1, 2, 3, 7, 8, 9 }, { 1, 2, 3, 4, 5, 0 } };
    Grid grid = { .replicas = 1, .rows = 1, .columns = 1 };
    BatchLimits limits = { 1, GROUPS, 1000, 1, 1000, true, 1 };
    Sequence s[3];
    for (int i = 0; i < 3; i++)
        s[i] = (Sequence){ text[i], .known = 6, .end = 5, .predict = 4, .predict_end = 6, .column = -1 };
    for (int kept = 0; kept < 2; kept++) {
        Batcher b;
        Error err = { 0 };
        s[2].keep.length = kept ? 5 : 0; /* what one sequence keeps in the cache is its own */
        assert_true(batcher_create(&b, &grid, &limits, &sizes, &err));
        batcher_clear(&b);
        batcher_add(&b, 5, s, 3);
        batcher_plan(&b);
        assert_int_equal(batcher_pass(&b, 0)->used, kept ? 3 * 5 : 3 + 3 * 2);
        batcher_free(&b);
    }
}

/* ---- texts that go on from a cache ------------------------------------------------------------------------------ */

enum { TEXTS = 5 };

/* Texts beyond the first of each process column continue the prompt of an earlier one, from where it lies. */
typedef struct Text {
    int32_t token[LENGTH];
    int length;
    int prompt; /* tokens at `from`, which others may share */
    int from, own;
    int done;
} Text;

/* The next tokens of a text: what is cached of it, where the new ones go, and what follows the last. */
static Sequence next_tokens(const Text *t, int count, int column)
{
    int in_prompt = at_most(t->done, t->prompt);
    bool last = t->done + count == t->length;
    return (Sequence){ .token = t->token,
                       .known = t->done + count,
                       .begin = t->done,
                       .end = t->done + count,
                       .predict = t->done + count,
                       .predict_end = t->done + count + last,
                       .column = column,
                       .cached = { { t->from, in_prompt }, { t->own, t->done - in_prompt } },
                       .keep = { t->done < t->prompt ? t->from + t->done : t->own + t->done - t->prompt, count } };
}

/* Every column of the pass, by what is in the cache; then the cache as the pass leaves it. */
static void check_growth(const Batch *b, const Grid *grid, int *cache, const Text *text)
{
    int32_t seen[2 * LENGTH];
    check_columns(b, grid);
    for (int i = 0; i < b->segment_count; i++) {
        const Segment *s = &b->segment[i];
        int n = attended(b, grid, cache, s->start + s->length - 1, seen), of = -1;
        for (int t = 0; t < TEXTS; t++)
            if (t % grid->columns == grid->column && n <= text[t].length &&
                memcmp(seen, text[t].token, sizeof *seen * (size_t)n) == 0)
                of = t;
        assert_true(of >= 0);
        for (int j = 0; j < b->target_count; j++)
            if (b->target[j].column == s->start + s->length - 1) {
                assert_int_equal(b->target[j].token, -1);
                assert_int_equal(n, text[of].length);
            }
    }
    const int *token = b->token + grid->column * b->width;
    for (int i = 0; i < b->segment_count; i++)
        for (int j = 0; j < b->segment[i].length; j++)
            cache[b->segment[i].keep.start + j] = token[b->segment[i].start + j];
}

/* A text's next step: a part of its prompt, or one token. */
static int step_of(const Text *t, Rng *rng)
{
    if (t->done >= t->length) return 0;
    return t->done < t->prompt ? 1 + below(rng, t->prompt - t->done) : 1;
}

static void make_texts(Text text[TEXTS], int columns, Rng *rng)
{
    for (int t = 0; t < TEXTS; t++) {
        int like = t < columns ? t : t - columns;
        text[t] = (Text){ .length = LENGTH / 2 + below(rng, LENGTH / 2),
                          .prompt = t < columns ? 1 + below(rng, LENGTH / 2 - 1) : text[like].prompt,
                          .from = t < columns ? t * LENGTH / 2 : text[like].from,
                          .own = (TEXTS + t) * LENGTH };
        for (int i = 0; i < text[t].length; i++)
            text[t].token[i] = t >= columns && i < text[t].prompt ? text[like].token[i] : 100 * t + i;
    }
}

/* Tokens that each text takes in the next pass. False: all are done. */
static bool make_steps(Text text[TEXTS], int columns, Rng *rng, int step[TEXTS])
{
    bool more = false;
    for (int t = 0; t < TEXTS; t++) {
        bool waits = t >= columns && text[t].done == 0 && text[t - columns].done < text[t].prompt;
        if (t >= columns && text[t].done == 0 && !waits) text[t].done = text[t].prompt; /* read by the other */
        step[t] = waits ? 0 : step_of(&text[t], rng);
        more = more || step[t] > 0;
    }
    return more;
}

static void check_growing_texts(uint64_t seed, int columns)
{
    Rng rng = rng_stream(seed, 1);
    Text text[TEXTS];
    Batcher b[COLUMNS];
    Grid grid[COLUMNS];
    int cache[COLUMNS][CACHE], step[TEXTS];
    BatchLimits limits = { columns, GROUPS, 1000, 1, 1000, true, 1 };
    make_texts(text, columns, &rng);
    for (int c = 0; c < columns; c++) {
        Error err = { 0 };
        grid[c] = (Grid){ .replicas = 1, .rows = 1, .columns = columns, .column = c };
        memset(cache[c], -1, sizeof cache[c]);
        assert_true(batcher_create(&b[c], &grid[c], &limits, &sizes, &err));
    }
    while (make_steps(text, columns, &rng, step)) {
        for (int c = 0; c < columns; c++) {
            batcher_clear(&b[c]);
            for (int t = 0; t < TEXTS; t++) {
                Sequence next = next_tokens(&text[t], step[t], t % columns);
                if (step[t] > 0) batcher_add(&b[c], t, &next, 1);
            }
            batcher_plan_single(&b[c]);
            assert_int_equal(b[c].passes, 1);
            check_growth(batcher_pass(&b[c], 0), &grid[c], cache[c], text);
        }
        for (int t = 0; t < TEXTS; t++) text[t].done += step[t];
    }
    for (int t = 0; t < TEXTS; t++) assert_int_equal(text[t].done, text[t].length);
    for (int c = 0; c < columns; c++) batcher_free(&b[c]);
}

static void texts_grow_from_the_cache(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++)
        for (int columns = 1; columns <= COLUMNS; columns++) check_growing_texts(seed, columns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_target_sees_its_own_text),
        cmocka_unit_test(common_prompt_is_run_once),
        cmocka_unit_test(texts_grow_from_the_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
