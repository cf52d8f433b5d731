/* The model on a grid: weights, gradients, activations, and a pass through all layers forward and backward.
 *
 * Either the model itself is trained, or it is frozen and its adapters are (adapters.h). What is trained has gradients.
 *
 * Arrays are this rank's parts, column-major, features x tokens; w is the width of the pass at hand (at most
 * max_width). One allocation each holds the weights, the gradients and the activations; nothing is allocated in a pass.
 */
#ifndef CATDPO_MODEL_TRANSFORMER_H
#define CATDPO_MODEL_TRANSFORMER_H

#include "catdpo/ops/attention.h"
#include "catdpo/ops/embedding.h"
#include "catdpo/ops/head.h"
#include "catdpo/ops/kv_cache.h"
#include "catdpo/ops/linear.h"
#include "catdpo/ops/qk_norm.h"
#include "catdpo/model/adapters.h"
#include "catdpo/model/parameters.h"
#include "catdpo/core/timer.h"

/* The products of a layer. */
typedef struct LayerProducts {
    Linear qkv, attention_out, gate_up, mlp_down;
    LowRank adapter[PRODUCTS]; /* theirs, in this order; parts = 0: none */
} LayerProducts;

/* What a block adds to its input, before the norm that some families give it. */
typedef struct BlockOutput {
    float *raw;  /* [h x w]; NULL without such a norm */
    float *rstd; /* [w] */
} BlockOutput;

/* What the backward pass of a layer needs from its forward pass. */
typedef struct LayerActivations {
    float *qkv;            /* [qkv x w] rotated */
    float *raw;            /* [qkv x w] before q and k norms; NULL without them */
    float *attention;      /* [q x w] */
    float *lse;            /* [heads x w] */
    float *middle;         /* [h x w] after attention */
    float *gate_up;        /* [2m x w] */
    float *attention_rstd; /* [w] */
    float *mlp_rstd;       /* [w] */
    BlockOutput attention_output, mlp_output;
} LayerActivations;

/* What an attack (attack.h) works with. */
typedef struct AttackBuffers {
    float *delta;          /* [h x w] the perturbation */
    double *sums;          /* [w] */
    double *table;         /* [v] */
    SequenceResult *clean; /* [max_sequences] of the batch attacked last, without the perturbation */
} AttackBuffers;

typedef struct TransformerLimits {
    int max_width;            /* columns of a pass on a process column */
    int max_chunk;            /* columns of logits */
    int max_sequences;        /* of a pass */
    int longest;              /* tokens of a sequence */
    bool backward;            /* keep what a backward pass needs */
    bool frozen;              /* no gradients of the weights: a backward pass gives that of its input alone */
    bool attack;              /* room for attack.h */
    bool recompute;           /* keep only the input of each layer; run it again in the backward pass */
    AdapterSettings adapters; /* rank 0: none */
} TransformerLimits;

typedef struct Transformer {
    Architecture architecture;
    ModelPlan plan;
    TransformerLimits limits;
    Grid *grid;   /* not owned */
    Timer *timer; /* not owned */
    Parameters parameters;
    float *weights;               /* [parameters.local_floats] */
    Adapters adapters;            /* without tensors unless limits.adapters */
    const Parameters *trained;    /* what is trained: parameters, or adapters.parameters */
    float *trained_weights;       /* [trained->local_floats] weights, or those of the adapters */
    float *gradients;             /* [trained->local_floats]; NULL unless limits.backward, and if frozen */
    float *model_gradients;       /* gradients, or NULL where the model is frozen */
    Axis hidden, mlp, query, qkv; /* rows of the activations */
    LayerProducts *products;      /* [layers] views of weights and gradients */
    AttentionShape attention;
    QkNorm qk_norm;
    Rotary rotary, local_rotary; /* the second of layers with local_rope */
    Embedding embedding;
    Head head;
    SequenceResult *result; /* [max_sequences] of the pass run last; the same on all ranks of the grid */

    const float *shift; /* [h x w] added to the embeddings of every pass; NULL: nothing; not owned */
    AttackBuffers attack;

    float **input;           /* [layers + 1] each [h x w]: input of each layer; the last is the output of all */
    LayerActivations *layer; /* [layers]; with recompute, or without backward, all are the same buffers */
    float *rstd;             /* [w] of the final norm */
    float *normed;           /* [h x w] output of the norm at hand */
    float *act;              /* [m x w] and its gradient in turn */
    float *dqkv;             /* [qkv x w] */
    float *dattention;       /* [q x w] */
    float *dx, *dnormed;     /* [h x w]; dx: after a backward pass the gradient of the first layer's input */
    double *sums;            /* [w], [4 w] for joint query and key norms */
    float *scratch;          /* for attention */
    void *memory;            /* the one allocation behind all activations */
    void *adapter_memory;    /* the one allocation behind the adapters' weights and buffers */
    int64_t activation_bytes, weight_bytes, gradient_bytes, adapter_bytes; /* of this rank */
} Transformer;

/* Lays everything out and allocates; weights are not yet set, adapters are switched off. Collective over grid->world,
 * errors agreed. */
bool transformer_create(Transformer *t, const Architecture *a, Grid *grid, const TransformerLimits *limits,
                        Timer *timer, Error *err);
void transformer_free(Transformer *t);

/* Switches all adapters on or off: without them the model is the frozen one. Not collective. */
void transformer_use_adapters(Transformer *t, bool use);
/* The model's weights += these adapters, laid out for t->parameters. weights: [x->parameters.local_floats]; wide: a
 * buffer of x->wide_floats. Collective over grid->comm. */
void transformer_merge(Transformer *t, const Adapters *x, float *weights, float *wide);

/* Bytes a rank would need (weights, adapters with their buffers, gradients, moments shared by `replicas`, activations,
 * logits) on a grid of this shape. Not collective. */
typedef struct TransformerBytes {
    int64_t weights, adapters, gradients, moments, activations, logits;
} TransformerBytes;
TransformerBytes transformer_bytes(const Architecture *a, const TransformerLimits *limits, int replicas, int rows,
                                   int columns, bool sharded_moments);

/* Lays the buffers of a pass of `width` columns, with chunks of at most `chunk` columns, one behind the other at the
 * start of the memory for activations, so that only as much of it is ever touched as the largest pass needs. Passes do
 * it; what was in the buffers is lost. Not collective. */
void transformer_arrange(Transformer *t, int width, int chunk);

/* Forward through all layers and the head: t->result, and `read` (NULL: nobody) sees the logits of the targets. cache
 * (NULL: none): what the batch's segments attend to of earlier passes, and where they keep their keys and values for
 * later ones. Collective over grid->comm. */
void transformer_forward(Transformer *t, const Batch *batch, const KvCache *cache, LogitsReader *read, void *context);

/* Forward through all layers, the head and backward: t->result and, summed up over passes if `accumulate`, t->gradients
 * (vectors: of this process column's tokens only, see adamw.h). Collective over grid->comm. */
void transformer_pass(Transformer *t, const Batch *batch, GroupGradient *gradient, void *context, bool accumulate);

/* The same without the gradients of the weights, which stay as they are: t->result, and in t->dx that of the first
 * layer's input [h x w], for h over process rows and w over process columns. Collective over grid->comm. */
void transformer_input_gradient(Transformer *t, const Batch *batch, GroupGradient *gradient, void *context);

#endif
