/* A step on a grid: its passes as the batcher makes them, and what each part of transformer.c costs in them. */
#include "catdpo/plan/plan.h"

#include "catdpo/data/pair_batch.h"
#include "catdpo/h5/h5.h"
#include "catdpo/parallel/replica.h"
#include "catdpo/rundir/lifecycle.h"
#include "catdpo/train/tally.h"
#include "catdpo/data/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    FLOAT_BYTES = 4,
    REPLICAS_LOOKED_AT = 8,
    STEP_NUMBERS = 2,
    IO_BUFFERS = 3
}; /* STEP_NUMBERS: the gradient's norm, operations */

/* Part of sgemm's best rate that it has on panels of a logical block. */
static const double PANEL_RATE = 0.88;
/* Between ranks of a node: a copy reads and writes; the time until the other side notices. */
static const double NODE_COPIES = 2, NODE_LATENCY = 2e-6;

typedef struct Scene {
    const Config *config;
    const Architecture *a;
    const Machine *machine;
    PlanShape shape;
    Grid grid;
    Parameters parameters;
    Adapters adapters;
    Extent hidden, query, qkv, mlp, gate_up, vocab;
    double local_heads;     /* of the process row that has most */
    double workspace, kept; /* most of any product */
    int width_most, chunk_most, reference_width, reference_chunk;
} Scene;

/* What is computed in a pass, each with all that stands before it. */
typedef enum { FORWARD, INPUT_GRADIENT, ALL_GRADIENTS } PassKind;

/* Sums over the passes of a replica. */
typedef struct Work {
    double flops, product_flops;                 /* all ranks of the grid: products and attention, products */
    double bytes;                                /* sent by all ranks of the grid */
    double messages, exchange;                   /* of a rank; seconds */
    double matmul, head, attention, elementwise; /* seconds */
    double width;
    int passes;
} Work;

double plan_memory_total(const PlanMemory *m)
{
    return m->weights + m->adapters + m->gradients + m->moments + m->activations + m->logits + m->caches + m->library +
           m->answers;
}

/* ---- messages ---- */

static double larger(double a, double b) { return a > b ? a : b; }

/* Seconds of a rank for `bytes` and `messages` with processes that are at most `span` ranks apart in the world. */
static double exchange_seconds(const Scene *s, double bytes, double messages, int span)
{
    const Machine *m = s->machine;
    if (span <= m->ranks_per_node) return bytes * NODE_COPIES / m->memory_bandwidth + messages * NODE_LATENCY;
    return bytes * m->ranks_per_node / m->node_bandwidth + messages * m->latency;
}

static int row_span(const Scene *s) { return s->shape.columns; }
static int grid_span(const Scene *s) { return s->shape.rows * s->shape.columns; }

/* An Allreduce of `bytes` over `ranks`, by each of the `all` ranks of the grid. */
static void add_allreduce(const Scene *s, Work *w, double bytes, int ranks, int span)
{
    if (ranks == 1) return;
    double sent = 2 * bytes * (ranks - 1) / ranks, messages = 2 * ceil(log2(ranks));
    w->bytes += sent * grid_span(s);
    w->messages += messages;
    w->exchange += exchange_seconds(s, sent, messages, span);
}

/* ---- products ---- */

static void add_product(Scene *s, Work *w, double *seconds, double times, Transpose op_a, Transpose op_b, Extent m,
                        Extent n, Extent k)
{
    ProductCost c = product_cost(op_a, op_b, m, n, k, s->shape.rows, s->shape.columns, (int)s->config->parallel.block);
    int ranks = grid_span(s);
    w->flops += times * 2 * m.length * n.length * k.length;
    w->product_flops += times * 2 * m.length * n.length * k.length;
    w->bytes += times * (c.row_bytes + c.column_bytes);
    w->messages += times * (c.row_messages + c.column_messages);
    w->exchange += times * (exchange_seconds(s, c.row_bytes / ranks, c.row_messages, row_span(s)) +
                            exchange_seconds(s, c.column_bytes / ranks, c.column_messages, ranks));
    *seconds += times * (c.flops / (s->machine->gflops * 1e9 * PANEL_RATE) + c.copied / s->machine->memory_bandwidth);
    s->workspace = larger(s->workspace, c.workspace);
    s->kept = larger(s->kept, c.kept);
}

/* Is the model itself trained, not adapters of it? */
static bool trains_model(const Scene *s) { return s->adapters.settings.rank == 0; }

static const Parameters *trained_by(const Scene *s)
{
    return trains_model(s) ? &s->parameters : &s->adapters.parameters;
}

/* Layers that the backward pass of training goes through. */
static double trained_layers(const Scene *s) { return s->a->layers - (trains_model(s) ? 0 : s->adapters.lowest); }

static double backward_layers(const Scene *s, PassKind kind)
{
    return kind == FORWARD ? 0 : kind == ALL_GRADIENTS ? trained_layers(s) : s->a->layers;
}

/* The adapters of one of a layer's products, as in ops/low_rank.c. */
static void add_adapters(Scene *s, Work *w, int product, Extent out, Extent in, Extent tokens, bool again,
                         PassKind kind)
{
    const Adapters *x = &s->adapters;
    if (trains_model(s) || x->product[x->lowest][product].parts == 0) return;
    int rank = x->settings.rank, parts = x->product[x->lowest][product].parts,
        block = parts * low_rank_block(rank, s->shape.columns);
    Extent inner = extent_make((int64_t)parts * rank, block, s->shape.rows, block, s->shape.columns);
    double layers = 0, *seconds = &w->matmul;
    for (int l = x->lowest; l < s->a->layers; l++) layers += x->product[l][product].parts > 0;
    add_product(s, w, seconds, layers * (1 + again), PLAIN, PLAIN, inner, tokens, in);
    add_product(s, w, seconds, layers * (1 + again), PLAIN, PLAIN, out, tokens, inner);
    if (kind == FORWARD) return;
    add_product(s, w, seconds, layers, TRANSPOSED, PLAIN, inner, tokens, out);
    add_product(s, w, seconds, layers, TRANSPOSED, PLAIN, in, tokens, inner);
    if (kind != ALL_GRADIENTS) return;
    add_product(s, w, seconds, layers, PLAIN, PLAIN, inner, tokens, in);
    add_product(s, w, seconds, layers, PLAIN, TRANSPOSED, out, inner, tokens);
    add_product(s, w, seconds, layers, PLAIN, TRANSPOSED, inner, in, tokens);
}

/* y = W x in all layers, twice with `again`, and its gradients; its adapters likewise. */
static void add_layer_product(Scene *s, Work *w, int product, Extent out, Extent in, Extent tokens, bool again,
                              PassKind kind)
{
    double layers = s->a->layers, backward = backward_layers(s, kind);
    add_product(s, w, &w->matmul, layers + again * backward, PLAIN, PLAIN, out, tokens, in);
    if (kind >= INPUT_GRADIENT) add_product(s, w, &w->matmul, backward, TRANSPOSED, PLAIN, in, tokens, out);
    if (kind == ALL_GRADIENTS && trains_model(s))
        add_product(s, w, &w->matmul, backward, PLAIN, TRANSPOSED, out, in, tokens);
    add_adapters(s, w, product, out, in, tokens, again, kind);
}

/* ---- a pass ---- */

static Extent tokens_extent(const Scene *s, int width)
{
    return extent_make((int64_t)width * s->shape.columns, width > 0 ? width : 1, s->shape.rows, width > 0 ? width : 1,
                       s->shape.columns);
}

static void add_head(Scene *s, Work *w, const Batch *batch, PassKind kind)
{
    for (int i = 0; i < batch->chunk_count; i++) {
        const Chunk *chunk = &batch->chunk[i];
        double targets = chunk->width,
               sequences = batch->group[chunk[1].group].sequence - batch->group[chunk->group].sequence;
        Extent n = tokens_extent(s, chunk->width);
        add_product(s, w, &w->head, 1, PLAIN, PLAIN, s->vocab, n, s->hidden);
        if (kind >= INPUT_GRADIENT) add_product(s, w, &w->head, 1, TRANSPOSED, PLAIN, s->hidden, n, s->vocab);
        if (kind == ALL_GRADIENTS && trains_model(s))
            add_product(s, w, &w->head, 1, PLAIN, TRANSPOSED, s->vocab, s->hidden, n);
        w->head += targets * s->vocab.over_rows * s->machine->mlp_forward * (kind != FORWARD ? 2 : 1.2);
        add_allreduce(s, w, targets * FLOAT_BYTES, s->shape.rows, grid_span(s));
        add_allreduce(s, w, targets * 4 * 8, s->shape.rows, grid_span(s));
        add_allreduce(s, w, sequences * sizeof(SequenceResult), s->shape.columns, row_span(s));
    }
}

/* Norms of the hidden state in a layer: of the inputs of its blocks, and of what they add. */
static int input_norms(const Scene *s)
{
    const LayerTensors *l = &s->parameters.layer[0];
    return (l->attention_norm >= 0) + (l->mlp_norm >= 0);
}
static int output_norms(const Scene *s)
{
    const LayerTensors *l = &s->parameters.layer[0];
    return (l->attention_post_norm >= 0) + (l->mlp_post_norm >= 0);
}

/* Floats a token that the loops between the products read and write in a layer. */
static double layer_traffic(const Scene *s, bool backward)
{
    double h = s->hidden.over_rows, qkv = s->qkv.over_rows, in = input_norms(s), out = output_norms(s);
    double forward = (4 + 3 * in + 4 * out) * h + 2 * qkv;
    double again = s->config->engine.recompute ? (2 + 3 * in + 4 * out) * h + 2 * qkv : 0;
    return backward ? forward + again + (2 + 9 * in + 7 * out) * h + 3 * qkv : forward;
}

/* Scores of a head in all layers. */
static double all_scores(const Scene *s, const Batch *batch)
{
    double scores = 0, sum = 0;
    int window = -1;
    for (int l = 0; l < s->a->layers; l++) {
        int here = s->parameters.layer[l].plan.window;
        if (here != window) scores = attention_scores(batch, window = here);
        sum += scores;
    }
    return sum;
}

static void add_pass(Scene *s, Work *w, const Batch *batch, PassKind kind)
{
    const Architecture *a = s->a;
    const Machine *m = s->machine;
    bool backward = kind != FORWARD, again = backward && s->config->engine.recompute;
    double width = batch->width, layers = a->layers, used = 0;
    for (int i = 0; i < batch->width * s->shape.columns; i++) used += batch->token[i] >= 0;

    Extent tokens = tokens_extent(s, batch->width);
    add_layer_product(s, w, PRODUCT_QKV, s->qkv, s->hidden, tokens, again, kind);
    add_layer_product(s, w, PRODUCT_ATTENTION_OUT, s->hidden, s->query, tokens, again, kind);
    add_layer_product(s, w, PRODUCT_GATE_UP, s->gate_up, s->hidden, tokens, again, kind);
    bool whole = again && output_norms(s) > 0; /* the second time up to the end of the layer */
    add_layer_product(s, w, PRODUCT_MLP_DOWN, s->hidden, s->mlp, tokens, whole, kind);
    add_head(s, w, batch, kind);

    double scores = all_scores(s, batch), back = backward_layers(s, kind), part = back / layers;
    w->attention +=
        scores * s->local_heads * ((1 + again * part) * m->attention_forward + part * m->attention_backward);
    w->flops += scores * a->heads * s->shape.columns * 2 * a->head_dim * (2 * (1 + again * part) + 5 * part);
    w->elementwise += width * s->mlp.over_rows * ((layers + whole * back) * m->mlp_forward + back * m->mlp_backward) +
                      width * FLOAT_BYTES *
                          (back * layer_traffic(s, backward) + (layers - back) * layer_traffic(s, false) +
                           20 * s->hidden.over_rows * (1 + backward)) /
                          m->memory_bandwidth;

    double norms = (input_norms(s) + output_norms(s)) * (layers + (again + backward) * back) + 1 + backward;
    for (int i = 0; i < (int)norms; i++) add_allreduce(s, w, width * 8, s->shape.rows, grid_span(s));
    if (s->parameters.layer[0].plan.joint_qk_norm)
        for (int i = 0; i < layers + (again + backward) * back; i++) /* 2 sums a token forward, 4 backward */
            add_allreduce(s, w, width * 8 * (i < layers + again * back ? 2 : 4), s->shape.rows, grid_span(s));
    int ranks = grid_span(s);
    int exchanges = kind == ALL_GRADIENTS && trains_model(s) ? 2 : 1; /* of embeddings */
    double embedded = used * a->hidden * FLOAT_BYTES * (1 - 1.0 / ranks) * exchanges;
    w->bytes += embedded;
    w->messages += exchanges * (ranks - 1);
    w->exchange += exchange_seconds(s, embedded / ranks, exchanges * (ranks - 1), ranks);
}

/* The search for a perturbation, before the pass itself (model/attack.c). */
static void add_attack(Scene *s, Work *w, const Batch *batch)
{
    const AttackSettings *attack = &s->config->adversary.attack;
    bool drawn = attack->type == ATTACK_RANDOM, l2 = attack->norm == NORM_L2;
    for (int64_t k = 0; k < (drawn ? 1 : attack->steps); k++) {
        add_pass(s, w, batch, drawn ? FORWARD : INPUT_GRADIENT);
        for (int i = drawn; l2 && i < 2; i++) add_allreduce(s, w, batch->width * 8.0, s->shape.rows, grid_span(s));
        w->elementwise += 10.0 * batch->width * s->hidden.over_rows * FLOAT_BYTES / s->machine->memory_bandwidth;
    }
}

/* The mean length of the embeddings, once a step. */
static void add_radius(Scene *s, Work *w)
{
    add_allreduce(s, w, 8 * s->vocab.over_rows, s->shape.columns, row_span(s));
    add_allreduce(s, w, 8, s->shape.rows, grid_span(s));
    w->elementwise += FLOAT_BYTES * s->vocab.over_rows * s->hidden.over_columns / s->machine->memory_bandwidth;
}

/* ---- replicas and optimiser ---- */

/* Every replica sends and gets what it does not own of the gradients, then of the weights. */
static void add_update(const Scene *s, StepCost *c, int categories)
{
    int replicas = s->shape.replicas, ranks = replicas * grid_span(s);
    const Parameters *trained = trained_by(s);
    double local = (double)trained->local_floats * FLOAT_BYTES,
           vectors = (double)(trained->local_floats - trained->matrix_floats);
    double shared = 2 * local * (replicas - 1) / replicas,
           pieces = 2 * (replicas - 1) * ceil(local / replicas / (REPLICA_PIECE * FLOAT_BYTES));
    Work w = { 0 };
    add_allreduce(s, &w, vectors * FLOAT_BYTES, s->shape.columns, row_span(s));
    for (int i = 0; i < trained->count; i++)
        if (trained->tensor[i].everywhere)
            add_allreduce(s, &w, (double)trained->tensor[i].local * FLOAT_BYTES, s->shape.rows, grid_span(s));
    double control = ((double)tally_bytes(s->config, categories) + lifecycle_bytes() + STEP_NUMBERS * 8) * 2 *
                     (ranks - 1) / ranks,
           control_messages = 4 * ceil(log2(ranks));
    c->bytes += w.bytes / grid_span(s) + shared + control;
    c->messages += w.messages + pieces + control_messages;
    c->exchange +=
        w.exchange + exchange_seconds(s, shared, pieces, ranks) + exchange_seconds(s, control, control_messages, ranks);
    double owned = s->config->optimizer.shard ? local / replicas : local;
    double added = replicas > 1 ? 1.5 * local * (replicas - 1) / replicas : 0; /* the sums of gradients */
    c->optimizer = (7 * owned + local / replicas + added) / s->machine->memory_bandwidth;
}

/* ---- the passes of the run ---- */

static int most(int a, int b) { return a > b ? a : b; }

/* The replica's passes for these pairs. */
static Work replica_work(Scene *s, PairBatcher *b, const int64_t *pair, int count)
{
    Work w = { 0 };
    bool adversary = config_has_adversary(s->config);
    pair_batcher_plan(b, pair, count);
    if (adversary && s->config->adversary.attack.unit == RADIUS_RELATIVE) add_radius(s, &w);
    for (int pass = 0; pass < b->base.passes; pass++) {
        const Batch *batch = batcher_pass(&b->base, pass);
        s->width_most = most(s->width_most, batch->width);
        s->chunk_most = most(s->chunk_most, batch_widest_chunk(batch));
        if (adversary) add_attack(s, &w, batch);
        add_pass(s, &w, batch, ALL_GRADIENTS);
        w.width += batch->width;
        w.passes++;
    }
    return w;
}

/* Adds one step to the sums in c. `looked_at` replicas speak for all. */
static void add_step(Scene *s, StepCost *c, PairBatcher *b, const int64_t *pair, int count, int looked_at)
{
    double ranks = grid_span(s), scale = (double)s->shape.replicas / looked_at;
    Work slowest = { 0 };
    double longest = -1, bytes = 0, flops = 0, products = 0, width = 0, passes = 0;
    for (int i = 0; i < looked_at; i++) {
        s->grid.replica = (int)((int64_t)i * s->shape.replicas / looked_at);
        Work w = replica_work(s, b, pair, count);
        double seconds = w.matmul + w.head + w.attention + w.elementwise + w.exchange;
        bytes += w.bytes * scale;
        flops += w.flops * scale;
        products += w.product_flops * scale;
        width += w.width;
        passes += w.passes;
        if (seconds > longest) longest = seconds, slowest = w;
    }
    for (int i = 0; i < count; i++)
        c->tokens += pairs_length(b->pairs, PAIR_CHOSEN, pair[i]) + pairs_length(b->pairs, PAIR_REJECTED, pair[i]);
    c->bytes += bytes / ranks / s->shape.replicas;
    c->flops += flops / ranks / s->shape.replicas;
    c->product_flops += products / ranks / s->shape.replicas;
    c->messages += slowest.messages;
    c->exchange += slowest.exchange;
    c->matmul += slowest.matmul;
    c->head += slowest.head;
    c->attention += slowest.attention;
    c->elementwise += slowest.elementwise;
    c->passes += slowest.passes;
    c->width += passes > 0 ? width / passes : 0;
}

/* Before the first step the reference reads all pairs, in the order of the file, forward only. */
static void look_at_reference(Scene *s, PairBatcher *b, int64_t *pair, int looked_at, double effort)
{
    int per_group = b->base.limits.groups;
    int64_t count = b->pairs->count, groups = (count + per_group - 1) / per_group,
            seen = (int64_t)(effort / per_group / looked_at) + 1;
    seen = seen < groups ? seen : groups;
    for (int64_t k = 0; k < seen; k++) {
        int64_t first = k * groups / seen * per_group;
        int n = count - first < per_group ? (int)(count - first) : per_group;
        for (int i = 0; i < n; i++) pair[i] = first + i;
        for (int i = 0; i < looked_at; i++) {
            s->grid.replica = (int)((int64_t)i * s->shape.replicas / looked_at);
            pair_batcher_plan(b, pair, n);
            for (int pass = 0; pass < b->base.passes; pass++) {
                const Batch *batch = batcher_pass(&b->base, pass);
                s->reference_width = most(s->reference_width, batch->width);
                s->reference_chunk = most(s->reference_chunk, batch_widest_chunk(batch));
            }
        }
    }
}

/* ---- memory ---- */

static double pairs_bytes(const Pairs *p)
{
    double tokens = (double)(p->side[0].token_count + p->side[1].token_count);
    return 4 * tokens + (double)p->count * (2 * (8 + 4) + p->category_count + 4);
}

static PlanMemory memory_of(const Scene *s, const Pairs *pairs, const BatchLimits *limits)
{
    const Architecture *a = s->a;
    double columns = s->shape.columns, ranks = grid_span(s);
    TransformerLimits now = { .max_width = s->width_most,
                              .max_chunk = s->chunk_most,
                              .max_sequences = PAIR_SIDES * limits->groups,
                              .longest = (int)pairs->longest,
                              .backward = true,
                              .attack = config_has_adversary(s->config),
                              .recompute = s->config->engine.recompute,
                              .adapters = s->adapters.settings };
    TransformerBytes step =
        transformer_bytes(a, &now, s->shape.replicas, s->shape.rows, s->shape.columns, s->config->optimizer.shard);
    now.max_width = s->reference_width;
    now.max_chunk = s->reference_chunk;
    TransformerBytes reference =
        transformer_bytes(a, &now, s->shape.replicas, s->shape.rows, s->shape.columns, s->config->optimizer.shard);
    double unused =
        FLOAT_BYTES *
        (s->reference_width * (s->qkv.over_rows + s->query.over_rows + 2 * s->hidden.over_rows) + /* backward only */
         s->reference_chunk * s->hidden.over_rows);
    if ((double)(reference.activations + reference.logits) - unused > (double)(step.activations + step.logits))
        step.activations = reference.activations - (int64_t)unused, step.logits = reference.logits;

    double width = most(s->width_most, s->reference_width);
    double indices = FLOAT_BYTES * (2 * columns * width + 4 * width);
    int rotations = 1;
    for (int l = 0; l < a->layers; l++)
        if (s->parameters.layer[l].plan.local_rope) rotations = 2;
    double tables = FLOAT_BYTES * (double)(pairs->longest + 1) * a->head_dim * rotations + 16.0 * (double)pairs->count;
    double pieces = s->shape.replicas > 1
                        ? FLOAT_BYTES * fmin(REPLICA_PIECE, (double)trained_by(s)->local_floats / s->shape.replicas)
                        : 0;
    double table =
        FLOAT_BYTES * (double)a->vocab * a->hidden; /* the largest tensor of a file, moved in calls of limited size */
    double files = s->config->checkpoint.final || s->config->checkpoint.steps > 0
                       ? IO_BUFFERS * fmin(CALL_BYTES, table / ranks / s->shape.replicas)
                       : 0;
    return (PlanMemory){ (double)step.weights,
                         (double)step.adapters,
                         (double)step.gradients,
                         (double)step.moments,
                         (double)step.activations,
                         (double)step.logits,
                         indices + tables + pieces + pairs_bytes(pairs),
                         s->machine->library_bytes + larger(s->workspace, files) + s->kept,
                         0 };
}

/* ---- all together ---- */

static bool scene_make(Scene *s, const Config *config, const Architecture *a, PlanShape shape, const Machine *machine,
                       Error *err)
{
    int rows = shape.rows, columns = shape.columns, dim = a->head_dim, group = a->heads / a->groups;
    *s = (Scene){ .config = config,
                  .a = a,
                  .machine = machine,
                  .shape = shape,
                  .grid = { .replicas = shape.replicas, .rows = rows, .columns = columns } };
#define EVEN(length, parts) (((length) + (parts)-1) / (parts))
    s->hidden = extent_make(a->hidden, EVEN(a->hidden, rows), rows, EVEN(a->hidden, columns), columns);
    s->query = extent_make((int64_t)a->heads * dim, group * dim, rows, EVEN(a->heads * dim, columns), columns);
    int qkv = (a->heads + 2 * a->groups) * dim;
    s->qkv = extent_make(qkv, (group + 2) * dim, rows, EVEN(qkv, columns), columns);
    s->mlp = extent_make(a->mlp, EVEN(a->mlp, rows), rows, EVEN(a->mlp, columns), columns);
    s->gate_up = extent_make(2 * (int64_t)a->mlp, 2 * EVEN(a->mlp, rows), rows, EVEN(2 * a->mlp, columns), columns);
    s->vocab = extent_make(a->vocab, EVEN(a->vocab, rows), rows, EVEN(a->vocab, columns), columns);
    s->local_heads = (double)EVEN(a->groups, rows) * group;
#undef EVEN
    AdapterSettings adapters;
    return adapters_parse(&adapters, a, config->lora.rank, config->lora.alpha, config->lora.target_modules,
                          config->lora.layers, "lora.", err) &&
           parameters_layout(&s->parameters, a, &s->grid, err) &&
           adapters_layout(&s->adapters, &adapters, a, &s->parameters, &s->grid, err);
}

static void divide(StepCost *c, double steps)
{
    double *sums[] = { &c->tokens,   &c->passes, &c->width, &c->flops,     &c->product_flops, &c->bytes,
                       &c->messages, &c->matmul, &c->head,  &c->attention, &c->elementwise,   &c->exchange };
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) *sums[i] /= steps;
}

static bool look_at_run(Scene *s, StepCost *c, Sampler *sampler, PairBatcher *b, int64_t total_steps, double effort,
                        Error *err)
{
    int64_t *pair = malloc(sizeof *pair * (size_t)b->base.limits.groups);
    if (!pair) return error_fault(err, "out of memory for a list of %d pairs", b->base.limits.groups);
    int replicas = s->shape.replicas;
    double whole = (double)total_steps * b->base.limits.groups * replicas;
    int looked_at = whole <= effort || replicas < REPLICAS_LOOKED_AT ? replicas : REPLICAS_LOOKED_AT;
    int64_t steps = (int64_t)(effort / b->base.limits.groups / looked_at) + 1;
    steps = steps < total_steps ? steps : total_steps;
    for (int64_t k = 0; k < steps; k++) {
        int count = sampler_step(sampler, 1 + k * total_steps / steps, pair);
        add_step(s, c, b, pair, count, looked_at);
    }
    divide(c, (double)steps);
    c->sampled = (double)steps;
    if (!objective_of(&s->config->objective)->no_reference) look_at_reference(s, b, pair, looked_at, effort);
    free(pair);
    return true;
}

/* An objective with a baseline runs as many tokens once more, forward only: about a third of a pass. */
static void add_forward(StepCost *c)
{
    double *const parts[] = { &c->matmul, &c->head, &c->attention, &c->elementwise, &c->exchange };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) *parts[i] *= 1 + c->forward_share;
}

bool step_cost(StepCost *cost, const Config *config, const Architecture *a, const Pairs *pairs,
               const BatchLimits *limits, PlanShape shape, const Machine *machine, int64_t total_steps, double effort,
               Error *err)
{
    Scene s;
    Sampler sampler = { 0 };
    PairBatcher batcher = { 0 };
    *cost = (StepCost){ 0 };
    bool ok = scene_make(&s, config, a, shape, machine, err) &&
              sampler_create(&sampler, pairs, (Sampling)config->batch.sampling, (uint64_t)config->run.seed,
                             (int)config->batch.pairs, err) &&
              pair_batcher_create(&batcher, pairs, &s.grid, limits, err) &&
              look_at_run(&s, cost, &sampler, &batcher, total_steps, effort, err);
    if (ok) {
        cost->forward_share = trains_model(&s) ? PLAN_FORWARD_SHARE : 1 / (1 + trained_layers(&s) / a->layers);
        if (objective_of(&config->objective)->baseline) add_forward(cost);
        add_update(&s, cost, pairs->category_count);
        cost->width_most = s.width_most;
        cost->seconds =
            cost->matmul + cost->head + cost->attention + cost->elementwise + cost->exchange + cost->optimizer;
        cost->memory = memory_of(&s, pairs, limits);
    }
    pair_batcher_free(&batcher);
    sampler_free(&sampler);
    adapters_free(&s.adapters);
    parameters_free(&s.parameters);
    return ok;
}

/* ---- generation ---- */

/* y = W x for few tokens: W is read from memory while it is multiplied. A grid of one process copies nothing. */
static double few_tokens_seconds(const Scene *s, Extent out, Extent tokens, Extent in)
{
    const Machine *m = s->machine;
    int ranks = grid_span(s);
    ProductCost c =
        product_cost(PLAIN, PLAIN, out, tokens, in, s->shape.rows, s->shape.columns, (int)s->config->parallel.block);
    double computed = c.flops / (m->gflops * 1e9 * PANEL_RATE),
           read = FLOAT_BYTES * out.over_rows * in.over_columns / m->memory_bandwidth;
    return larger(computed, read) + (ranks > 1 ? c.copied / m->memory_bandwidth : 0) +
           exchange_seconds(s, c.row_bytes / ranks, c.row_messages, row_span(s)) +
           exchange_seconds(s, c.column_bytes / ranks, c.column_messages, ranks);
}

/* A forward pass over so many tokens and targets on a process column, without attention. */
static double forward_seconds(const Scene *s, int width, int targets)
{
    const Machine *m = s->machine;
    Work w = { 0 };
    double layers = s->a->layers;
    Extent tokens = tokens_extent(s, width);
    double products =
        layers *
        (few_tokens_seconds(s, s->qkv, tokens, s->hidden) + few_tokens_seconds(s, s->hidden, tokens, s->query) +
         few_tokens_seconds(s, s->gate_up, tokens, s->hidden) + few_tokens_seconds(s, s->hidden, tokens, s->mlp));
    if (targets > 0)
        products += few_tokens_seconds(s, s->vocab, tokens_extent(s, targets), s->hidden) +
                    targets * s->vocab.over_rows * m->mlp_forward;
    int norms = (int)((input_norms(s) + output_norms(s)) * layers) + 1;
    for (int i = 0; i < norms; i++) add_allreduce(s, &w, width * 8, s->shape.rows, grid_span(s));
    return products + w.exchange +
           width * (s->mlp.over_rows * layers * m->mlp_forward +
                    FLOAT_BYTES * layers * layer_traffic(s, false) / m->memory_bandwidth);
}

bool generation_cost(GenerationCost *cost, const Config *config, const Architecture *a, PlanShape shape,
                     const Machine *machine, const GenerationLoad *load, Error *err)
{
    Scene s;
    *cost = (GenerationCost){ 0 };
    bool ok = scene_make(&s, config, a, shape, machine, err);
    if (ok && load->answers > 0) {
        int here = load->lanes / shape.columns;
        double keys = 2 * s.local_heads / (a->heads / a->groups) * a->head_dim * a->layers * FLOAT_BYTES; /* a token */
        double reads = load->prompt_tokens / shape.columns, read = fmin(reads, load->max_tokens_pass);
        cost->pass = forward_seconds(&s, here, here) +
                     here * keys * (load->prompt + load->max_tokens / 2.0) / machine->memory_bandwidth;
        cost->passes = ceil(load->answers / load->lanes) * load->max_tokens;
        cost->decode = cost->passes * cost->pass;
        if (read >= 1)
            cost->prefill = reads / read * forward_seconds(&s, (int)read, 0) +
                            reads * load->prompt / 2 * a->layers * s.local_heads * machine->attention_forward;
    }
    parameters_free(&s.parameters);
    return ok;
}
