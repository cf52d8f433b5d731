/* Promise: on every grid the model computes what transformers computes: logits, log-probs and the gradient of every
 * tensor within 1e-4 relative, from the fixtures of tests/reference (made by transformers and autograd). Likewise with
 * recomputation of activations, without shared prompts, with accumulation and with logits a pair at a time. And of
 * adapters: with their part taken from the weights the model is the fixture's, and the gradients of A and B are what
 * the chain rule makes of that of W. */
#include "catdpo/core/memory.h"
#include "catdpo/data/pair_batch.h"
#include "catdpo/files/model_file.h"
#include "catdpo/optim/adamw.h"
#include "catdpo/core/phase.h"
#include "catdpo/parallel/gemm.h"
#include "catdpo/parallel/replica.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const fixtures[] = { "tiny_llama",   "tiny_llama_linear", "tiny_llama3_tied",
                                        "tiny_qwen2",   "tiny_qwen2_tied",   "tiny_qwen3",
                                        "tiny_mistral", "tiny_gemma3",       "tiny_olmo2" };
enum { FIXTURES = sizeof fixtures / sizeof *fixtures };
static const double TOLERANCE = 1e-4;

typedef struct Oracle {
    Pairs pairs;
    double *logps[PAIR_SIDES], *reference[PAIR_SIDES], *offset;
    double beta, loss;
    int64_t logit_pair;
    int64_t logit_tokens;
    float *logits;    /* [logit_tokens, V] of the chosen response of logit_pair */
    double loss_here; /* what the pair gradient below computed */
} Oracle;

static void must(bool ok, const Error *err)
{
    if (!ok) print_error("%s\n", err->message);
    assert_true(ok);
}

static void read_side(H5File *file, Pairs *pairs, int side, const char *name, const int64_t *tokens, Error *err)
{
    char path[96];
    snprintf(path, sizeof path, "/oracle/pairs/%s/tokens", name);
    must(h5_read_array(file, path, DATA_INT32, 1, &tokens[side], pairs->side[side].tokens, err), err);
    snprintf(path, sizeof path, "/oracle/pairs/%s/offsets", name);
    must(h5_read_array(file, path, DATA_INT64, 1, (int64_t[]){ pairs->count + 1 }, pairs->side[side].offsets, err),
         err);
    snprintf(path, sizeof path, "/oracle/pairs/%s/prompt_length", name);
    must(h5_read_array(file, path, DATA_INT32, 1, &pairs->count, pairs->side[side].prompt_length, err), err);
}

static double *read_doubles(H5File *file, const char *name, int64_t count, Error *err)
{
    double *values = malloc(sizeof *values * (size_t)count);
    assert_non_null(values);
    must(h5_read_array(file, name, DATA_FLOAT64, 1, &count, values, err), err);
    return values;
}

static Oracle read_oracle(H5File *file, int vocab, Error *err)
{
    Oracle o = { 0 };
    int64_t tokens[PAIR_SIDES] = { -1, -1 }, pairs = -1, categories = -1;
    must(h5_expect(file, "/oracle/pairs/chosen/tokens", DATA_INT32, 1, &tokens[PAIR_CHOSEN], err), err);
    must(h5_expect(file, "/oracle/pairs/rejected/tokens", DATA_INT32, 1, &tokens[PAIR_REJECTED], err), err);
    int64_t dims[2] = { -1, -1 };
    must(h5_expect(file, "/oracle/pairs/category_mask", DATA_UINT8, 2, dims, err), err);
    pairs = dims[0];
    categories = dims[1];
    PairsShape size = { pairs, (int)categories, { tokens[PAIR_CHOSEN], tokens[PAIR_REJECTED] }, false, 0 };
    must(pairs_allocate(&o.pairs, &size, file->comm, err), err);
    read_side(file, &o.pairs, PAIR_CHOSEN, "chosen", tokens, err);
    read_side(file, &o.pairs, PAIR_REJECTED, "rejected", tokens, err);
    o.pairs.vocab_size = vocab;
    pairs_publish(&o.pairs);

    o.logps[PAIR_CHOSEN] = read_doubles(file, "/oracle/logps/chosen", pairs, err);
    o.logps[PAIR_REJECTED] = read_doubles(file, "/oracle/logps/rejected", pairs, err);
    o.reference[PAIR_CHOSEN] = read_doubles(file, "/oracle/reference/chosen", pairs, err);
    o.reference[PAIR_REJECTED] = read_doubles(file, "/oracle/reference/rejected", pairs, err);
    o.offset = read_doubles(file, "/oracle/offset", pairs, err);
    must(h5_read_double(file, "/oracle", "beta", 0, 100, &o.beta, err), err);
    must(h5_read_double(file, "/oracle", "loss", -1e9, 1e9, &o.loss, err), err);
    must(h5_read_int64(file, "/oracle/logits/chosen", "pair", 0, pairs - 1, &o.logit_pair, err), err);
    int64_t shape[2] = { -1, vocab };
    must(h5_expect(file, "/oracle/logits/chosen", DATA_FLOAT32, 2, shape, err), err);
    o.logit_tokens = shape[0];
    o.logits = malloc(sizeof(float) * (size_t)(shape[0] * shape[1]));
    must(h5_read_array(file, "/oracle/logits/chosen", DATA_FLOAT32, 2, shape, o.logits, err), err);
    return o;
}

static void free_oracle(Oracle *o)
{
    for (int side = 0; side < PAIR_SIDES; side++) {
        free(o->logps[side]);
        free(o->reference[side]);
    }
    free(o->offset);
    free(o->logits);
    pairs_free(&o->pairs);
}

/* loss = mean softplus(offset - beta h), written here independently of src/objective */
static void pair_gradient(void *context, const Batch *batch, int first, int count, const SequenceResult *result,
                          float *coefficient)
{
    Oracle *o = context;
    for (int i = first; i < first + count; i++) {
        int64_t p = batch->group[i].id;
        double h = (result[2 * i].logp - o->reference[0][p]) - (result[2 * i + 1].logp - o->reference[1][p]);
        double u = o->offset[p] - o->beta * h, n = (double)o->pairs.count;
        o->loss_here += log1p(exp(u)) / n;
        coefficient[2 * i] = (float)(-o->beta / n / (1 + exp(-u)));
        coefficient[2 * i + 1] = -coefficient[2 * i];
        for (int side = 0; side < PAIR_SIDES; side++)
            assert_true(fabs(result[2 * i + side].logp - o->logps[side][p]) < TOLERANCE * fabs(o->logps[side][p]));
    }
}

/* The chosen response's logits of one pair against the fixture's. */
static void check_logits(Transformer *t, const Grid *grid, const Batch *batch, const Oracle *o)
{
    int v = t->head.vocab.local, seen = 0;
    double worst = 0, scale = 0, sums[3];
    for (int i = 0; i < batch->group_count; i++)
        for (int j = 0; batch->group[i].id == o->logit_pair && j < batch->target_count; j++)
            if (batch->target[j].sequence == 2 * i + PAIR_CHOSEN) {
                for (int r = 0; r < v; r++) {
                    double expected = o->logits[(int64_t)seen * t->architecture.vocab + axis_global(&t->head.vocab, r)];
                    worst = fmax(worst, fabs(t->head.logits[(int64_t)j * v + r] - expected));
                    scale = fmax(scale, fabs(expected));
                }
                seen++;
            }
    MPI_Allreduce((double[]){ worst, scale, (double)seen }, sums, 3, MPI_DOUBLE, MPI_MAX, grid->world);
    assert_int_equal((int)sums[2], (int)o->logit_tokens);
    assert_true(sums[0] <= TOLERANCE * sums[1]);
}

/* Which part a local row of a fused matrix belongs to. */
static int part_of_row(const Tensor *t, int row)
{
    int total = 0, block = row / t->rows.block * t->rows.block, length = t->rows.local - block;
    for (int i = 0; i < t->part_count; i++) total += t->part[i].block;
    length = length < t->rows.block ? length : t->rows.block;
    int within = (int)((int64_t)(row - block) * total / length);
    for (int i = 0; i < t->part_count; i++)
        if ((within -= t->part[i].block) < 0) return i;
    return t->part_count - 1;
}

static void check_gradients(const Transformer *t, const float *expected, const char *where)
{
    for (int i = 0; i < t->parameters.count; i++) {
        const Tensor *tensor = &t->parameters.tensor[i];
        double difference[TENSOR_PARTS] = { 0 }, largest[TENSOR_PARTS] = { 0 };
        for (int64_t j = 0; j < tensor->local; j++) {
            int part = part_of_row(tensor, (int)(j % tensor->rows.local));
            double want = expected[tensor->offset + j], have = t->gradients[tensor->offset + j];
            difference[part] = fmax(difference[part], isfinite(have) ? fabs(have - want) : INFINITY);
            largest[part] = fmax(largest[part], fabs(want));
        }
        MPI_Allreduce(MPI_IN_PLACE, difference, TENSOR_PARTS, MPI_DOUBLE, MPI_MAX, t->grid->world);
        MPI_Allreduce(MPI_IN_PLACE, largest, TENSOR_PARTS, MPI_DOUBLE, MPI_MAX, t->grid->world);
        for (int part = 0; part < tensor->part_count; part++) {
            if (!(difference[part] <= TOLERANCE * largest[part]) && t->grid->row == 0 && t->grid->column == 0)
                print_error("%s: gradient of %s is off by %g of %g\n", where, tensor->part[part].name, difference[part],
                            largest[part]);
            assert_true(largest[part] > 0 && difference[part] <= TOLERANCE * largest[part]);
        }
    }
}

/* ---- adapters ---------------------------------------------------------------------------------------------------- */

enum { RANK = 2 };

/* Neither A nor B is zero, and the frozen weights are such that with them the model is what it was. */
static void split_off_adapters(Transformer *t)
{
    Adapters *x = &t->adapters;
    adapters_start(x, 1, t->trained_weights);
    for (int i = 1; i < x->parameters.count; i += 2) { /* B */
        const Tensor *b = &x->parameters.tensor[i];
        for (int64_t j = 0; j < b->local; j++)
            t->trained_weights[b->offset + j] =
                0.1f * sinf((float)(7 * axis_global(&b->rows, (int)(j % b->rows.local)) +
                                    3 * axis_global(&b->columns, (int)(j / b->rows.local)) + i));
    }
    float *wide = calloc((size_t)x->wide_floats + 1, sizeof *wide);
    assert_non_null(wide);
    Adapters negative = *x;
    negative.settings.alpha = -x->settings.alpha;
    transformer_merge(t, &negative, t->trained_weights, wide);
    free(wide);
    transformer_use_adapters(t, true);
}

/* have[count] against want[count], over all ranks. */
static void check_numbers(const Grid *grid, const float *have, const float *want, int64_t count, const char *name,
                          const char *where)
{
    double seen[2] = { 0 }; /* largest difference, largest number */
    for (int64_t i = 0; i < count; i++) {
        seen[0] = fmax(seen[0], isfinite(have[i]) ? fabs((double)have[i] - want[i]) : INFINITY);
        seen[1] = fmax(seen[1], fabs(want[i]));
    }
    MPI_Allreduce(MPI_IN_PLACE, seen, 2, MPI_DOUBLE, MPI_MAX, grid->world);
    if (!(seen[0] <= TOLERANCE * seen[1]) && grid->row == 0 && grid->column == 0)
        print_error("%s: gradient of %s is off by %g of %g\n", where, name, seen[0], seen[1]);
    assert_true(seen[1] > 0 && seen[0] <= TOLERANCE * seen[1]);
}

/* dA = s B' dW and dB = s dW A', where `expected` holds dW. */
static void check_adapter(Transformer *t, const Tensor *weight, const Tensor *a, const Tensor *b, LowRank *l,
                          float *expected, const char *where)
{
    int64_t wide_count = (int64_t)l->out.local * l->inner_wide.local;
    float *memory = calloc((size_t)(wide_count + 2 * (a->local + b->local) + weight->local) + 1, sizeof *memory),
          *dwide = memory, *da = dwide + wide_count, *db = da + a->local, *scratch = db + b->local;
    assert_non_null(memory);
    Matrix dw = tensor_matrix(weight, t->grid, expected),
           junk = tensor_matrix(weight, t->grid, scratch - weight->offset),
           want_a = matrix_make(t->grid, &a->rows, &a->columns, a->rows.local, da),
           want_b = matrix_make(t->grid, &l->out, &l->inner_wide, l->out.local, dwide),
           wide = matrix_make(t->grid, &l->out, &l->inner_wide, l->out.local, l->wide);
    low_rank_merge(l, &junk); /* leaves s B in wide */
    gemm(t->grid, TRANSPOSED, &wide, PLAIN, &dw, 0, &want_a);
    gemm(t->grid, PLAIN, &dw, TRANSPOSED, &l->a, 0, &want_b);
    for (int part = 0; part < b->part_count; part++) { /* the n-th local row of a part is the same one in both */
        int of_weight = 0;
        while (strncmp(weight->part[of_weight].name, b->part[part].name,
                       strlen(weight->part[of_weight].name) - strlen("weight")) != 0)
            of_weight++;
        for (int i = 0, j = 0; i < weight->rows.local; i++) {
            if (part_of_row(weight, i) != of_weight) continue;
            while (part_of_row(b, j) != part) j++;
            for (int c = 0; c < l->columns; c++)
                db[(int64_t)c * l->rows + j] = l->scale * dwide[(int64_t)(part * l->columns + c) * l->out.local + i];
            j++;
        }
    }
    check_numbers(t->grid, t->gradients + a->offset, da, a->local, a->part[0].name, where);
    check_numbers(t->grid, t->gradients + b->offset, db, b->local, b->part[0].name, where);
    free(memory);
}

static void check_adapters(Transformer *t, float *expected, const char *where)
{
    for (int l = 0; l < t->architecture.layers; l++)
        for (int i = 0; i < PRODUCTS; i++) {
            const LayerTensors *w = &t->parameters.layer[l];
            const int tensor[PRODUCTS] = { w->qkv, w->attention_out, w->gate_up, w->mlp_down };
            const ProductAdapter *adapter = &t->adapters.product[l][i];
            if (adapter->parts > 0)
                check_adapter(t, &t->parameters.tensor[tensor[i]], &t->trained->tensor[adapter->a],
                              &t->trained->tensor[adapter->b], &t->products[l].adapter[i], expected, where);
        }
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

typedef struct Variant {
    const char *name;
    bool share_prompt, recompute;
    int accumulation, logit_columns;
    const char *modules, *layers; /* with adapters, of "all" layers or of the "last"; NULL: none */
} Variant;

static const Variant variants[] = {
    { "plain", true, false, 1, 1 << 20, NULL, NULL },
    { "prompts not shared", false, false, 1, 1 << 20, NULL, NULL },
    { "recompute, 2 passes, small chunks", true, true, 2, 1, NULL, NULL },
    { "adapters", true, false, 1, 1 << 20, "all-linear", "all" },
    { "some adapters, recompute, 2 passes", true, true, 2, 1, "q_proj,v_proj,up_proj,down_proj", "last" },
};

static void check_variant(const char *fixture, const Variant *variant, int replicas, int rows, int columns)
{
    Error err = { 0 };
    char path[256], where[512];
    snprintf(path, sizeof path, "%s/%s.h5", REFERENCE_DIR, fixture);
    snprintf(where, sizeof where, "%s, %s, %dx%dx%d", fixture, variant->name, replicas, rows, columns);
    Grid grid;
    must(grid_create(&grid, MPI_COMM_WORLD, replicas, rows, columns, &err), &err);
    H5File file;
    ModelInfo info;
    must(model_file_open(&file, path, &info, MPI_COMM_WORLD, &err), &err);
    Oracle o = read_oracle(&file, info.architecture.vocab, &err);

    PairBatcher b;
    BatchLimits limits = {
        columns, (int)o.pairs.count, 1 << 20, variant->accumulation, variant->logit_columns, variant->share_prompt, 1
    };
    must(pair_batcher_create(&b, &o.pairs, &grid, &limits, &err), &err);
    Timer *timer = timer_new(PHASES, phase_name);
    Transformer t;
    TransformerLimits model_limits = { .max_width = b.base.most.width,
                                       .max_chunk = b.base.most.chunk,
                                       .max_sequences = b.base.most.sequences,
                                       .longest = 64,
                                       .backward = true,
                                       .recompute = variant->recompute };
    char last[16];
    snprintf(last, sizeof last, "%d", info.architecture.layers - 1);
    if (variant->modules)
        must(adapters_parse(&model_limits.adapters, &info.architecture, RANK, 3, variant->modules,
                            strcmp(variant->layers, "last") == 0 ? last : variant->layers, "", &err),
             &err);
    must(transformer_create(&t, &info.architecture, &grid, &model_limits, timer, &err), &err);
    char digest[WEIGHTS_DIGEST];
    must(model_load(&file, &t, digest, &err), &err);
    assert_string_equal(digest, info.weights_digest);
    if (variant->modules) split_off_adapters(&t);
    Optimizer optimizer;
    OptimizerSettings settings = { .beta1 = .9, .beta2 = .999, .epsilon = 1e-8, .shard = true };
    must(optimizer_create(&optimizer, t.trained, &grid, &settings, &err), &err);
    float *expected = calloc((size_t)t.parameters.local_floats, sizeof(float));
    must(tensors_read(&file, &t, &t.parameters, "/oracle/gradient",
                      &(LoadedArray){ expected, 0, t.parameters.local_floats, 0, 0, false }, NULL, &err),
         &err);

    int64_t all[64];
    for (int64_t i = 0; i < o.pairs.count; i++) all[i] = i;
    pair_batcher_plan(&b, all, (int)o.pairs.count);
    memset(t.gradients, 0, (size_t)t.gradient_bytes);
    for (int pass = 0; pass < b.base.passes; pass++)
        transformer_pass(&t, batcher_pass(&b.base, pass), pair_gradient, &o, pass > 0);
    optimizer_reduce(&optimizer, t.gradients);
    replica_allgather(&grid, t.gradients, optimizer.bounds);
    MPI_Allreduce(MPI_IN_PLACE, &o.loss_here, 1, MPI_DOUBLE, MPI_SUM, grid.replica_comm);
    assert_true(fabs(o.loss_here - o.loss) < TOLERANCE * o.loss);
    if (variant->modules)
        check_adapters(&t, expected, where);
    else
        check_gradients(&t, expected, where);

    if (replicas == 1 && variant->accumulation == 1) { /* forward only: the chunk's logits are left behind */
        const Batch *batch = batcher_pass(&b.base, 0);
        transformer_forward(&t, batch, NULL, NULL, NULL);
        check_logits(&t, &grid, batch, &o);
    }
    free(expected);
    optimizer_free(&optimizer);
    transformer_free(&t);
    timer_free(timer);
    pair_batcher_free(&b);
    free_oracle(&o);
    h5_close(&file);
    grid_free(&grid);
}

static void test_against_transformers(void **state)
{
    (void)state;
    int ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int every = ranks > 2 ? 2 : 1; /* many ranks on few cores are slow: every other combination */
    for (int f = 0; f < FIXTURES; f++)
        for (int v = f % every; v < (int)(sizeof variants / sizeof *variants); v += every)
            for (int rows = 1; rows <= 3 && rows <= ranks; rows++)
                for (int columns = 1; rows * columns <= ranks; columns++)
                    if (ranks % (rows * columns) == 0)
                        check_variant(fixtures[f], &variants[v], ranks / (rows * columns), rows, columns);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_against_transformers) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}
