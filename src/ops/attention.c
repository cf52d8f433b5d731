#include "catdpo/ops/attention.h"

#include "catdpo/parallel/gemm.h"
#include "catdpo/core/simd.h"

#include <math.h>

enum { TILE = 128 }; /* queries handled at once: their scores stay in the cache */

static int group_rows(const AttentionShape *s) { return (s->per_group + 2) * s->head_dim; }
static int qkv_rows(const AttentionShape *s) { return s->groups * group_rows(s); }
static int out_rows(const AttentionShape *s) { return s->groups * s->per_group * s->head_dim; }

int64_t attention_scratch(const AttentionShape *s, int longest)
{
    int64_t queries = s->per_group > 2 * TILE ? s->per_group : 2 * TILE; /* probabilities and their gradient */
    return queries * longest + TILE;                                     /* one sum a query */
}

/* ---- rotation --------------------------------------------------------------------------------------------------- */

static void rotate(const AttentionShape *s, const Batch *batch, const Rotary *rotary, float *qkv,
                   void (*turn)(const Rotary *rotary, int position, float *head))
{
    for (int i = 0; i < batch->segment_count; i++)
        for (int t = 0; t < batch->segment[i].length; t++) {
            float *x = qkv + (int64_t)(batch->segment[i].start + t) * qkv_rows(s);
            for (int g = 0; g < s->groups; g++)
                for (int head = 0; head <= s->per_group; head++) /* the last one is the key */
                    turn(rotary, batch->segment[i].position + t, x + g * group_rows(s) + head * s->head_dim);
        }
}

void attention_rotate(const AttentionShape *s, const Batch *batch, const Rotary *rotary, float *qkv)
{
    rotate(s, batch, rotary, qkv, rotary_forward);
}

void attention_rotate_backward(const AttentionShape *s, const Batch *batch, const Rotary *rotary, float *dqkv)
{
    rotate(s, batch, rotary, dqkv, rotary_backward);
}

/* ---- cache ------------------------------------------------------------------------------------------------------ */

static float *cached_keys(const AttentionShape *s, const CachedKeys *cached, int group)
{
    return cached->data ? cached->data + 2 * (int64_t)group * cached->columns * s->head_dim : NULL;
}

static float *cached_values(const AttentionShape *s, const CachedKeys *cached, int group)
{
    return cached->data ? cached_keys(s, cached, group) + (int64_t)cached->columns * s->head_dim : NULL;
}

static bool range_within(const CacheRange *range, const CachedKeys *cached)
{
    return range->length == 0 || range->start + range->length <= cached->columns;
}

void attention_keep(const AttentionShape *s, const Batch *batch, const float *qkv, const CachedKeys *cached)
{
    int d = s->head_dim;
    for (const Segment *segment = batch->segment; segment < batch->segment + batch->segment_count; segment++) {
        CHECK(range_within(&segment->keep, cached));
        for (int t = 0; t < segment->keep.length; t++)
            for (int g = 0; g < s->groups; g++) {
                const float *key =
                    qkv + (int64_t)(segment->start + t) * qkv_rows(s) + g * group_rows(s) + s->per_group * d;
                int64_t at = (int64_t)(segment->keep.start + t) * d;
                memcpy(cached_keys(s, cached, g) + at, key, sizeof(float) * (size_t)d);
                memcpy(cached_values(s, cached, g) + at, key + d, sizeof(float) * (size_t)d);
            }
    }
}

/* What a segment wants of the cache lies in it. */
static void check_cached(const Segment *segment, const CachedKeys *cached)
{
    for (int i = 0; i < CACHED_RANGES; i++) CHECK(range_within(&segment->cached[i], cached));
}

/* ---- scores ----------------------------------------------------------------------------------------------------- */

enum { KEY_RANGES = CACHED_RANGES + 2 };

/* Keys in columns [start, start + count), of the pass or of the cache: rows [row, row + count) of the tile's scores. */
typedef struct KeyRange {
    bool cached;
    int start, count, row;
} KeyRange;

/* Tokens [first, first + tokens) of a segment and the keys that any of them may see, in the order of their positions:
 * those in the cache, of the prefix, then of the segment up to the last query. */
typedef struct Tile {
    int query, tokens; /* column of the first query */
    int count;         /* queries: one a token, or all heads of a group of a single token */
    int window;
    int ranges;
    KeyRange range[KEY_RANGES];
    int keys; /* of all ranges: rows of the score matrix */
} Tile;

/* The next keys are those in columns [start, start + count), but for the first *skip of all that are still to come. */
static void add_keys(Tile *tile, bool cached, int start, int count, int *skip)
{
    int left_out = *skip < count ? *skip : count;
    *skip -= left_out;
    start += left_out;
    count -= left_out;
    if (count == 0) return;
    KeyRange *last = tile->ranges > 0 ? &tile->range[tile->ranges - 1] : NULL;
    if (last && last->cached == cached && last->start + last->count == start) /* side by side: one range of keys */
        last->count += count;
    else
        tile->range[tile->ranges++] = (KeyRange){ cached, start, count, tile->keys };
    tile->keys += count;
}

static Tile tile_of(const Segment *segment, int first, int window)
{
    int count = segment->length - first < TILE ? segment->length - first : TILE;
    int before = segment->position + first;                              /* keys before the first query */
    int skip = window > 0 && before >= window ? before - window + 1 : 0; /* and before its window */
    bool kept = segment->keep.length > 0;
    Tile tile = { .query = segment->start + first, .tokens = count, .count = count, .window = window };
    for (int i = 0; i < CACHED_RANGES; i++)
        add_keys(&tile, true, segment->cached[i].start, segment->cached[i].length, &skip);
    add_keys(&tile, false, segment->prefix_start, segment->prefix_length, &skip);
    add_keys(&tile, kept, kept ? segment->keep.start : segment->start, first + count, &skip);
    return tile;
}

double attention_scores(const Batch *batch, int window)
{
    double scores = 0;
    for (int i = 0; i < batch->segment_count; i++)
        for (int first = 0; first < batch->segment[i].length; first += TILE) {
            Tile tile = tile_of(&batch->segment[i], first, window);
            scores += (double)tile.keys * tile.count;
        }
    return scores;
}

/* Rows of the tile's scores that query j sees: [*from, *from + the result). */
static int visible(const Tile *tile, int j, int *from)
{
    int end = tile->keys - tile->tokens + j % tile->tokens + 1;
    *from = tile->window > 0 && end > tile->window ? end - tile->window : 0;
    return end - *from;
}

/* Keys or values of a group: [d x columns] of the pass and of the cache. */
typedef struct Source {
    const float *pass, *cached;
    int ld, cached_ld;
} Source;

static const float *source_at(const Source *s, const KeyRange *r, int *ld)
{
    *ld = r->cached ? s->cached_ld : s->ld;
    return (r->cached ? s->cached : s->pass) + (int64_t)r->start * *ld;
}

/* scores[keys x count] = a(keys)' b[d x count]; b: the queries. */
static void tile_products(const Tile *tile, int d, float scale, const Source *a, const float *b, int ldb, float *scores)
{
    for (const KeyRange *r = tile->range; r < tile->range + tile->ranges; r++) {
        int lda;
        const float *keys = source_at(a, r, &lda);
        gemm_local(TRANSPOSED, PLAIN, r->count, tile->count, d, scale, keys, lda, b, ldb, 0, scores + r->row,
                   tile->keys);
    }
}

/* c[d x count] = a(keys) weights[keys x count]; c: of the queries. */
static void tile_combine(const Tile *tile, int d, const Source *a, const float *weights, float *c, int ldc)
{
    for (int i = tile->ranges - 1; i >= 0; i--) { /* the segment's own keys first */
        const KeyRange *r = &tile->range[i];
        int lda;
        const float *keys = source_at(a, r, &lda);
        gemm_local(PLAIN, PLAIN, d, tile->count, r->count, 1, keys, lda, weights + r->row, tile->keys,
                   i < tile->ranges - 1, c, ldc);
    }
}

/* c(keys)[d x keys] += b[d x count] weights'; b: of the queries. */
static void tile_spread(const Tile *tile, int d, const float *b, int ldb, const float *weights, float *c, int ldc)
{
    for (const KeyRange *r = tile->range; r < tile->range + tile->ranges; r++)
        gemm_local(PLAIN, TRANSPOSED, d, r->count, tile->count, 1, b, ldb, weights + r->row, tile->keys, 1,
                   c + (int64_t)r->start * ldc, ldc);
}

/* x[from..from + n) = exp(x - shift), the rest of x[0..end) = 0; returns the sum. */
SIMD_CLONES
static float exponentiate(float *x, int from, int n, int end, float shift)
{
    float sum = 0;
    for (int i = 0; i < from; i++) x[i] = 0;
    x += from;
    end -= from;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) {
        x[i] = simd_exp(x[i] - shift);
        sum += x[i];
    }
    for (int i = n; i < end; i++) x[i] = 0;
    return sum;
}

SIMD_CLONES
static void scale_by(float *x, int n, float factor)
{
    for (int i = 0; i < n; i++) x[i] *= factor;
}

/* dscore = p (dp - delta) * scale, in place on p */
SIMD_CLONES
static void softmax_backward(float *p, const float *dp, int n, float delta, float scale)
{
    for (int i = 0; i < n; i++) p[i] *= (dp[i] - delta) * scale;
}

static void clear_padding(const Batch *batch, int rows, float *x)
{
    memset(x + (int64_t)batch->used * rows, 0, sizeof(float) * (size_t)(batch->width - batch->used) * (size_t)rows);
}

/* The queries of a tile that share their keys, at distances ldq, ldo and step: out = softmax(scale q k') v. p: [keys x
 * count]. */
typedef struct Queries {
    const float *q;
    float *out, *lse;
    int ldq, ldo, step;
} Queries;

static void forward_queries(const AttentionShape *s, const Tile *tile, const Queries *of, const Source *keys,
                            const Source *values, float *p)
{
    tile_products(tile, s->head_dim, s->scale, keys, of->q, of->ldq, p);
    for (int j = 0; j < tile->count; j++) {
        int from, seen = visible(tile, j, &from);
        float *column = p + (int64_t)j * tile->keys, top = simd_max(column + from, seen);
        float sum = exponentiate(column, from, seen, tile->keys, top);
        scale_by(column + from, seen, 1 / sum);
        of->lse[(int64_t)j * of->step] = top + logf(sum);
    }
    tile_combine(tile, s->head_dim, values, p, of->out, of->ldo);
}

void attention_forward(const AttentionShape *s, const Batch *batch, const float *qkv, const CachedKeys *cached,
                       float *out, float *lse, float *scratch)
{
    int d = s->head_dim, ld = qkv_rows(s), ldo = out_rows(s), heads = s->groups * s->per_group;
    for (int i = 0; i < batch->segment_count; i++) {
        check_cached(&batch->segment[i], cached);
        for (int first = 0; first < batch->segment[i].length; first += TILE) {
            Tile tile = tile_of(&batch->segment[i], first, s->window);
            /* of a text that grows, a group's heads are the columns of one product: its keys are read once */
            bool grows = batch->segment[i].keep.length == 1;
            if (grows) tile.count = s->per_group;
            for (int head = 0; head < heads; head += grows ? s->per_group : 1) {
                int g = head / s->per_group;
                int64_t query = tile.query, at = query * ld + g * group_rows(s);
                Queries of = { .q = qkv + at + head % s->per_group * d,
                               .out = out + query * ldo + head * d,
                               .lse = lse + query * heads + head,
                               .ldq = grows ? d : ld,
                               .ldo = grows ? d : ldo,
                               .step = grows ? 1 : heads };
                const float *k = qkv + g * group_rows(s) + s->per_group * d;
                Source keys = { k, cached_keys(s, cached, g), ld, d },
                       values = { k + d, cached_values(s, cached, g), ld, d };
                forward_queries(s, &tile, &of, &keys, &values, scratch);
            }
        }
    }
    clear_padding(batch, ldo, out);
}

void attention_backward(const AttentionShape *s, const Batch *batch, const float *qkv, const float *out,
                        const float *lse, const float *dout, float *dqkv, float *scratch)
{
    int d = s->head_dim, ld = qkv_rows(s), ldo = out_rows(s), heads = s->groups * s->per_group;
    memset(dqkv, 0, sizeof(float) * (size_t)batch->width * (size_t)ld);
    for (int i = 0; i < batch->segment_count; i++) {
        check_cached(&batch->segment[i], &(CachedKeys){ 0 });
        for (int first = 0; first < batch->segment[i].length; first += TILE) {
            Tile tile = tile_of(&batch->segment[i], first, s->window);
            int64_t query = tile.query;
            for (int head = 0; head < heads; head++) {
                int g = head / s->per_group, at_q = g * group_rows(s) + head % s->per_group * d;
                int at_k = g * group_rows(s) + s->per_group * d, at_v = at_k + d;
                const float *q = qkv + query * ld + at_q, *dy = dout + query * ldo + head * d;
                Source keys = { .pass = qkv + at_k, .ld = ld }, values = { .pass = qkv + at_v, .ld = ld };
                float *p = scratch, *dp = scratch + (int64_t)TILE * tile.keys; /* [keys x count] each */
                tile_products(&tile, d, s->scale, &keys, q, ld, p);
                tile_products(&tile, d, 1, &values, dy, ldo, dp);
                for (int j = 0; j < tile.count; j++) {
                    int from, seen = visible(&tile, j, &from);
                    exponentiate(p + (int64_t)j * tile.keys, from, seen, tile.keys, lse[(query + j) * heads + head]);
                }
                tile_spread(&tile, d, dy, ldo, p, dqkv + at_v, ld);
                for (int j = 0; j < tile.count; j++) {
                    int64_t at = (query + j) * ldo + head * d;
                    softmax_backward(p + (int64_t)j * tile.keys, dp + (int64_t)j * tile.keys, tile.keys,
                                     simd_dot(out + at, dout + at, d), s->scale);
                }
                tile_combine(&tile, d, &keys, p, dqkv + query * ld + at_q, ld);
                tile_spread(&tile, d, q, ld, p, dqkv + at_k, ld);
            }
        }
    }
}
