#include "catdpo/model/parameters.h"

#include <stdio.h>
#include <stdlib.h>

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

enum { LAYER_TENSORS = 11 }; /* indices in LayerTensors */

typedef struct Builder {
    Parameters *p;
    const Architecture *a;
    const Grid *grid;
} Builder;

/* Of layer `layer`; -1: of the whole model. `suffix` is appended to the name. */
static TensorPart part_make(int layer, const char *name, const char *suffix, int rows, int block)
{
    TensorPart part = { .rows = rows, .block = block };
    if (layer < 0)
        snprintf(part.name, sizeof part.name, "%s%s", name, suffix);
    else
        snprintf(part.name, sizeof part.name, "layers.%d.%s%s", layer, name, suffix);
    return part;
}

/* Appends a tensor of which the rows are blocked by the sum of its parts' blocks. Returns its index. */
static int append(Builder *b, bool vector, int columns, int part_count, const TensorPart *parts)
{
    int rows = 0, block = 0;
    Tensor t = { .part_count = part_count, .vector = vector };
    for (int i = 0; i < part_count; i++) {
        t.part[i] = parts[i];
        rows += parts[i].rows;
        block += parts[i].block;
    }
    t.rows = axis_make(rows, block, b->grid->rows, b->grid->row);
    t.columns = vector ? axis_make(1, 1, 1, 0) : axis_even(columns, b->grid->columns, b->grid->column);
    t.local = (int64_t)t.rows.local * t.columns.local;
    b->p->logical += (int64_t)rows * columns;
    b->p->tensor[b->p->count] = t;
    return b->p->count++;
}

static int matrix(Builder *b, int layer, const char *name, int rows, int columns, int block)
{
    return append(b, false, columns, 1, (TensorPart[]){ part_make(layer, name, ".weight", rows, block) });
}

/* A norm of the hidden state; -1 without a name. */
static int norm(Builder *b, int layer, const char *name)
{
    int hidden = b->a->hidden;
    if (!name) return -1;
    return append(b, true, 1, 1, (TensorPart[]){ part_make(layer, name, "", hidden, ceil_div(hidden, b->grid->rows)) });
}

/* The norm of each of `heads` heads, or of all of them; -1 without a name. */
static int qk_norm(Builder *b, int layer, const char *name, int heads)
{
    int dim = b->a->head_dim;
    if (!name) return -1;
    if (b->p->layer[layer].plan.joint_qk_norm) /* lies as the heads do */
        return append(b, true, 1, 1,
                      (TensorPart[]){ part_make(layer, name, "", heads * dim, heads / b->a->groups * dim) });
    int index = append(b, true, 1, 1, (TensorPart[]){ part_make(layer, name, "", dim, dim) });
    Tensor *t = &b->p->tensor[index];
    t->rows = axis_make(dim, dim, 1, 0);
    t->everywhere = true;
    t->local = dim;
    return index;
}

/* q, k and v under one: their weights (columns of H features) or biases. */
static int append_qkv(Builder *b, int layer, const char *suffix, bool vector)
{
    const Architecture *a = b->a;
    const LayerPlan *plan = &b->p->layer[layer].plan;
    int dim = a->head_dim, query = a->heads * dim, key = a->groups * dim, group = a->heads / a->groups * dim;
    return append(b, vector, vector ? 1 : a->hidden, 3,
                  (TensorPart[]){ part_make(layer, plan->query, suffix, query, group),
                                  part_make(layer, plan->key, suffix, key, dim),
                                  part_make(layer, plan->value, suffix, key, dim) });
}

static void append_matrices(Builder *b)
{
    const Architecture *a = b->a;
    int rows = b->grid->rows, query = a->heads * a->head_dim;
    int hidden_block = ceil_div(a->hidden, rows), mlp_block = ceil_div(a->mlp, rows),
        vocab_block = ceil_div(a->vocab, rows);
    Parameters *p = b->p;

    p->embedding = matrix(b, -1, "embed_tokens", a->vocab, a->hidden, vocab_block);
    p->head = a->tied ? p->embedding : matrix(b, -1, "lm_head", a->vocab, a->hidden, vocab_block);
    for (int l = 0; l < a->layers; l++) {
        LayerTensors *layer = &p->layer[l];
        layer->qkv = append_qkv(b, l, ".weight", false);
        layer->attention_out = matrix(b, l, layer->plan.attention_out, a->hidden, query, hidden_block);
        layer->gate_up = append(b, false, a->hidden, 2,
                                (TensorPart[]){ part_make(l, layer->plan.gate, ".weight", a->mlp, mlp_block),
                                                part_make(l, layer->plan.up, ".weight", a->mlp, mlp_block) });
        layer->mlp_down = matrix(b, l, layer->plan.mlp_down, a->hidden, a->mlp, hidden_block);
    }
}

static void append_vectors(Builder *b)
{
    for (int l = 0; l < b->a->layers; l++) {
        LayerTensors *layer = &b->p->layer[l];
        const LayerPlan *plan = &layer->plan;
        layer->attention_norm = norm(b, l, plan->attention_norm);
        layer->mlp_norm = norm(b, l, plan->mlp_norm);
        layer->attention_post_norm = norm(b, l, plan->attention_post_norm);
        layer->mlp_post_norm = norm(b, l, plan->mlp_post_norm);
        layer->qkv_bias = plan->qkv_bias ? append_qkv(b, l, ".bias", true) : -1;
        layer->q_norm = qk_norm(b, l, plan->query_norm, b->a->heads);
        layer->k_norm = qk_norm(b, l, plan->key_norm, b->a->groups);
    }
    b->p->final_norm = norm(b, -1, "norm.weight");
}

bool parameters_layout(Parameters *p, const Architecture *a, const Grid *grid, Error *err)
{
    *p = (Parameters){ 0 };
    p->tensor = calloc((size_t)(3 + LAYER_TENSORS * a->layers), sizeof *p->tensor);
    p->layer = calloc((size_t)a->layers, sizeof *p->layer);
    if (!p->tensor || !p->layer) {
        parameters_free(p);
        return error_fault(err, "out of memory for the table of the model's tensors");
    }
    for (int l = 0; l < a->layers; l++) p->layer[l].plan = architecture_family(a)->layer(a, l);
    Builder builder = { p, a, grid };
    append_matrices(&builder);
    int matrices = p->count;
    append_vectors(&builder);
    parameters_place(p, matrices);
    return true;
}

void parameters_place(Parameters *p, int matrices)
{
    int64_t offset = 0;
    for (int i = 0; i < p->count; i++) {
        if (i == matrices) p->matrix_floats = offset;
        p->tensor[i].offset = offset;
        offset += (p->tensor[i].local + 15) / 16 * 16; /* 64 bytes */
    }
    p->local_floats = offset;
    if (matrices == p->count) p->matrix_floats = offset;
}

void parameters_free(Parameters *p)
{
    free(p->tensor);
    free(p->layer);
    *p = (Parameters){ 0 };
}

Matrix tensor_matrix(const Tensor *t, const Grid *grid, float *flat)
{
    return matrix_make(grid, &t->rows, &t->columns, t->rows.local, flat + t->offset);
}

void parameters_share(const Parameters *p, int replicas, int64_t *bounds)
{
    bounds[0] = 0;
    int index = 0;
    for (int d = 1; d < replicas; d++) {
        int64_t wish = p->matrix_floats * d / replicas;
        while (index + 1 < p->count && p->tensor[index + 1].offset <= wish) index++;
        const Tensor *t = &p->tensor[index];
        int64_t stride = t->rows.local > 0 ? t->rows.local : 1, columns = (wish - t->offset) / stride;
        if (columns > t->columns.local) columns = t->columns.local;
        bounds[d] = t->offset + columns * t->rows.local;
    }
    bounds[replicas] = p->local_floats;
}
