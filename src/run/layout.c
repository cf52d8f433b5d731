#include "catdpo/run/layout.h"

#include "catdpo/core/memory.h"
#include "catdpo/data/pair_batch.h"

#include <stdio.h>

void layout_text(const Layout *l, char text[LAYOUT_TEXT])
{
    snprintf(text, LAYOUT_TEXT, "%dx%dx%d", l->replicas, l->rows, l->columns);
}

BatchLimits layout_batch_limits(const Config *config, const Architecture *a, int rows, int columns)
{
    double column_bytes = 4.0 * ((a->vocab + rows - 1) / rows); /* of one token's logits */
    double fitting = config->engine.logits_mb * 1e6 / column_bytes;
    return (BatchLimits){
        .columns = columns,
        .groups = (int)config->batch.pairs,
        .parts = objective_of(&config->objective)->segments ? SEGMENTS : 1,
        .max_tokens = config->batch.max_tokens,
        .accumulation = (int)config->batch.accumulation,
        .share_prompt = config->batch.share_prompt,
        .whole = config_has_adversary(config),
        .logit_columns = fitting < 1         ? 1
                         : fitting > 1 << 28 ? 1 << 28
                                             : (int)fitting,
    };
}

bool layout_limits(const Config *config, const Architecture *a, const Pairs *pairs, const Layout *layout,
                   PassPurpose purpose, TransformerLimits *limits, Error *err)
{
    Grid shape = { .replicas = layout->replicas, .rows = layout->rows, .columns = layout->columns };
    BatchLimits batch = layout_batch_limits(config, a, layout->rows, layout->columns);
    PairBatcher b;
    if (!pair_batcher_create(&b, pairs, &shape, &batch, err)) return false;
    *limits = (TransformerLimits){ .max_width = b.base.most.width,
                                   .max_chunk = b.base.most.chunk,
                                   .max_sequences = b.base.most.sequences,
                                   .longest = (int)pairs->longest,
                                   .backward = purpose != PASS_FORWARD,
                                   .frozen = purpose != PASS_TRAIN,
                                   .attack = purpose == PASS_ATTACK ||
                                             (purpose == PASS_TRAIN && config_has_adversary(config)),
                                   .recompute = config->engine.recompute };
    pair_batcher_free(&b);
    return purpose != PASS_TRAIN || adapters_parse(&limits->adapters, a, config->lora.rank, config->lora.alpha,
                                                   config->lora.target_modules, config->lora.layers, "lora.", err);
}

/* Floats that a rank sends and receives in a step on an R x C grid, in units of the hidden size: activations among
 * rows, weights among columns. Only compared with each other. */
static double exchanged(const Architecture *a, int rows, int columns, double tokens)
{
    double in_out = 4.0 * a->hidden + 2.0 * a->heads * a->head_dim +
                    3.0 * a->mlp; /* features that a layer's products read and write */
    double parameters = (2.0 * a->heads + 2.0 * a->groups) * a->head_dim * a->hidden + 3.0 * a->mlp * a->hidden;
    double activations = 2 * in_out * tokens / columns * (rows - 1) / rows,
           weights = 3 * parameters / rows * (columns - 1) / columns;
    return activations + weights;
}

typedef struct Choice {
    Layout layout;
    double cost;  /* exchanged */
    double bytes; /* a rank */
    bool found;
} Choice;

/* Of keys and values while a probe is answered (src/train/probe.c): an upper bound, its prompts no longer than a pair.
 */
static double cache_bytes(const Config *config, const Architecture *a, const Pairs *pairs, const Layout *layout)
{
    if (config->margin.source != SOURCE_GENERATED) return 0;
    const AttentionShape shape = { .groups = (a->groups + layout->rows - 1) / layout->rows,
                                   .per_group = a->heads / a->groups,
                                   .head_dim = a->head_dim };
    double lanes = (double)((config->generate.slots + layout->columns - 1) / layout->columns);
    double one = (double)kv_cache_bytes(a->layers, &shape, 1) * (double)(pairs->longest + config->generate.max_tokens);
    double allowed = config->generate.cache_mb * 1e6;
    return lanes * one < allowed ? lanes * one : allowed > one ? allowed : one;
}

/* What a rank needs with this layout at most: every pass as large as the data allow. */
static bool need_of(double *bytes, TransformerLimits *limits, const Config *config, const Architecture *a,
                    const Pairs *pairs, const Layout *layout, PassPurpose purpose, Error *err)
{
    if (!layout_limits(config, a, pairs, layout, purpose, limits, err)) return false;
    TransformerBytes b =
        transformer_bytes(a, limits, layout->replicas, layout->rows, layout->columns, config->optimizer.shard);
    *bytes = (double)(b.weights + b.adapters + b.gradients + b.moments + b.activations + b.logits) +
             (purpose == PASS_TRAIN ? cache_bytes(config, a, pairs, layout) : 0);
    return true;
}

bool layout_check(const Layout *layout, const Config *config, const Architecture *a, const Pairs *pairs, int ranks,
                  const MemoryShare *memory, PassPurpose purpose, double *need, Error *err)
{
    TransformerLimits limits;
    char wanted[16], have[16];
    *need = 0;
    if (!architecture_fits(a, layout->rows, layout->columns, ranks, err) ||
        !need_of(need, &limits, config, a, pairs, layout, purpose, err))
        return false;
    return *need <= memory->bytes ||
           error_usage(err,
                       "%d x %d x %d (replicas x rows x columns) needs %s a rank, of %s (%s): start more "
                       "ranks or nodes, give the job more memory, set engine.recompute = true, lower "
                       "batch.max_tokens, or correct parallel.memory_gb",
                       layout->replicas, layout->rows, layout->columns, memory_text(*need, wanted),
                       memory_text(memory->bytes, have), memory->of);
}

/* Compares every grid of `size` ranks that the model can be cut into. */
static bool choose_shape(Choice *best, const Config *config, const Architecture *a, const Pairs *pairs, int ranks,
                         int size, double room, PassPurpose purpose, Error *err)
{
    for (int rows = 1; rows <= size && rows <= a->groups; rows++) {
        if (size % rows != 0) continue;
        Layout layout = { .replicas = ranks / size, .rows = rows, .columns = size / rows };
        TransformerLimits limits;
        double bytes;
        if (!need_of(&bytes, &limits, config, a, pairs, &layout, purpose, err)) return false;
        double cost = exchanged(a, rows, layout.columns, (double)limits.max_width * layout.columns);
        if (bytes < room && (!best->found || cost < best->cost)) *best = (Choice){ layout, cost, bytes, true };
    }
    return true;
}

static bool choose(Layout *layout, const Config *config, const Architecture *a, const Pairs *pairs, int ranks,
                   const MemoryShare *memory, PassPurpose purpose, Error *err)
{
    double room = LAYOUT_ROOM * memory->bytes;
    for (int size = 1; size <= ranks; size++) {
        bool busy = ranks / size <= config->batch.pairs; /* a replica without pairs would idle */
        if (ranks % size != 0 || !busy) continue;
        Choice best = { 0 };
        if (!choose_shape(&best, config, a, pairs, ranks, size, room, purpose, err)) return false;
        if (best.found) {
            char need[16], have[16];
            *layout = best.layout;
            snprintf(
                layout->why, sizeof layout->why,
                "the smallest grid whose share of the model (%s a rank) fits the memory (%s a rank, %.0f %% of %s)%s",
                memory_text(best.bytes, need), memory_text(room, have), 100 * LAYOUT_ROOM, memory->of,
                size > 1 ? " or keeps every replica busy" : "");
            return true;
        }
    }
    char have[16];
    return error_usage(
        err,
        "no grid of %d ranks fits the memory (%s a rank, %.0f %% of %s): start more ranks or nodes, give "
        "the job more memory, set engine.recompute = true, or lower batch.max_tokens",
        ranks, memory_text(room, have), 100 * LAYOUT_ROOM, memory->of);
}

bool layout_choose_for(Layout *layout, const Config *config, const Architecture *a, const Pairs *pairs, int ranks,
                       const MemoryShare *memory, PassPurpose purpose, Error *err)
{
    double need;
    int rows = (int)config->parallel.grid[0], columns = (int)config->parallel.grid[1],
        replicas = (int)config->parallel.replicas;
    if (rows == 0 && replicas == 0) return choose(layout, config, a, pairs, ranks, memory, purpose, err);
    if (rows == 0) { /* replicas given, grid free */
        if (ranks % replicas != 0)
            return error_usage(err, "parallel.replicas = %d does not divide %d ranks", replicas, ranks);
        Choice best = { 0 };
        if (!choose_shape(&best, config, a, pairs, ranks, ranks / replicas, memory->bytes, purpose, err)) return false;
        if (!best.found)
            return error_usage(
                err,
                "no grid of %d ranks fits the memory (%s) and the model's %d key/value heads: change parallel.replicas",
                ranks / replicas, memory->of, a->groups);
        *layout = best.layout;
        snprintf(layout->why, sizeof layout->why, "the grid of %d ranks that exchanges the least", ranks / replicas);
        return true;
    }
    if (replicas == 0) replicas = ranks / (rows * columns) > 0 ? ranks / (rows * columns) : 1;
    *layout = (Layout){ .replicas = replicas, .rows = rows, .columns = columns, .why = "as configured" };
    return layout_check(layout, config, a, pairs, ranks, memory, purpose, &need, err);
}

bool layout_choose(Layout *layout, const Config *config, const Architecture *a, const Pairs *pairs, PassPurpose purpose,
                   MPI_Comm world, Error *err)
{
    int ranks;
    CHECK_MPI(MPI_Comm_size(world, &ranks));
    MemoryShare memory = memory_share(world);
    if (config->parallel.memory_gb > 0)
        memory = (MemoryShare){ .bytes = config->parallel.memory_gb * 1e9, .of = "parallel.memory_gb" };
    return layout_choose_for(layout, config, a, pairs, ranks, &memory, purpose, err);
}
