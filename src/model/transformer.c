#include "catdpo/model/transformer.h"

#include "catdpo/ops/mlp.h"
#include "catdpo/core/phase.h"
#include "catdpo/ops/rmsnorm.h"

#include <string.h>

/* What a backward pass does with the gradients of the weights. */
typedef enum {
    WEIGHTS_NONE, /* leaves them alone: the gradient of the input is all that is wanted */
    WEIGHTS_SET,  /* products overwrite those of the matrices */
    WEIGHTS_ADD,  /* adds to them */
} WeightGradients;

/* ---- views ------------------------------------------------------------------------------------------------------ */

static float *vector(const Transformer *t, float *flat, int index)
{
    return index < 0 || !flat ? NULL : flat + t->parameters.tensor[index].offset;
}

/* Where the gradient of a vector goes; NULL: nowhere. */
static float *vector_gradient(const Transformer *t, int index, WeightGradients weights)
{
    return weights == WEIGHTS_NONE ? NULL : vector(t, t->model_gradients, index);
}

static NormShape norm_shape(const Transformer *t, const Batch *batch)
{
    return (NormShape){ .grid = t->grid,
                        .hidden = t->architecture.hidden,
                        .h = t->hidden.local,
                        .n = batch->width,
                        .epsilon = t->architecture.norm_epsilon,
                        .offset = t->plan.norm_offset };
}

static AttentionShape attention_shape(const Transformer *t, int l)
{
    AttentionShape shape = t->attention;
    shape.window = t->parameters.layer[l].plan.window;
    return shape;
}

static const Rotary *rotary_of(const Transformer *t, int l)
{
    return t->parameters.layer[l].plan.local_rope ? &t->local_rotary : &t->rotary;
}

/* ---- a product and its gradients -------------------------------------------------------------------------------- */

static void product_forward(Transformer *t, const Batch *batch, const Linear *l, float *x, float beta, float *y)
{
    timer_start(t->timer, PHASE_MATMUL);
    linear_forward(l, batch->width, x, beta, y);
    timer_stop(t->timer);
}

static void product_backward_input(Transformer *t, const Batch *batch, const Linear *l, float *dx, float *dy)
{
    timer_start(t->timer, PHASE_MATMUL);
    linear_backward_input(l, batch->width, dx, dy);
    timer_stop(t->timer);
}

static void product_backward_weight(Transformer *t, const Batch *batch, const Linear *l, float *x, float *dy,
                                    WeightGradients weights)
{
    if (weights == WEIGHTS_NONE) return;
    timer_start(t->timer, PHASE_MATMUL);
    linear_backward_weight(l, batch->width, x, dy, weights == WEIGHTS_ADD);
    timer_stop(t->timer);
}

/* ---- norm ------------------------------------------------------------------------------------------------------- */

/* t->normed = norm(x); fills rstd first unless it is known. */
static void norm_forward(Transformer *t, const Batch *batch, int index, const float *x, float *rstd, bool known)
{
    timer_start(t->timer, PHASE_NORM);
    NormShape shape = norm_shape(t, batch);
    if (!known) rmsnorm_statistics(&shape, x, rstd, t->sums);
    rmsnorm_apply(&shape, x, rstd, vector(t, t->weights, index), t->normed);
    timer_stop(t->timer);
}

/* dx += gradient through norm(x), given dy */
static void norm_backward(Transformer *t, const Batch *batch, int index, const float *x, const float *rstd,
                          const float *dy, float *dx, WeightGradients weights)
{
    timer_start(t->timer, PHASE_NORM);
    NormShape shape = norm_shape(t, batch);
    rmsnorm_backward(&shape, x, rstd, vector(t, t->weights, index), dy, dx, vector_gradient(t, index, weights),
                     t->sums);
    timer_stop(t->timer);
}

/* The input of a block's first product: norm(x), or x itself where the family has no such norm (index = -1). */
static float *block_input(Transformer *t, const Batch *batch, int index, float *x, float *rstd, bool known)
{
    if (index < 0) return x;
    norm_forward(t, batch, index, x, rstd, known);
    return t->normed;
}

/* t->dx += gradient of x, from the gradient of block_input in t->dnormed */
static void block_input_backward(Transformer *t, const Batch *batch, int index, const float *x, const float *rstd,
                                 WeightGradients weights)
{
    int64_t n = (int64_t)batch->width * t->hidden.local;
    if (index >= 0)
        norm_backward(t, batch, index, x, rstd, t->dnormed, t->dx, weights);
    else
        for (int64_t i = 0; i < n; i++) t->dx[i] += t->dnormed[i];
}

/* ---- what a block adds ------------------------------------------------------------------------------------------ */

/* y = x + norm(W input), without the norm where the family has none (norm = -1). */
static void residual_forward(Transformer *t, const Batch *batch, const Linear *l, float *input, int norm,
                             const BlockOutput *output, const float *x, float *y)
{
    int64_t n = (int64_t)batch->width * t->hidden.local;
    if (norm < 0) {
        memcpy(y, x, sizeof(float) * (size_t)n);
        product_forward(t, batch, l, input, 1, y);
        return;
    }
    product_forward(t, batch, l, input, 0, output->raw);
    norm_forward(t, batch, norm, output->raw, output->rstd, false);
    for (int64_t i = 0; i < n; i++) y[i] = x[i] + t->normed[i];
}

/* From t->dx, the gradient of y, which remains as a part of the gradient of x: the gradient of W input. It may lie in
 * t->dnormed. */
static float *residual_backward(Transformer *t, const Batch *batch, int norm, const BlockOutput *output,
                                WeightGradients weights)
{
    if (norm < 0) return t->dx;
    memset(t->dnormed, 0, sizeof(float) * (size_t)batch->width * (size_t)t->hidden.local);
    norm_backward(t, batch, norm, output->raw, output->rstd, t->dx, t->dnormed, weights);
    return t->dnormed;
}

/* ---- attention block -------------------------------------------------------------------------------------------- */

/* middle = x + Wo attention(Wqkv norm(x)) */
static void attention_block_forward(Transformer *t, const Batch *batch, const KvCache *cache, int l)
{
    const LayerTensors *w = &t->parameters.layer[l];
    const LayerProducts *p = &t->products[l];
    LayerActivations *a = &t->layer[l];
    AttentionShape shape = attention_shape(t, l);
    float *x = block_input(t, batch, w->attention_norm, t->input[l], a->attention_rstd, false);
    product_forward(t, batch, &p->qkv, x, 0, a->qkv);

    timer_start(t->timer, PHASE_ATTENTION);
    if (a->raw)
        qk_norm_forward(&t->qk_norm, batch, vector(t, t->weights, w->q_norm), vector(t, t->weights, w->k_norm), a->qkv,
                        a->raw, t->sums);
    attention_rotate(&shape, batch, rotary_of(t, l), a->qkv);
    CachedKeys cached = kv_cache_layer(cache, l);
    attention_keep(&shape, batch, a->qkv, &cached);
    attention_forward(&shape, batch, a->qkv, &cached, a->attention, a->lse, t->scratch);
    timer_stop(t->timer);

    residual_forward(t, batch, &p->attention_out, a->attention, w->attention_post_norm, &a->attention_output,
                     t->input[l], a->middle);
}

/* t->dx: gradient of middle, becomes the gradient of x */
static void attention_block_backward(Transformer *t, const Batch *batch, int l, WeightGradients weights)
{
    const LayerTensors *w = &t->parameters.layer[l];
    const LayerProducts *p = &t->products[l];
    LayerActivations *a = &t->layer[l];
    AttentionShape shape = attention_shape(t, l);
    float *doutput = residual_backward(t, batch, w->attention_post_norm, &a->attention_output, weights);
    product_backward_input(t, batch, &p->attention_out, t->dattention, doutput);
    product_backward_weight(t, batch, &p->attention_out, a->attention, doutput, weights);

    timer_start(t->timer, PHASE_ATTENTION);
    attention_backward(&shape, batch, a->qkv, a->attention, a->lse, t->dattention, t->dqkv, t->scratch);
    attention_rotate_backward(&shape, batch, rotary_of(t, l), t->dqkv);
    if (a->raw)
        qk_norm_backward(&t->qk_norm, batch, vector(t, t->weights, w->q_norm), vector(t, t->weights, w->k_norm), a->raw,
                         t->dqkv, vector_gradient(t, w->q_norm, weights), vector_gradient(t, w->k_norm, weights),
                         t->sums);
    timer_stop(t->timer);

    product_backward_input(t, batch, &p->qkv, t->dnormed, t->dqkv);
    if (weights != WEIGHTS_NONE) {
        float *x = block_input(t, batch, w->attention_norm, t->input[l], a->attention_rstd, true);
        product_backward_weight(t, batch, &p->qkv, x, t->dqkv, weights);
    }
    block_input_backward(t, batch, w->attention_norm, t->input[l], a->attention_rstd, weights);
}

/* ---- MLP block -------------------------------------------------------------------------------------------------- */

/* next = middle + Wdown glu(Wgate_up norm(middle)) */
static void mlp_block_forward(Transformer *t, const Batch *batch, int l, float *next)
{
    const LayerTensors *w = &t->parameters.layer[l];
    const LayerProducts *p = &t->products[l];
    LayerActivations *a = &t->layer[l];
    float *x = block_input(t, batch, w->mlp_norm, a->middle, a->mlp_rstd, false);
    product_forward(t, batch, &p->gate_up, x, 0, a->gate_up);
    if (!next) /* nothing of what follows is needed again */
        return;
    timer_start(t->timer, PHASE_MLP);
    glu_forward(t->plan.activation, &t->mlp, batch->width, a->gate_up, t->act);
    timer_stop(t->timer);
    residual_forward(t, batch, &p->mlp_down, t->act, w->mlp_post_norm, &a->mlp_output, a->middle, next);
}

/* t->dx: gradient of next, becomes the gradient of middle */
static void mlp_block_backward(Transformer *t, const Batch *batch, int l, WeightGradients weights)
{
    const LayerTensors *w = &t->parameters.layer[l];
    const LayerProducts *p = &t->products[l];
    LayerActivations *a = &t->layer[l];
    float *doutput = residual_backward(t, batch, w->mlp_post_norm, &a->mlp_output, weights);
    product_backward_input(t, batch, &p->mlp_down, t->act, doutput);
    timer_start(t->timer, PHASE_MLP);
    glu_backward(t->plan.activation, &t->mlp, batch->width, a->gate_up, t->act);
    timer_stop(t->timer);
    product_backward_weight(t, batch, &p->mlp_down, t->act, doutput, weights);

    product_backward_input(t, batch, &p->gate_up, t->dnormed, a->gate_up);
    if (weights != WEIGHTS_NONE) {
        float *x = block_input(t, batch, w->mlp_norm, a->middle, a->mlp_rstd, true);
        product_backward_weight(t, batch, &p->gate_up, x, a->gate_up, weights);
    }
    block_input_backward(t, batch, w->mlp_norm, a->middle, a->mlp_rstd, weights);
}

/* A layer again, as far as its backward pass needs it. */
static void layer_again(Transformer *t, const Batch *batch, int l)
{
    attention_block_forward(t, batch, NULL, l);
    mlp_block_forward(t, batch, l, t->parameters.layer[l].mlp_post_norm >= 0 ? t->input[l + 1] : NULL);
}

/* ---- all layers ------------------------------------------------------------------------------------------------- */

static void forward(Transformer *t, const Batch *batch, const KvCache *cache)
{
    const Parameters *p = &t->parameters;
    int layers = t->architecture.layers;
    timer_start(t->timer, PHASE_EMBEDDING);
    embedding_forward(&t->embedding, batch, t->weights + p->tensor[p->embedding].offset, t->input[0]);
    int64_t n = t->shift ? (int64_t)batch->width * t->hidden.local : 0;
    for (int64_t i = 0; i < n; i++) t->input[0][i] += t->shift[i];
    timer_stop(t->timer);
    for (int l = 0; l < layers; l++) {
        attention_block_forward(t, batch, cache, l);
        mlp_block_forward(t, batch, l, t->input[l + 1]);
    }
    norm_forward(t, batch, p->final_norm, t->input[layers], t->rstd, false);
}

/* From t->dnormed, the gradient of the final norm's output, to those of the weights and to t->dx: of the first layer's
 * input, or of the lowest one that is trained where no more is asked for. */
static void backward(Transformer *t, const Batch *batch, WeightGradients weights)
{
    const Parameters *p = &t->parameters;
    int layers = t->architecture.layers,
        lowest = weights == WEIGHTS_NONE || t->model_gradients ? 0 : t->adapters.lowest;
    memset(t->dx, 0, sizeof(float) * (size_t)batch->width * (size_t)t->hidden.local);
    norm_backward(t, batch, p->final_norm, t->input[layers], t->rstd, t->dnormed, t->dx, weights);
    for (int l = layers - 1; l >= lowest; l--) {
        if (t->limits.recompute) layer_again(t, batch, l);
        mlp_block_backward(t, batch, l, weights);
        attention_block_backward(t, batch, l, weights);
    }
    if (weights == WEIGHTS_NONE || !t->model_gradients) return;
    timer_start(t->timer, PHASE_EMBEDDING);
    embedding_backward(&t->embedding, batch, t->dx, vector(t, t->model_gradients, p->embedding));
    timer_stop(t->timer);
}

/* The products of a first pass overwrite the matrices' gradients; what is only added to has to start from zero. */
static void clear_added_gradients(Transformer *t)
{
    const Parameters *p = &t->parameters;
    if (!t->model_gradients) return;
    if (!t->architecture.tied)
        memset(t->gradients + p->tensor[p->embedding].offset, 0, sizeof(float) * (size_t)p->tensor[p->embedding].local);
    memset(t->gradients + p->matrix_floats, 0, sizeof(float) * (size_t)(p->local_floats - p->matrix_floats));
}

/* The buffers of a pass of this batch. */
static void arrange(Transformer *t, const Batch *batch)
{
    CHECK(batch->sequence_count <= t->limits.max_sequences);
    transformer_arrange(t, batch->width, batch_widest_chunk(batch));
}

void transformer_forward(Transformer *t, const Batch *batch, const KvCache *cache, LogitsReader *read, void *context)
{
    const Parameters *p = &t->parameters;
    arrange(t, batch);
    forward(t, batch, cache);
    timer_start(t->timer, PHASE_HEAD);
    head_forward(&t->head, batch, t->normed, t->weights + p->tensor[p->head].offset, t->result, read, context);
    timer_stop(t->timer);
}

static void forward_and_backward(Transformer *t, const Batch *batch, GroupGradient *gradient, void *context,
                                 WeightGradients weights)
{
    const Parameters *p = &t->parameters;
    arrange(t, batch);
    if (weights == WEIGHTS_SET) clear_added_gradients(t);
    forward(t, batch, NULL);
    timer_start(t->timer, PHASE_HEAD);
    head_run(&t->head, batch, t->normed, vector(t, t->weights, p->head), t->result, gradient, context, t->dnormed,
             vector_gradient(t, p->head, weights), weights == WEIGHTS_ADD);
    timer_stop(t->timer);
    backward(t, batch, weights);
}

void transformer_pass(Transformer *t, const Batch *batch, GroupGradient *gradient, void *context, bool accumulate)
{
    CHECK(t->gradients);
    forward_and_backward(t, batch, gradient, context, accumulate ? WEIGHTS_ADD : WEIGHTS_SET);
}

void transformer_input_gradient(Transformer *t, const Batch *batch, GroupGradient *gradient, void *context)
{
    CHECK(t->limits.backward);
    forward_and_backward(t, batch, gradient, context, WEIGHTS_NONE);
}
