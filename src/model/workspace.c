/* Creation of a Transformer: the layout of its weights, gradients and activations in one allocation each. */
#include "catdpo/core/memory.h"
#include "catdpo/model/transformer.h"

#include <stdlib.h>
#include <string.h>

static bool has_gradients(const TransformerLimits *limits) { return limits->backward && !limits->frozen; }

static BlockOutput carve_output(const Transformer *t, Arena *arena, int64_t w, int norm)
{
    if (norm < 0) return (BlockOutput){ NULL, NULL };
    return (BlockOutput){ .raw = arena_floats(arena, w * t->hidden.local), .rstd = arena_floats(arena, w) };
}

static LayerActivations carve_layer(const Transformer *t, Arena *arena, int64_t w)
{
    const LayerTensors *tensors = &t->parameters.layer[0]; /* all layers have the same parts */
    return (LayerActivations){
        .qkv = arena_floats(arena, w * t->qkv.local),
        .raw = tensors->q_norm >= 0 ? arena_floats(arena, w * t->qkv.local) : NULL,
        .attention = arena_floats(arena, w * t->query.local),
        .lse = arena_floats(arena, w * t->attention.groups * t->attention.per_group),
        .middle = arena_floats(arena, w * t->hidden.local),
        .gate_up = arena_floats(arena, w * 2 * t->mlp.local),
        .attention_rstd = arena_floats(arena, w),
        .mlp_rstd = arena_floats(arena, w),
        .attention_output = carve_output(t, arena, w, tensors->attention_post_norm),
        .mlp_output = carve_output(t, arena, w, tensors->mlp_post_norm),
    };
}

static void carve_layers(Transformer *t, Arena *arena, int64_t w)
{
    int layers = t->architecture.layers;
    bool keep_inputs = t->limits.backward, keep_all = t->limits.backward && !t->limits.recompute;
    for (int l = 0; l <= layers; l++) /* without a backward pass two buffers take turns */
        t->input[l] = keep_inputs || l < 2 ? arena_floats(arena, w * t->hidden.local) : t->input[l - 2];
    for (int l = 0; l < layers; l++) t->layer[l] = keep_all || l == 0 ? carve_layer(t, arena, w) : t->layer[0];
}

static void carve_head(Transformer *t, Arena *arena, int64_t width)
{
    t->head = (Head){
        .grid = t->grid,
        .vocab = t->embedding.vocab,
        .features = t->embedding.features,
        .hidden = t->hidden,
        .max_chunk = (int)width,
        .hidden_part = arena_floats(arena, width * t->hidden.local),
        .dhidden_part = arena_floats(arena, t->limits.backward ? width * t->hidden.local : 0),
        .logits = arena_floats(arena, width * t->embedding.vocab.local),
        .top = arena_floats(arena, width),
        .shift = arena_floats(arena, width),
        .sums = arena_take(arena, width * 4, sizeof(double)),
        .lse = arena_take(arena, width, sizeof(double)),
        .entropy = arena_take(arena, width, sizeof(double)),
        .coefficient = arena_floats(arena, t->limits.max_sequences),
    };
    t->result = arena_take(arena, t->limits.max_sequences, sizeof(SequenceResult));
}

/* All buffers of a pass of w columns with chunks of at most `chunk` logit columns. */
static void carve(Transformer *t, Arena *arena, int64_t w, int64_t chunk)
{
    int64_t backward = t->limits.backward ? w : 0;
    carve_layers(t, arena, w);
    t->rstd = arena_floats(arena, w);
    t->normed = arena_floats(arena, w * t->hidden.local);
    t->act = arena_floats(arena, w * t->mlp.local);
    t->dqkv = arena_floats(arena, backward * t->qkv.local);
    t->dattention = arena_floats(arena, backward * t->query.local);
    t->dx = arena_floats(arena, backward * t->hidden.local);
    t->dnormed = arena_floats(arena, backward * t->hidden.local);
    t->sums = arena_take(arena, t->qk_norm.joint ? 4 * w : w, sizeof(double));
    t->scratch = arena_floats(arena, attention_scratch(&t->attention, t->limits.longest));
    t->embedding.send = arena_floats(arena, embedding_send_floats(&t->embedding, (int)w));
    t->embedding.receive = arena_floats(arena, embedding_receive_floats(&t->embedding, (int)w));
    carve_head(t, arena, chunk);
    bool attack = t->limits.attack;
    t->attack = (AttackBuffers){
        .delta = arena_floats(arena, attack ? w * t->hidden.local : 0),
        .sums = arena_take(arena, attack ? w : 0, sizeof(double)),
        .table = arena_take(arena, attack ? t->embedding.vocab.local : 0, sizeof(double)),
        .clean = arena_take(arena, attack ? t->limits.max_sequences : 0, sizeof(SequenceResult)),
    };
}

void transformer_arrange(Transformer *t, int width, int chunk)
{
    CHECK(width <= t->limits.max_width && chunk <= t->limits.max_chunk);
    carve(t, &(Arena){ .base = t->memory }, width, chunk);
}

/* All sizes and small tables; no large memory. Not collective. */
static bool lay_out(Transformer *t, const Architecture *a, Grid *grid, const TransformerLimits *limits, Timer *timer,
                    Error *err)
{
    int dim = a->head_dim, per_group = a->heads / a->groups, mlp_block = (a->mlp + grid->rows - 1) / grid->rows;
    *t = (Transformer){ .architecture = *a, .limits = *limits, .grid = grid, .timer = timer };
    t->plan = architecture_family(a)->model(a);
    t->hidden = axis_even(a->hidden, grid->rows, grid->row);
    t->mlp = axis_make(a->mlp, mlp_block, grid->rows, grid->row);
    t->query = axis_make(a->heads * dim, per_group * dim, grid->rows, grid->row);
    t->qkv = axis_make((a->heads + 2 * a->groups) * dim, (per_group + 2) * dim, grid->rows, grid->row);
    t->attention = (AttentionShape){ .groups = t->query.local / (per_group * dim),
                                     .per_group = per_group,
                                     .head_dim = dim,
                                     .scale = t->plan.attention_scale };
    t->qk_norm = (QkNorm){ .grid = grid,
                           .groups = t->attention.groups,
                           .all_groups = a->groups,
                           .per_group = per_group,
                           .head_dim = dim,
                           .joint = architecture_family(a)->layer(a, 0).joint_qk_norm,
                           .epsilon = a->norm_epsilon,
                           .offset = t->plan.norm_offset };
    t->input = calloc((size_t)a->layers + 1, sizeof *t->input);
    t->layer = calloc((size_t)a->layers, sizeof *t->layer);
    t->products = calloc((size_t)a->layers, sizeof *t->products);
    if (!t->input || !t->layer || !t->products)
        return error_fault(err, "out of memory for the table of %d layers", a->layers);
    t->trained = limits->adapters.rank > 0 ? &t->adapters.parameters : &t->parameters;
    return parameters_layout(&t->parameters, a, grid, err) &&
           adapters_layout(&t->adapters, &limits->adapters, a, &t->parameters, grid, err) &&
           embedding_create(&t->embedding, grid, a->vocab, a->hidden, t->plan.embedding_scale, limits->max_width, err);
}

/* W of `weight`, with the bias unless it is -1, applied to activations with rows `in`. */
static Linear linear_of(const Transformer *t, int weight, int bias, const Axis *in)
{
    const Tensor *w = &t->parameters.tensor[weight];
    int64_t at = bias < 0 ? 0 : t->parameters.tensor[bias].offset;
    return (Linear){
        .grid = t->grid,
        .in = *in,
        .out = w->rows,
        .weight = tensor_matrix(w, t->grid, t->weights),
        .gradient = t->model_gradients ? tensor_matrix(w, t->grid, t->model_gradients) : (Matrix){ .data = NULL },
        .bias = bias < 0 ? NULL : t->weights + at,
        .dbias = bias < 0 || !t->model_gradients ? NULL : t->model_gradients + at,
    };
}

static void make_products(Transformer *t)
{
    for (int l = 0; l < t->architecture.layers; l++) {
        const LayerTensors *w = &t->parameters.layer[l];
        t->products[l] = (LayerProducts){
            .qkv = linear_of(t, w->qkv, w->qkv_bias, &t->hidden),
            .attention_out = linear_of(t, w->attention_out, -1, &t->query),
            .gate_up = linear_of(t, w->gate_up, -1, &t->hidden),
            .mlp_down = linear_of(t, w->mlp_down, -1, &t->mlp),
        };
        LayerProducts *p = &t->products[l];
        const Linear *const linear[PRODUCTS] = { &p->qkv, &p->attention_out, &p->gate_up, &p->mlp_down };
        for (int i = 0; i < PRODUCTS && t->adapters.settings.rank > 0; i++)
            p->adapter[i] = adapters_product(&t->adapters, t->grid, l, i, &linear[i]->in, &linear[i]->out,
                                             t->trained_weights, t->gradients);
    }
}

/* Weights of the adapters, and what all their products share. */
static void carve_adapters(Transformer *t, Arena *arena)
{
    const Adapters *x = &t->adapters;
    int64_t backward = t->limits.backward, inner = x->inner * t->limits.max_width;
    float *weights = arena_floats(arena, x->parameters.local_floats), *wide = arena_floats(arena, x->wide_floats),
          *dwide = arena_floats(arena, backward * x->wide_floats), *z = arena_floats(arena, inner),
          *dz = arena_floats(arena, backward * inner);
    if (!arena->base) return;
    t->trained_weights = weights;
    make_products(t);
    for (int l = 0; l < t->architecture.layers; l++)
        for (int i = 0; i < PRODUCTS; i++) {
            LowRank *adapter = &t->products[l].adapter[i];
            adapter->wide = wide, adapter->dwide = dwide, adapter->z = z, adapter->dz = dz;
        }
}

void transformer_use_adapters(Transformer *t, bool use)
{
    for (int l = 0; l < t->architecture.layers; l++) {
        LayerProducts *p = &t->products[l];
        Linear *const linear[PRODUCTS] = { &p->qkv, &p->attention_out, &p->gate_up, &p->mlp_down };
        for (int i = 0; i < PRODUCTS; i++) linear[i]->adapter = use && p->adapter[i].parts > 0 ? &p->adapter[i] : NULL;
    }
}

void transformer_merge(Transformer *t, const Adapters *x, float *weights, float *wide)
{
    for (int l = x->lowest; l < t->architecture.layers; l++) {
        LayerProducts *p = &t->products[l];
        Linear *const linear[PRODUCTS] = { &p->qkv, &p->attention_out, &p->gate_up, &p->mlp_down };
        for (int i = 0; i < PRODUCTS; i++) {
            LowRank adapter = adapters_product(x, t->grid, l, i, &linear[i]->in, &linear[i]->out, weights, NULL);
            adapter.wide = wide;
            if (adapter.parts > 0) low_rank_merge(&adapter, &linear[i]->weight);
        }
    }
}

static bool allocate(Transformer *t, Error *err)
{
    Arena count = { 0 };
    carve(t, &count, t->limits.max_width, t->limits.max_chunk);
    t->activation_bytes = count.used;
    bool adapters = t->limits.adapters.rank > 0;
    Arena adapter_count = { 0 };
    if (adapters) carve_adapters(t, &adapter_count);
    t->adapter_bytes = adapter_count.used;
    t->weight_bytes = t->parameters.local_floats * (int64_t)sizeof(float);
    t->gradient_bytes = has_gradients(&t->limits) ? t->trained->local_floats * (int64_t)sizeof(float) : 0;
    t->trained_weights = t->weights = memory_allocate(t->weight_bytes, "weights", err);
    bool gradients = has_gradients(&t->limits);
    t->gradients = t->weights && gradients ? memory_allocate(t->gradient_bytes, "gradients", err) : NULL;
    if (!t->weights || (gradients && !t->gradients)) return false;
    t->model_gradients = adapters ? NULL : t->gradients;
    if (adapters && !(t->adapter_memory = memory_allocate(t->adapter_bytes, "adapters", err))) return false;
    if (adapters)
        carve_adapters(t, &(Arena){ .base = t->adapter_memory });
    else
        make_products(t);
    t->memory =
        memory_allocate(t->activation_bytes,
                        "activations (lower batch.max_tokens or engine.logits_mb, or set engine.recompute)", err);
    return t->memory != NULL;
}

/* The tables of all rotations that the layers ask for. */
static bool make_rotations(Transformer *t, Error *err)
{
    const Architecture *a = &t->architecture;
    int positions = t->limits.longest + 1;
    bool local = false;
    for (int l = 0; l < a->layers; l++) local = local || t->parameters.layer[l].plan.local_rope;
    RopeSettings rope = { .type = ROPE_DEFAULT, .theta = a->local_theta };
    return rotary_create(&t->rotary, &a->rope, a->head_dim, positions, err) &&
           (!local || rotary_create(&t->local_rotary, &rope, a->head_dim, positions, err));
}

bool transformer_create(Transformer *t, const Architecture *a, Grid *grid, const TransformerLimits *limits,
                        Timer *timer, Error *err)
{
    bool ok = lay_out(t, a, grid, limits, timer, err) && make_rotations(t, err) && allocate(t, err);
    if (!error_agree(grid->world, ok, err)) {
        transformer_free(t);
        return false;
    }
    return true;
}

void transformer_free(Transformer *t)
{
    memory_free(t->memory);
    memory_free(t->adapter_memory);
    memory_free(t->gradients);
    memory_free(t->weights);
    embedding_free(&t->embedding);
    rotary_free(&t->rotary);
    rotary_free(&t->local_rotary);
    adapters_free(&t->adapters);
    parameters_free(&t->parameters);
    free(t->products);
    free(t->layer);
    free(t->input);
    *t = (Transformer){ 0 };
}

TransformerBytes transformer_bytes(const Architecture *a, const TransformerLimits *limits, int replicas, int rows,
                                   int columns, bool sharded_moments)
{
    Grid grid = { .replicas = replicas,
                  .rows = rows,
                  .columns = columns }; /* the rank at (0, 0) has the largest share */
    Transformer t;
    Error ignored = { 0 };
    TransformerBytes bytes = { 0 };
    if (lay_out(&t, a, &grid, limits, NULL, &ignored)) {
        Arena count = { 0 };
        carve(&t, &count, limits->max_width, limits->max_chunk);
        bytes.weights = t.parameters.local_floats * (int64_t)sizeof(float);
        int64_t trained = t.trained->local_floats * (int64_t)sizeof(float);
        bytes.gradients = has_gradients(limits) ? trained : 0;
        bytes.moments = has_gradients(limits) ? 2 * trained / (sharded_moments ? replicas : 1) : 0;
        Arena adapters = { 0 };
        if (limits->adapters.rank > 0) carve_adapters(&t, &adapters);
        bytes.adapters = adapters.used;
        bytes.logits = (int64_t)limits->max_chunk * t.embedding.vocab.local * (int64_t)sizeof(float);
        bytes.activations = count.used - bytes.logits;
    }
    transformer_free(&t);
    return bytes;
}
