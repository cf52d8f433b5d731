#include "tiny.h"

#include "catdpo/core/phase.h"
#include "catdpo/core/rng.h"
#include "catdpo/plan/plan.h"

#include <string.h>

enum { PAIRS = 6, TOKENS = 36, HEAD = 8, LAYERS = 2, VOCAB = 131, HIDDEN = 44, MLP = 59 };

int tiny_groups(const Shape shapes[], int count)
{
    int groups = 3;
    for (int i = 0; i < count; i++) groups = shapes[i].rows > groups ? shapes[i].rows : groups;
    return groups;
}

bool tiny_open(Tiny *t, MPI_Comm world, Shape shape, int groups, Error *err)
{
    const Architecture a = { .name = "llama",
                             .hidden = HIDDEN,
                             .mlp = MLP,
                             .vocab = VOCAB,
                             .layers = LAYERS,
                             .heads = 2 * groups,
                             .groups = groups,
                             .head_dim = HEAD,
                             .max_positions = 4 * TOKENS,
                             .norm_epsilon = 1e-5,
                             .rope = { .theta = 10000, .factor = 1 } };
    const BatchLimits batch = { .columns = shape.columns,
                                .groups = PAIRS,
                                .max_tokens = PAIRS * 2 * TOKENS,
                                .accumulation = 1,
                                .logit_columns = 64,
                                .share_prompt = true };
    const OptimizerSettings settings = { .beta1 = .9, .beta2 = .999, .epsilon = 1e-8 };
    *t = (Tiny){ .timer = timer_new(PHASES, phase_name) };
    if (!error_agree(world, t->timer || error_fault(err, "out of memory for a check"), err) ||
        !grid_create(&t->grid, world, shape.replicas, shape.rows, shape.columns, err))
        return false;
    bool ok = error_agree(world,
                          pairs_invent(&t->pairs, PAIRS, 2 * TOKENS, 0.6, VOCAB, err) &&
                              pair_batcher_create(&t->batcher, &t->pairs, &t->grid, &batch, err),
                          err);
    const TransformerLimits limits = { .max_width = t->batcher.base.most.width,
                                       .max_chunk = t->batcher.base.most.chunk,
                                       .max_sequences = 2 * PAIRS,
                                       .longest = (int)t->pairs.longest,
                                       .backward = true };
    ok = ok && transformer_create(&t->model, &a, &t->grid, &limits, t->timer, err) &&
         optimizer_create(&t->optimizer, &t->model.parameters, &t->grid, &settings, err);
    if (!ok) return false;
    tiny_random(t, 1, t->model.weights);
    for (int i = 0; i < t->model.parameters.count; i++) {
        const Tensor *tensor = &t->model.parameters.tensor[i];
        for (int64_t j = tensor->offset; j < tensor->offset + tensor->local; j++)
            t->model.weights[j] = tensor->vector ? 1 + 0.3f * t->model.weights[j] : 0.25f * t->model.weights[j];
    }
    return true;
}

void tiny_close(Tiny *t)
{
    if (t->optimizer.grid) optimizer_free(&t->optimizer);
    if (t->model.grid) transformer_free(&t->model);
    pair_batcher_free(&t->batcher);
    pairs_free(&t->pairs);
    timer_free(t->timer);
    if (t->grid.world) grid_free(&t->grid);
    *t = (Tiny){ 0 };
}

/* Which of its parts a row of the fused matrix belongs to, and which row of the part it is. */
static int part_of_row(const Tensor *t, int fused, int *row)
{
    int block = fused / t->rows.block, within = fused % t->rows.block, p = 0;
    for (;; p++) {
        int rest = t->part[p].rows - block * t->part[p].block, size = rest < t->part[p].block ? rest : t->part[p].block;
        if (within < size || p == t->part_count - 1) break;
        within -= size;
    }
    *row = block * t->part[p].block + within;
    return p;
}

void tiny_random(const Tiny *t, uint64_t seed, float *values)
{
    for (int i = 0; i < t->model.parameters.count; i++) {
        const Tensor *tensor = &t->model.parameters.tensor[i];
        for (int c = 0; c < tensor->columns.local; c++)
            for (int r = 0; r < tensor->rows.local; r++) {
                int row, part = part_of_row(tensor, axis_global(&tensor->rows, r), &row);
                uint64_t index =
                    (uint64_t)row << 24 | (uint64_t)(tensor->vector ? 0 : axis_global(&tensor->columns, c));
                uint64_t bits = rng_at(seed, (uint64_t)(i * TENSOR_PARTS + part), index);
                values[tensor->offset + (int64_t)c * tensor->rows.local + r] =
                    (float)((double)(bits >> 40) * 0x1p-23 - 1);
            }
    }
}

/* ---- a pass ----------------------------------------------------------------------------------------------------- */

static void coefficients(void *context, const Batch *batch, int first, int count, const SequenceResult *result,
                         float *coefficient)
{
    Tiny *t = context;
    for (int i = batch->group[first].sequence; i < batch->group[first + count].sequence; i++) {
        coefficient[i] = i % 2 == 0 ? 1 : -0.5f;
        t->sum += coefficient[i] * result[i].logp;
    }
}

double tiny_run(Tiny *t, bool backward)
{
    const int64_t pairs[PAIRS] = { 0, 1, 2, 3, 4, 5 };
    t->sum = 0;
    if (backward) memset(t->model.gradients, 0, sizeof(float) * (size_t)t->model.parameters.local_floats);
    pair_batcher_plan(&t->batcher, pairs, PAIRS);
    for (int pass = 0; pass < t->batcher.base.passes; pass++) {
        const Batch *batch = batcher_pass(&t->batcher.base, pass);
        float unused[2 * PAIRS];
        if (backward) {
            transformer_pass(&t->model, batch, coefficients, t, pass > 0);
            continue;
        }
        transformer_forward(&t->model, batch, NULL, NULL, NULL);
        coefficients(t, batch, 0, batch->group_count, t->model.result, unused);
    }
    if (backward) optimizer_reduce(&t->optimizer, t->model.gradients);
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &t->sum, 1, MPI_DOUBLE, MPI_SUM, t->grid.replica_comm));
    return t->sum;
}

/* ---- kinds of weights ------------------------------------------------------------------------------------------- */

const char *tiny_kind(int kind)
{
    static const char *const names[TINY_KINDS] = { "embedding and head", "q, k, v",      "attention's output",
                                                   "gate and up",        "MLP's output", "norms" };
    return names[kind];
}

static int kind_of(const Parameters *p, int index)
{
    if (p->tensor[index].vector) return 5;
    for (int l = 0; l < LAYERS; l++) {
        const LayerTensors *layer = &p->layer[l];
        const int tensors[] = { layer->qkv, layer->attention_out, layer->gate_up, layer->mlp_down };
        for (int i = 0; i < 4; i++)
            if (tensors[i] == index) return 1 + i;
    }
    return 0;
}

double tiny_dot(const Tiny *t, int kind, const float *a, const float *b)
{
    double sum = 0;
    for (int i = 0; i < t->model.parameters.count; i++) {
        const Tensor *tensor = &t->model.parameters.tensor[i];
        bool mine = !tensor->vector || (t->grid.column == 0 && (!tensor->everywhere || t->grid.row == 0));
        if (kind_of(&t->model.parameters, i) != kind || !mine) continue;
        for (int64_t j = tensor->offset; j < tensor->offset + tensor->local; j++) sum += (double)a[j] * b[j];
    }
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &sum, 1, MPI_DOUBLE, MPI_SUM, t->grid.comm));
    return sum;
}

void tiny_add(const Tiny *t, int kind, float *a, double factor, const float *b)
{
    for (int i = 0; i < t->model.parameters.count; i++) {
        const Tensor *tensor = &t->model.parameters.tensor[i];
        if (kind_of(&t->model.parameters, i) != kind) continue;
        for (int64_t j = tensor->offset; j < tensor->offset + tensor->local; j++) a[j] += (float)(factor * b[j]);
    }
}
