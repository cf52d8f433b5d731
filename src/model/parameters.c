#include "catdpo/model/parameters.h"

#include <stdio.h>
#include <stdlib.h>

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

typedef struct Builder {
    Parameters *p;
    const Architecture *a;
    const Grid *grid;
} Builder;

static TensorPart part_make(int layer, const char *name, int rows, int block)
{
    TensorPart part = { .rows = rows, .block = block };
    if (layer < 0)
        snprintf(part.name, sizeof part.name, "%s", name);
    else
        snprintf(part.name, sizeof part.name, "layers.%d.%s", layer, name);
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
    return append(b, false, columns, 1, (TensorPart[]){ part_make(layer, name, rows, block) });
}

static int norm(Builder *b, int layer, const char *name)
{
    int hidden = b->a->hidden;
    return append(b, true, 1, 1, (TensorPart[]){ part_make(layer, name, hidden, ceil_div(hidden, b->grid->rows)) });
}

static int head_norm(Builder *b, int layer, const char *name)
{
    int index = append(b, true, 1, 1, (TensorPart[]){ part_make(layer, name, b->a->head_dim, b->a->head_dim) });
    Tensor *t = &b->p->tensor[index];
    t->rows = axis_make(b->a->head_dim, b->a->head_dim, 1, 0);
    t->everywhere = true;
    t->local = b->a->head_dim;
    return index;
}

static void append_matrices(Builder *b)
{
    const Architecture *a = b->a;
    int rows = b->grid->rows, dim = a->head_dim, query = a->heads * dim, key = a->groups * dim,
        group = a->heads / a->groups * dim;
    int hidden_block = ceil_div(a->hidden, rows), mlp_block = ceil_div(a->mlp, rows),
        vocab_block = ceil_div(a->vocab, rows);
    Parameters *p = b->p;

    p->embedding = matrix(b, -1, "embed_tokens.weight", a->vocab, a->hidden, vocab_block);
    p->head = a->tied ? p->embedding : matrix(b, -1, "lm_head.weight", a->vocab, a->hidden, vocab_block);
    for (int l = 0; l < a->layers; l++) {
        LayerTensors *layer = &p->layer[l];
        layer->qkv = append(b, false, a->hidden, 3,
                            (TensorPart[]){ part_make(l, "self_attn.q_proj.weight", query, group),
                                            part_make(l, "self_attn.k_proj.weight", key, dim),
                                            part_make(l, "self_attn.v_proj.weight", key, dim) });
        layer->attention_out = matrix(b, l, "self_attn.o_proj.weight", a->hidden, query, hidden_block);
        layer->gate_up = append(b, false, a->hidden, 2,
                                (TensorPart[]){ part_make(l, "mlp.gate_proj.weight", a->mlp, mlp_block),
                                                part_make(l, "mlp.up_proj.weight", a->mlp, mlp_block) });
        layer->mlp_down = matrix(b, l, "mlp.down_proj.weight", a->hidden, a->mlp, hidden_block);
    }
}

static void append_vectors(Builder *b)
{
    const Architecture *a = b->a;
    int dim = a->head_dim, query = a->heads * dim, key = a->groups * dim, group = a->heads / a->groups * dim;
    for (int l = 0; l < a->layers; l++) {
        LayerTensors *layer = &b->p->layer[l];
        layer->attention_norm = norm(b, l, "input_layernorm.weight");
        layer->mlp_norm = norm(b, l, "post_attention_layernorm.weight");
        layer->qkv_bias = !a->attention_bias
                              ? -1
                              : append(b, true, 1, 3,
                                       (TensorPart[]){ part_make(l, "self_attn.q_proj.bias", query, group),
                                                       part_make(l, "self_attn.k_proj.bias", key, dim),
                                                       part_make(l, "self_attn.v_proj.bias", key, dim) });
        layer->q_norm = a->qk_norm ? head_norm(b, l, "self_attn.q_norm.weight") : -1;
        layer->k_norm = a->qk_norm ? head_norm(b, l, "self_attn.k_norm.weight") : -1;
    }
    b->p->final_norm = norm(b, -1, "norm.weight");
}

bool parameters_layout(Parameters *p, const Architecture *a, const Grid *grid, Error *err)
{
    *p = (Parameters){ 0 };
    p->tensor = calloc((size_t)(3 + 9 * a->layers), sizeof *p->tensor);
    p->layer = calloc((size_t)a->layers, sizeof *p->layer);
    if (!p->tensor || !p->layer) {
        parameters_free(p);
        return error_fault(err, "out of memory for the table of the model's tensors");
    }
    Builder builder = { p, a, grid };
    append_matrices(&builder);
    int matrices = p->count;
    append_vectors(&builder);

    int64_t offset = 0;
    for (int i = 0; i < p->count; i++) {
        if (i == matrices) p->matrix_floats = offset;
        p->tensor[i].offset = offset;
        offset += (p->tensor[i].local + 15) / 16 * 16; /* 64 bytes */
    }
    p->local_floats = offset;
    return true;
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
