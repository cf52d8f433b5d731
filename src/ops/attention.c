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
    (void)s;
    return 2 * (int64_t)TILE * longest + TILE; /* probabilities, their gradient, one sum a query */
}

/* ---- what happens to q and k before the scores ------------------------------------------------------------------ */

/* y = (offset + w) * x * r over one head; returns nothing that the backward needs: it starts again from x. */
static void head_norm(const AttentionShape *s, const float *w, float *x)
{
    int d = s->head_dim;
    float r = (float)(1 / sqrt(simd_square_sum(x, d) / d + s->norm_epsilon));
    for (int i = 0; i < d; i++) x[i] = (s->norm_offset + w[i]) * (x[i] * r);
}

static void head_norm_backward(const AttentionShape *s, const float *w, const float *x, float *dy, float *dw)
{
    int d = s->head_dim;
    float offset = s->norm_offset;
    double r = 1 / sqrt(simd_square_sum(x, d) / d + s->norm_epsilon), sum = 0;
    for (int i = 0; i < d; i++) {
        sum += (double)dy[i] * (offset + w[i]) * x[i];
        dw[i] += (float)(dy[i] * x[i] * r);
    }
    for (int i = 0; i < d; i++) dy[i] = (float)(r * (offset + w[i]) * dy[i] - r * r * r / d * sum * x[i]);
}

void attention_prepare(const AttentionShape *s, const Batch *batch, const Rotary *rotary, const float *q_norm,
                       const float *k_norm, float *qkv, float *raw)
{
    int rows = qkv_rows(s), d = s->head_dim;
    for (int i = 0; i < batch->segment_count; i++)
        for (int t = 0; t < batch->segment[i].length; t++) {
            float *x = qkv + (int64_t)(batch->segment[i].start + t) * rows;
            if (raw) memcpy(raw + (x - qkv), x, sizeof(float) * (size_t)rows);
            for (int g = 0; g < s->groups; g++)
                for (int head = 0; head <= s->per_group; head++) { /* the last one is the key */
                    float *at = x + g * group_rows(s) + head * d;
                    if (raw) head_norm(s, head < s->per_group ? q_norm : k_norm, at);
                    rotary_forward(rotary, batch->segment[i].position + t, at);
                }
        }
}

void attention_prepare_backward(const AttentionShape *s, const Batch *batch, const Rotary *rotary, const float *q_norm,
                                const float *k_norm, const float *raw, float *dqkv, float *dq_norm, float *dk_norm)
{
    int rows = qkv_rows(s), d = s->head_dim;
    for (int i = 0; i < batch->segment_count; i++)
        for (int t = 0; t < batch->segment[i].length; t++) {
            float *dx = dqkv + (int64_t)(batch->segment[i].start + t) * rows;
            for (int g = 0; g < s->groups; g++)
                for (int head = 0; head <= s->per_group; head++) {
                    float *at = dx + g * group_rows(s) + head * d;
                    rotary_backward(rotary, batch->segment[i].position + t, at);
                    if (raw)
                        head_norm_backward(s, head < s->per_group ? q_norm : k_norm, raw + (at - dqkv), at,
                                           head < s->per_group ? dq_norm : dk_norm);
                }
        }
}

/* ---- scores ----------------------------------------------------------------------------------------------------- */

enum { KEY_RANGES = 2 };

/* Keys in columns [start, start + count): rows [row, row + count) of the tile's scores. */
typedef struct KeyRange {
    int start, count, row;
} KeyRange;

/* Queries [first, first + count) of a segment and the keys that any of them may see, in the order of their positions:
 * those of the prefix, then of the segment up to the last query. */
typedef struct Tile {
    int query, count; /* column of the first query; queries */
    int window;
    int ranges;
    KeyRange range[KEY_RANGES];
    int keys; /* of all ranges: rows of the score matrix */
} Tile;

/* The next keys are those in columns [start, start + count), but for the first *skip of all that are still to come. */
static void add_keys(Tile *tile, int start, int count, int *skip)
{
    int left_out = *skip < count ? *skip : count;
    *skip -= left_out;
    start += left_out;
    count -= left_out;
    if (count == 0) return;
    KeyRange *last = tile->ranges > 0 ? &tile->range[tile->ranges - 1] : NULL;
    if (last && last->start + last->count == start) /* side by side: one range of keys */
        last->count += count;
    else
        tile->range[tile->ranges++] = (KeyRange){ start, count, tile->keys };
    tile->keys += count;
}

static Tile tile_of(const Segment *segment, int first, int window)
{
    int count = segment->length - first < TILE ? segment->length - first : TILE;
    int before = segment->prefix_length + first;                         /* keys before the first query */
    int skip = window > 0 && before >= window ? before - window + 1 : 0; /* and before its window */
    Tile tile = { .query = segment->start + first, .count = count, .window = window };
    add_keys(&tile, segment->prefix_start, segment->prefix_length, &skip);
    add_keys(&tile, segment->start, first + count, &skip);
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
    int end = tile->keys - tile->count + j + 1;
    *from = tile->window > 0 && end > tile->window ? end - tile->window : 0;
    return end - *from;
}

/* scores[keys x count] = a(keys)' b(queries) over d features. */
static void tile_products(const Tile *tile, int d, float scale, const float *a, int lda, const float *b, int ldb,
                          float *scores)
{
    for (const KeyRange *r = tile->range; r < tile->range + tile->ranges; r++)
        gemm_local(TRANSPOSED, PLAIN, r->count, tile->count, d, scale, a + (int64_t)r->start * lda, lda,
                   b + (int64_t)tile->query * ldb, ldb, 0, scores + r->row, tile->keys);
}

/* c(queries)[d x count] = a(keys) weights[keys x count] */
static void tile_combine(const Tile *tile, int d, const float *a, int lda, const float *weights, float *c, int ldc)
{
    for (int i = tile->ranges - 1; i >= 0; i--) { /* the segment's own keys first */
        const KeyRange *r = &tile->range[i];
        gemm_local(PLAIN, PLAIN, d, tile->count, r->count, 1, a + (int64_t)r->start * lda, lda, weights + r->row,
                   tile->keys, i < tile->ranges - 1, c + (int64_t)tile->query * ldc, ldc);
    }
}

/* c(keys)[d x keys] += b(queries) weights' */
static void tile_spread(const Tile *tile, int d, const float *b, int ldb, const float *weights, float *c, int ldc)
{
    for (const KeyRange *r = tile->range; r < tile->range + tile->ranges; r++)
        gemm_local(PLAIN, TRANSPOSED, d, r->count, tile->count, 1, b + (int64_t)tile->query * ldb, ldb,
                   weights + r->row, tile->keys, 1, c + (int64_t)r->start * ldc, ldc);
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

void attention_forward(const AttentionShape *s, const Batch *batch, const float *qkv, float *out, float *lse,
                       float *scratch)
{
    int d = s->head_dim, ld = qkv_rows(s), ldo = out_rows(s), heads = s->groups * s->per_group;
    for (int i = 0; i < batch->segment_count; i++)
        for (int first = 0; first < batch->segment[i].length; first += TILE) {
            Tile tile = tile_of(&batch->segment[i], first, s->window);
            for (int head = 0; head < heads; head++) {
                int g = head / s->per_group;
                const float *q = qkv + g * group_rows(s) + head % s->per_group * d,
                            *k = qkv + g * group_rows(s) + s->per_group * d;
                float *p = scratch; /* [keys x count] */
                tile_products(&tile, d, s->scale, k, ld, q, ld, p);
                for (int j = 0; j < tile.count; j++) {
                    int from, seen = visible(&tile, j, &from);
                    float *column = p + (int64_t)j * tile.keys, top = simd_max(column + from, seen);
                    float sum = exponentiate(column, from, seen, tile.keys, top);
                    scale_by(column + from, seen, 1 / sum);
                    lse[(int64_t)(tile.query + j) * heads + head] = top + logf(sum);
                }
                tile_combine(&tile, d, k + d, ld, p, out + head * d, ldo);
            }
        }
    clear_padding(batch, ldo, out);
}

void attention_backward(const AttentionShape *s, const Batch *batch, const float *qkv, const float *out,
                        const float *lse, const float *dout, float *dqkv, float *scratch)
{
    int d = s->head_dim, ld = qkv_rows(s), ldo = out_rows(s), heads = s->groups * s->per_group;
    memset(dqkv, 0, sizeof(float) * (size_t)batch->width * (size_t)ld);
    for (int i = 0; i < batch->segment_count; i++)
        for (int first = 0; first < batch->segment[i].length; first += TILE) {
            Tile tile = tile_of(&batch->segment[i], first, s->window);
            for (int head = 0; head < heads; head++) {
                int g = head / s->per_group, at_q = g * group_rows(s) + head % s->per_group * d;
                int at_k = g * group_rows(s) + s->per_group * d, at_v = at_k + d;
                float *p = scratch, *dp = scratch + (int64_t)TILE * tile.keys; /* [keys x count] each */
                tile_products(&tile, d, s->scale, qkv + at_k, ld, qkv + at_q, ld, p);
                tile_products(&tile, d, 1, qkv + at_v, ld, dout + head * d, ldo, dp);
                for (int j = 0; j < tile.count; j++) {
                    int from, seen = visible(&tile, j, &from);
                    exponentiate(p + (int64_t)j * tile.keys, from, seen, tile.keys,
                                 lse[(int64_t)(tile.query + j) * heads + head]);
                }
                tile_spread(&tile, d, dout + head * d, ldo, p, dqkv + at_v, ld);
                for (int j = 0; j < tile.count; j++) {
                    int64_t at = (int64_t)(tile.query + j) * ldo + head * d;
                    softmax_backward(p + (int64_t)j * tile.keys, dp + (int64_t)j * tile.keys, tile.keys,
                                     simd_dot(out + at, dout + at, d), s->scale);
                }
                tile_combine(&tile, d, qkv + at_k, ld, p, dqkv + at_q, ld);
                tile_spread(&tile, d, qkv + at_q, ld, p, dqkv + at_k, ld);
            }
        }
}
