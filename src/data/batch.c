#include "catdpo/data/batch.h"

#include <stdlib.h>
#include <string.h>

/* A pair of the step with what it costs and where it goes. */
typedef struct PlannedPair {
    int64_t pair;
    int slot;
    int shared;           /* tokens of the prompt that are run once */
    int rest[PAIR_SIDES]; /* tokens of each sequence that are run after them */
    int pass;
    int column[PAIR_SIDES]; /* equal, or the prompt is not shared */
} PlannedPair;

static int cost(const PlannedPair *p) { return p->shared + p->rest[PAIR_CHOSEN] + p->rest[PAIR_REJECTED]; }
static int cost_alone(const PlannedPair *p, int side) { return p->shared + p->rest[side]; }

static void measure(const Batcher *b, int64_t pair, int slot, PlannedPair *p)
{
    const Pairs *pairs = b->pairs;
    *p = (PlannedPair){ .pair = pair, .slot = slot };
    if (b->limits.share_prompt) {
        const int32_t *chosen = pairs_tokens(pairs, PAIR_CHOSEN, pair),
                      *rejected = pairs_tokens(pairs, PAIR_REJECTED, pair);
        int a = pairs_prompt(pairs, PAIR_CHOSEN, pair), c = pairs_prompt(pairs, PAIR_REJECTED, pair),
            limit = a < c ? a : c;
        while (p->shared < limit && chosen[p->shared] == rejected[p->shared]) p->shared++;
    }
    for (int side = 0; side < PAIR_SIDES; side++) p->rest[side] = pairs_length(pairs, side, pair) - 1 - p->shared;
}

static int longest_first(const void *x, const void *y)
{
    const PlannedPair *a = x, *b = y;
    return cost(a) != cost(b) ? cost(b) - cost(a) : a->slot - b->slot;
}

static int by_pass(const void *x, const void *y)
{
    const PlannedPair *a = x, *b = y;
    return a->pass != b->pass ? a->pass - b->pass : a->slot - b->slot;
}

static int least(const int *load, int count)
{
    int best = 0;
    for (int i = 1; i < count; i++)
        if (load[i] < load[best]) best = i;
    return best;
}

static int most(const int *load, int count)
{
    int largest = 0;
    for (int i = 0; i < count; i++) largest = load[i] > largest ? load[i] : largest;
    return largest;
}

/* Columns for the pairs [0, count) of one pass, given longest first. Whole pairs share their prompt; split pairs
 * balance better: the shorter result wins. Returns its width. load: 2 C ints. */
static int assign_columns(PlannedPair *p, int count, int columns, int *load)
{
    int *split = load + columns;
    memset(load, 0, sizeof(int) * 2 * (size_t)columns);
    for (int i = 0; i < count; i++) {
        p[i].column[0] = p[i].column[1] = least(load, columns);
        load[p[i].column[0]] += cost(&p[i]);
        for (int side = 0; side < PAIR_SIDES; side++) split[least(split, columns)] += cost_alone(&p[i], side);
    }
    int whole_width = most(load, columns), split_width = most(split, columns);
    if (whole_width <= split_width) return whole_width;
    memset(load, 0, sizeof(int) * (size_t)columns);
    for (int i = 0; i < count; i++)
        for (int side = 0; side < PAIR_SIDES; side++) {
            p[i].column[side] = least(load, columns);
            load[p[i].column[side]] += cost_alone(&p[i], side);
        }
    return split_width;
}

/* Deal the pairs [0, count), given longest first, into `passes` passes of nearly equal length. load: passes ints. */
static void assign_passes(PlannedPair *p, int count, int passes, int *load)
{
    memset(load, 0, sizeof(int) * (size_t)passes);
    for (int i = 0; i < count; i++) {
        p[i].pass = least(load, passes);
        load[p[i].pass] += cost(&p[i]);
    }
}

/* Every pass within the token budget, or of one pair? scratch: as for assign_columns. */
static bool passes_fit(const Batcher *b, PlannedPair *p, int count, int *scratch)
{
    qsort(p, (size_t)count, sizeof *p, by_pass);
    for (int first = 0, end; first < count; first = end) {
        for (end = first; end < count && p[end].pass == p[first].pass; end++)
            ;
        qsort(p + first, (size_t)(end - first), sizeof *p, longest_first);
        if (assign_columns(p + first, end - first, b->limits.columns, scratch) > b->limits.max_tokens &&
            end - first > 1)
            return false;
    }
    return true;
}

void batcher_plan(Batcher *b, const int64_t *pairs, int count)
{
    CHECK(count <= b->limits.pairs);
    int replicas = b->grid->replicas, kept = 0;
    for (int i = 0; i < count; i++) measure(b, pairs[i], i, &b->plan[i]);
    qsort(b->plan, (size_t)count, sizeof *b->plan, longest_first);
    assign_passes(b->plan, count, replicas, b->scratch); /* replicas first, by the same rule */
    for (int i = 0; i < count; i++)
        if (b->plan[i].pass == b->grid->replica) b->plan[kept++] = b->plan[i];
    b->plan_count = kept;

    int passes = b->limits.accumulation < kept ? b->limits.accumulation : kept;
    for (;; passes++) {
        qsort(b->plan, (size_t)kept, sizeof *b->plan, longest_first);
        assign_passes(b->plan, kept, passes, b->scratch);
        if (passes_fit(b, b->plan, kept, b->scratch)) break;
    }
    b->passes = passes;
}

/* ---- laying out one pass ---------------------------------------------------------------------------------------- */

typedef struct Builder {
    Batcher *b;
    Batch *batch;
    int *used;    /* [C] columns laid out so far */
    int *targets; /* [C] targets of the chunk under way */
} Builder;

static void lay_segment(Builder *w, int column, const int32_t *tokens, Segment segment)
{
    memcpy(w->batch->token + (size_t)column * (size_t)w->batch->width + segment.start, tokens,
           sizeof(int) * (size_t)segment.length);
    w->used[column] += segment.length;
    if (column == w->b->grid->column && segment.length > 0) w->batch->segment[w->batch->segment_count++] = segment;
}

/* The sequence's tokens after its first `shared`, which lie at prefix_start. */
static void lay_sequence(Builder *w, const PlannedPair *p, int index, int side, int shared, int prefix_start)
{
    const Pairs *pairs = w->b->pairs;
    const int32_t *tokens = pairs_tokens(pairs, side, p->pair);
    int column = p->column[side], length = pairs_length(pairs, side, p->pair),
        prompt = pairs_prompt(pairs, side, p->pair);
    int start = w->used[column];
    lay_segment(w, column, tokens + shared, (Segment){ start, length - 1 - shared, prefix_start, shared, shared });
    w->targets[column] += length - prompt;
    if (column != w->b->grid->column) return;
    for (int t = prompt; t < length; t++)
        w->batch->target[w->batch->target_count++] =
            (Target){ .column = t - 1 < shared ? prefix_start + t - 1 : start + t - 1 - shared,
                      .token = tokens[t],
                      .sequence = 2 * index + side };
}

static void lay_pair(Builder *w, const PlannedPair *p, int index)
{
    bool together = p->column[PAIR_CHOSEN] == p->column[PAIR_REJECTED];
    int shared = together ? p->shared : 0, column = p->column[PAIR_CHOSEN], prefix_start = w->used[column];
    if (shared > 0)
        lay_segment(w, column, pairs_tokens(w->b->pairs, PAIR_CHOSEN, p->pair),
                    (Segment){ prefix_start, shared, 0, 0, 0 });
    for (int side = 0; side < PAIR_SIDES; side++) lay_sequence(w, p, index, side, shared, prefix_start);
    w->batch->pair[index] = p->pair;
    w->batch->slot[index] = p->slot;
    w->batch->counter[index] = index % w->b->grid->rows * w->b->grid->columns + column;
}

/* Would the pair make the chunk under way too wide? */
static bool chunk_overflows(const Builder *w, const PlannedPair *p)
{
    int more[PAIR_SIDES];
    for (int side = 0; side < PAIR_SIDES; side++)
        more[side] = w->targets[p->column[side]] + pairs_completion(w->b->pairs, side, p->pair);
    if (p->column[0] == p->column[1]) more[0] += pairs_completion(w->b->pairs, PAIR_REJECTED, p->pair);
    return more[0] > w->b->limits.logit_columns || more[1] > w->b->limits.logit_columns;
}

const Batch *batcher_pass(Batcher *b, int pass)
{
    Batch *batch = &b->batch;
    int columns = b->limits.columns, first = 0, end;
    while (b->plan[first].pass != pass) first++;
    for (end = first; end < b->plan_count && b->plan[end].pass == pass; end++)
        ;
    PlannedPair *planned = b->plan + first;
    batch->width = assign_columns(planned, end - first, columns, b->scratch);
    batch->pair_count = end - first;
    batch->segment_count = batch->target_count = batch->chunk_count = 0;
    for (int i = 0; i < columns * batch->width; i++) batch->token[i] = -1;

    Builder w = { b, batch, b->scratch, b->scratch + columns };
    memset(b->scratch, 0, sizeof(int) * 2 * (size_t)columns);
    for (int i = 0; i < batch->pair_count; i++) {
        if (i == 0 || chunk_overflows(&w, &planned[i])) {
            batch->chunk[batch->chunk_count++] = (Chunk){ .pair = i, .target = batch->target_count };
            memset(w.targets, 0, sizeof(int) * (size_t)columns);
        }
        lay_pair(&w, &planned[i], i);
        batch->chunk[batch->chunk_count - 1].width = most(w.targets, columns);
    }
    batch->chunk[batch->chunk_count] = (Chunk){ .pair = batch->pair_count, .target = batch->target_count };
    batch->used = w.used[b->grid->column];
    return batch;
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static int descending(const void *x, const void *y)
{
    int a = *(const int *)x, b = *(const int *)y;
    return (a < b) - (a > b);
}

/* Sum of the `most_pairs` largest of values[count], and the largest alone in *top. Sorts values. */
static int64_t sum_largest(int *values, int64_t count, int most_pairs, int *top)
{
    int64_t sum = 0;
    qsort(values, (size_t)count, sizeof *values, descending);
    for (int64_t i = 0; i < count && i < most_pairs; i++) sum += values[i];
    *top = count > 0 ? values[0] : 0;
    return sum;
}

static int64_t clamp(int64_t value, int64_t budget, int64_t alone)
{
    int64_t bound = budget > alone ? budget : alone;
    return value < bound ? value : bound;
}

static bool find_limits(Batcher *b, Error *err)
{
    const Pairs *pairs = b->pairs;
    int *tokens = malloc(sizeof(int) * (size_t)(pairs->count + 1)),
        *targets = malloc(sizeof(int) * (size_t)(pairs->count + 1));
    if (!tokens || !targets) {
        free(tokens);
        free(targets);
        return error_fault(err, "out of memory for the lengths of %lld pairs", (long long)pairs->count);
    }
    for (int64_t i = 0; i < pairs->count; i++) {
        tokens[i] = pairs_length(pairs, 0, i) + pairs_length(pairs, 1, i) - 2; /* as if nothing were shared */
        targets[i] = pairs_completion(pairs, 0, i) + pairs_completion(pairs, 1, i);
    }
    int longest_pair, longest_targets;
    int64_t all_tokens = sum_largest(tokens, pairs->count, b->limits.pairs, &longest_pair);
    int64_t all_targets = sum_largest(targets, pairs->count, b->limits.pairs, &longest_targets);
    free(tokens);
    free(targets);
    int64_t width = clamp(all_tokens, b->limits.max_tokens, longest_pair);
    /* sharing a prompt lets a column have more targets than tokens by at most one a sequence */
    int64_t column_targets = all_targets < width + 2 * b->limits.pairs ? all_targets : width + 2 * b->limits.pairs;
    b->max_width = (int)width;
    b->max_targets = (int)column_targets;
    b->max_chunk = (int)clamp(column_targets, b->limits.logit_columns, longest_targets);
    if (width * b->limits.columns > 1 << 28)
        return error_usage(
            err,
            "a pass of %lld tokens on each of %d process columns is too large: lower batch.max_tokens or batch.pairs",
            (long long)width, b->limits.columns);
    return true;
}

bool batcher_create(Batcher *b, const Pairs *pairs, const Grid *grid, const BatchLimits *limits, Error *err)
{
    *b = (Batcher){ .pairs = pairs, .grid = grid, .limits = *limits };
    if (!find_limits(b, err)) return false;
    size_t count = (size_t)limits->pairs, columns = (size_t)limits->columns;
    size_t scratch = 2 * columns + count + (size_t)grid->replicas;
    Batch *batch = &b->batch;
    b->plan = calloc(count, sizeof *b->plan);
    b->scratch = calloc(scratch, sizeof(int));
    batch->pair = calloc(count, sizeof *batch->pair);
    batch->slot = calloc(count, sizeof *batch->slot);
    batch->counter = calloc(count, sizeof *batch->counter);
    batch->token = calloc(columns * (size_t)b->max_width + 1, sizeof *batch->token);
    batch->segment = calloc(3 * count, sizeof *batch->segment);
    batch->target = calloc((size_t)b->max_targets + 1, sizeof *batch->target);
    batch->chunk = calloc(count + 1, sizeof *batch->chunk);
    if (!b->plan || !b->scratch || !batch->pair || !batch->slot || !batch->counter || !batch->token ||
        !batch->segment || !batch->target || !batch->chunk) {
        batcher_free(b);
        return error_fault(err, "out of memory for the layout of a batch");
    }
    return true;
}

void batcher_free(Batcher *b)
{
    free(b->plan);
    free(b->scratch);
    free(b->batch.pair);
    free(b->batch.slot);
    free(b->batch.counter);
    free(b->batch.token);
    free(b->batch.segment);
    free(b->batch.target);
    free(b->batch.chunk);
    *b = (Batcher){ 0 };
}
