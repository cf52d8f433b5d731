/* The weights of a model: every tensor is a block-cyclic matrix, all local parts lie in one flat array.
 *
 * Tensors that are applied to the same input are one matrix, so that one product does the work of three: q, k and v,
 * and gate and up. Their rows alternate by block, such that what belongs together (a key/value group, the same MLP
 * features) is on one process row:
 *
 *     qkv      row block  (heads/group + 2) x head size :  the group's query heads, its key head, its value head
 *     gate_up  row block  2 x ceil(M / R)               :  gate rows, then the same up rows
 *
 * A TensorPart names the Hugging Face tensor and its rows in each block; files hold the parts, never the fused matrix.
 * Vectors (norm weights, biases) are spread over process rows and repeated on every process column.
 *
 * A shard that has the shape of the weights (gradients, moments) is addressed by the same offsets.
 */
#ifndef CATDPO_MODEL_PARAMETERS_H
#define CATDPO_MODEL_PARAMETERS_H

#include "catdpo/model/architecture.h"
#include "catdpo/parallel/matrix.h"

#include <stdint.h>

enum { PART_NAME = 96, TENSOR_PARTS = 3 };

typedef struct TensorPart {
    char name[PART_NAME]; /* Hugging Face's name without "model.": layers.0.self_attn.q_proj.weight */
    int rows;             /* of the whole tensor */
    int block;            /* its rows in a full row block of the matrix */
} TensorPart;

typedef struct Tensor {
    TensorPart part[TENSOR_PARTS];
    int part_count;
    bool vector;        /* one logical column, repeated on process columns */
    bool everywhere;    /* a vector that every process row needs whole (norms of each q and k head) */
    Axis rows, columns; /* of the fused matrix; a vector has columns.local = 1 everywhere */
    int64_t offset;     /* of the local part in the flat array, in floats */
    int64_t local;      /* floats of the local part: column-major, stride rows.local */
} Tensor;

/* Indices of a layer's tensors; -1 where it has none. */
typedef struct LayerTensors {
    LayerPlan plan;
    int qkv, attention_out, gate_up, mlp_down;
    int attention_norm, mlp_norm, attention_post_norm, mlp_post_norm;
    int qkv_bias, q_norm, k_norm;
} LayerTensors;

typedef struct Parameters {
    Tensor *tensor;
    int count;
    int embedding, head, final_norm; /* head == embedding where tied */
    LayerTensors *layer;
    int64_t matrix_floats; /* matrices come first in the flat array, */
    int64_t local_floats;  /* vectors after them */
    int64_t logical;       /* parameters of the model, over all ranks */
} Parameters;

/* The layout of all tensors on this rank; allocates no weights. Not collective. */
bool parameters_layout(Parameters *p, const Architecture *a, const Grid *grid, Error *err);
void parameters_free(Parameters *p);

/* Gives the tensors of a table their places in the flat array, one behind the other; the first `matrices` of them are
 * matrices. Not collective. */
void parameters_place(Parameters *p, int matrices);

/* The tensor's matrix over a flat array of the weights' shape. */
Matrix tensor_matrix(const Tensor *tensor, const Grid *grid, float *flat);

/* Replicas share the flat array out by bounds[D+1], cut at whole columns of a tensor, nearly equal. Vectors go to the
 * last one. */
void parameters_share(const Parameters *p, int replicas, int64_t *bounds);

#endif
