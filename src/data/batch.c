#include "catdpo/data/batch.h"

#include <stdlib.h>
#include <string.h>

typedef struct PlannedSequence {
    Sequence s;
    int column; /* where it goes */
} PlannedSequence;

/* A group of the step with what it costs and where it goes. */
typedef struct PlannedGroup {
    int64_t id;
    int place;
    int sequence, count; /* its sequences in the batcher's list */
    int shared;          /* their first tokens, if they can be run once */
    int cost;            /* tokens to run, on one process column */
    int pass;
} PlannedGroup;

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

/* Its tokens to run, and its targets. */
static int tokens_of(const Sequence *s) { return s->end - s->begin; }
static int targets_of(const Sequence *s) { return s->predict_end - s->predict; }

/* ---- a step's groups -------------------------------------------------------------------------------------------- */

/* Tokens that the sequences begin with in common and that are prompt in all of them. What is kept or lies in the cache
 * belongs to one sequence. */
static int shared_tokens(const PlannedSequence *p, int count)
{
    const Sequence *first = &p[0].s;
    int shared = count > 1 ? first->predict : 0;
    for (int i = 0; i < count; i++) {
        const Sequence *s = &p[i].s;
        if (s->begin > 0 || s->keep.length > 0) return 0;
        int limit = s->predict < shared ? s->predict : shared;
        for (shared = 0; shared < limit && s->token[shared] == first->token[shared]; shared++)
            ;
    }
    return shared;
}

void batcher_clear(Batcher *b) { b->plan_count = b->sequence_count = b->passes = 0; }

void batcher_add(Batcher *b, int64_t id, const Sequence *sequence, int count)
{
    CHECK(b->plan_count < b->limits.groups && b->sequence_count + count <= b->most.sequences);
    for (int i = 0; i < count; i++)
        CHECK(sequence[i].keep.length == 0 || sequence[i].keep.length == tokens_of(&sequence[i]));
    PlannedSequence *p = b->sequence + b->sequence_count;
    PlannedGroup group = { .id = id, .place = b->plan_count, .sequence = b->sequence_count, .count = count };
    for (int i = 0; i < count; i++) p[i] = (PlannedSequence){ .s = sequence[i] };
    if (b->limits.share_prompt) group.shared = shared_tokens(p, count);
    group.cost = group.shared;
    for (int i = 0; i < count; i++) group.cost += tokens_of(&sequence[i]) - group.shared;
    b->plan[b->plan_count++] = group;
    b->sequence_count += count;
}

/* ---- sharing out ------------------------------------------------------------------------------------------------ */

static int longest_first(const void *x, const void *y)
{
    const PlannedGroup *a = x, *b = y;
    return a->cost != b->cost ? b->cost - a->cost : a->place - b->place;
}

static int by_pass(const void *x, const void *y)
{
    const PlannedGroup *a = x, *b = y;
    return a->pass != b->pass ? a->pass - b->pass : a->place - b->place;
}

/* The sequence's own process column, or the one with the least load. */
static int choose_column(const Sequence *s, const int *load, int columns)
{
    return s->column >= 0 ? s->column : least(load, columns);
}

/* Columns for the groups [0, count) of one pass, given longest first. Whole groups share their prompt; split groups
 * balance better: the shorter result wins, unless limits.whole. Returns its width. load: 2 C ints. */
static int assign_columns(Batcher *b, const PlannedGroup *group, int count, int *load)
{
    int columns = b->limits.columns, *split = load + columns;
    memset(load, 0, sizeof(int) * 2 * (size_t)columns);
    for (int i = 0; i < count; i++) {
        PlannedSequence *p = b->sequence + group[i].sequence;
        int column = choose_column(&p->s, load, columns);
        load[column] += group[i].cost;
        for (int j = 0; j < group[i].count; j++) {
            p[j].column = column;
            split[choose_column(&p[j].s, split, columns)] += tokens_of(&p[j].s);
        }
    }
    int whole_width = most(load, columns), split_width = most(split, columns);
    if (b->limits.whole || whole_width <= split_width) return whole_width;
    memset(load, 0, sizeof(int) * (size_t)columns);
    for (int i = 0; i < count; i++) {
        PlannedSequence *p = b->sequence + group[i].sequence;
        for (int j = 0; j < group[i].count; j++) {
            p[j].column = choose_column(&p[j].s, load, columns);
            load[p[j].column] += tokens_of(&p[j].s);
        }
    }
    return split_width;
}

/* Deal the groups [0, count), given longest first, into `passes` passes of nearly equal length. load: passes ints. */
static void assign_passes(PlannedGroup *group, int count, int passes, int *load)
{
    memset(load, 0, sizeof(int) * (size_t)passes);
    for (int i = 0; i < count; i++) {
        group[i].pass = least(load, passes);
        load[group[i].pass] += group[i].cost;
    }
}

/* Every pass within the token budget, or of one group? */
static bool passes_fit(Batcher *b)
{
    PlannedGroup *group = b->plan;
    int count = b->plan_count;
    qsort(group, (size_t)count, sizeof *group, by_pass);
    for (int first = 0, end; first < count; first = end) {
        for (end = first; end < count && group[end].pass == group[first].pass; end++)
            ;
        qsort(group + first, (size_t)(end - first), sizeof *group, longest_first);
        if (assign_columns(b, group + first, end - first, b->scratch) > b->limits.max_tokens && end - first > 1)
            return false;
    }
    return true;
}

void batcher_plan(Batcher *b)
{
    int replicas = b->grid->replicas, kept = 0;
    qsort(b->plan, (size_t)b->plan_count, sizeof *b->plan, longest_first);
    assign_passes(b->plan, b->plan_count, replicas, b->scratch); /* replicas first, by the same rule */
    for (int i = 0; i < b->plan_count; i++)
        if (b->plan[i].pass == b->grid->replica) b->plan[kept++] = b->plan[i];
    b->plan_count = kept;

    int passes = b->limits.accumulation < kept ? b->limits.accumulation : kept;
    for (;; passes++) {
        qsort(b->plan, (size_t)kept, sizeof *b->plan, longest_first);
        assign_passes(b->plan, kept, passes, b->scratch);
        if (passes_fit(b)) break;
    }
    b->passes = passes;
}

void batcher_plan_single(Batcher *b)
{
    for (int i = 0; i < b->plan_count; i++) b->plan[i].pass = 0;
    qsort(b->plan, (size_t)b->plan_count, sizeof *b->plan, longest_first);
    b->passes = b->plan_count > 0;
}

/* ---- laying out one pass ---------------------------------------------------------------------------------------- */

typedef struct Builder {
    Batcher *b;
    Batch *batch;
    int *used;    /* [C] columns laid out so far */
    int *targets; /* [C] targets of the chunk under way */
} Builder;

static void lay_segment(Builder *w, int column, const int32_t *tokens, const Segment *segment)
{
    Batch *batch = w->batch;
    memcpy(batch->token + (size_t)column * (size_t)batch->width + segment->start, tokens,
           sizeof(int) * (size_t)segment->length);
    w->used[column] += segment->length;
    if (column == w->b->grid->column && segment->length > 0) batch->segment[batch->segment_count++] = *segment;
}

/* The sequence's tokens after its first `shared`, which lie at prefix_start. */
static void lay_sequence(Builder *w, const PlannedSequence *p, int shared, int prefix_start)
{
    const Sequence *s = &p->s;
    Batch *batch = w->batch;
    int start = w->used[p->column], first = s->begin + shared;
    Segment segment = { .start = start,
                        .length = s->end - first,
                        .prefix_start = prefix_start,
                        .prefix_length = shared,
                        .position = first,
                        .keep = s->keep };
    memcpy(segment.cached, s->cached, sizeof segment.cached);
    lay_segment(w, p->column, s->token + first, &segment);
    w->targets[p->column] += targets_of(s);
    for (int t = s->predict; t < s->predict_end && p->column == w->b->grid->column; t++) {
        int part = s->split > 0 && t >= s->split;
        batch->target[batch->target_count++] =
            (Target){ .column = t - 1 < first ? prefix_start + t - 1 : start + t - 1 - first,
                      .token = t < s->known ? s->token[t] : -1,
                      .sequence = batch->sequence_count + part,
                      .part = part };
    }
    batch->sequence_count += s->split > 0 ? 2 : 1;
}

static void lay_group(Builder *w, const PlannedGroup *group)
{
    const PlannedSequence *p = w->b->sequence + group->sequence;
    Batch *batch = w->batch;
    int index = batch->group_count++, column = p->column, prefix_start = w->used[column], shared = group->shared;
    bool together = true;
    for (int i = 1; i < group->count; i++) together = together && p[i].column == column;
    if (!together) shared = 0;
    batch->group[index] = (BatchGroup){ .id = group->id,
                                        .place = group->place,
                                        .counter = index % w->b->grid->rows * w->b->grid->columns + column,
                                        .sequence = batch->sequence_count,
                                        .column = together ? column : -1,
                                        .shared_start = prefix_start,
                                        .shared_length = shared };
    if (shared > 0) lay_segment(w, column, p->s.token, &(Segment){ .start = prefix_start, .length = shared });
    for (int i = 0; i < group->count; i++) lay_sequence(w, &p[i], shared, prefix_start);
}

/* Would the group make the chunk under way too wide? */
static bool chunk_overflows(const Builder *w, const PlannedGroup *group)
{
    const PlannedSequence *p = w->b->sequence + group->sequence;
    bool overflows = false;
    for (int i = 0; i < group->count; i++)
        overflows |= (w->targets[p[i].column] += targets_of(&p[i].s)) > w->b->limits.logit_columns;
    for (int i = 0; i < group->count; i++) w->targets[p[i].column] -= targets_of(&p[i].s);
    return overflows;
}

const Batch *batcher_pass(Batcher *b, int pass)
{
    Batch *batch = &b->batch;
    int columns = b->limits.columns, first = 0, end;
    while (b->plan[first].pass != pass) first++;
    for (end = first; end < b->plan_count && b->plan[end].pass == pass; end++)
        ;
    const PlannedGroup *group = b->plan + first;
    batch->width = assign_columns(b, group, end - first, b->scratch);
    batch->group_count = batch->sequence_count = 0;
    batch->segment_count = batch->target_count = batch->chunk_count = 0;
    CHECK(batch->width <= b->most.width);
    for (int i = 0; i < columns * batch->width; i++) batch->token[i] = -1;

    Builder w = { b, batch, b->scratch, b->scratch + columns };
    memset(b->scratch, 0, sizeof(int) * 2 * (size_t)columns);
    for (int i = 0; i < end - first; i++) {
        if (i == 0 || chunk_overflows(&w, &group[i])) {
            batch->chunk[batch->chunk_count++] = (Chunk){ .group = i, .target = batch->target_count };
            memset(w.targets, 0, sizeof(int) * (size_t)columns);
        }
        lay_group(&w, &group[i]);
        batch->chunk[batch->chunk_count - 1].width = most(w.targets, columns);
    }
    batch->chunk[batch->chunk_count] = (Chunk){ .group = batch->group_count, .target = batch->target_count };
    batch->group[batch->group_count] = (BatchGroup){ .sequence = batch->sequence_count };
    batch->used = w.used[b->grid->column];
    return batch;
}

int batch_widest_chunk(const Batch *batch)
{
    int widest = 0;
    for (int i = 0; i < batch->chunk_count; i++)
        widest = batch->chunk[i].width > widest ? batch->chunk[i].width : widest;
    return widest;
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

bool batcher_create(Batcher *b, const Grid *grid, const BatchLimits *limits, const BatchSizes *sizes, Error *err)
{
    *b = (Batcher){ .grid = grid, .limits = *limits, .most = *sizes };
    size_t groups = (size_t)limits->groups, sequences = (size_t)sizes->sequences, columns = (size_t)limits->columns;
    size_t scratch = 2 * columns + groups + (size_t)grid->replicas;
    Batch *batch = &b->batch;
    b->plan = calloc(groups, sizeof *b->plan);
    b->sequence = calloc(sequences, sizeof *b->sequence);
    b->scratch = calloc(scratch, sizeof(int));
    batch->group = calloc(groups + 1, sizeof *batch->group);
    batch->token = calloc(columns * (size_t)sizes->width + 1, sizeof *batch->token);
    batch->segment = calloc(groups + sequences, sizeof *batch->segment);
    batch->target = calloc((size_t)sizes->targets + 1, sizeof *batch->target);
    batch->chunk = calloc(groups + 1, sizeof *batch->chunk);
    if (!b->plan || !b->sequence || !b->scratch || !batch->group || !batch->token || !batch->segment ||
        !batch->target || !batch->chunk) {
        batcher_free(b);
        return error_fault(err, "out of memory for the layout of a batch");
    }
    return true;
}

void batcher_free(Batcher *b)
{
    free(b->plan);
    free(b->sequence);
    free(b->scratch);
    free(b->batch.group);
    free(b->batch.token);
    free(b->batch.segment);
    free(b->batch.target);
    free(b->batch.chunk);
    *b = (Batcher){ 0 };
}
