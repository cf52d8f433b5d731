#include "catdpo/core/memory.h"
#include "catdpo/optim/adamw.h"
#include "catdpo/parallel/replica.h"

#include "catdpo/core/simd.h"

#include <math.h>
#include <stdlib.h>

bool optimizer_create(Optimizer *o, const Parameters *p, const Grid *grid, const OptimizerSettings *settings,
                      Error *err)
{
    *o = (Optimizer){ .settings = *settings, .parameters = p, .grid = grid };
    o->bounds = malloc(sizeof(int64_t) * ((size_t)grid->replicas + 1));
    o->scratch = malloc(sizeof(float) * REPLICA_PIECE);
    bool ok = o->bounds && o->scratch;
    if (!ok) error_fault(err, "out of memory for the exchange of gradients");
    if (ok) {
        parameters_share(p, grid->replicas, o->bounds);
        o->first = settings->shard ? o->bounds[grid->replica] : 0;
        o->end = settings->shard ? o->bounds[grid->replica + 1] : p->local_floats;
        o->moment_bytes = 2 * (o->end - o->first) * (int64_t)sizeof(float);
        o->m = memory_allocate(o->moment_bytes, "AdamW's moments", err);
        ok = o->m != NULL;
    }
    if (!error_agree(grid->world, ok, err)) {
        optimizer_free(o);
        return false;
    }
    o->v = o->m + (o->end - o->first);
    memset(o->m, 0, (size_t)o->moment_bytes);
    return true;
}

void optimizer_free(Optimizer *o)
{
    memory_free(o->m);
    free(o->scratch);
    free(o->bounds);
    *o = (Optimizer){ 0 };
}

void optimizer_reduce(Optimizer *o, float *gradients)
{
    const Grid *grid = o->grid;
    const Parameters *p = o->parameters;
    if (grid->columns > 1)
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, gradients + p->matrix_floats, (int)(p->local_floats - p->matrix_floats),
                                MPI_FLOAT, MPI_SUM, grid->row_comm));
    for (int i = 0; i < p->count && grid->rows > 1; i++)
        if (p->tensor[i].everywhere)
            CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, gradients + p->tensor[i].offset, (int)p->tensor[i].local, MPI_FLOAT,
                                    MPI_SUM, grid->column_comm));
    replica_reduce_scatter(grid, gradients, o->bounds, o->scratch);
    if (!o->settings.shard) replica_allgather(grid, gradients, o->bounds);
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Is this rank the one that a repeated tensor is counted on? */
static bool counts(const Grid *grid, const Tensor *t)
{
    return !t->vector || (grid->column == 0 && (!t->everywhere || grid->row == 0));
}

double optimizer_norm(const Optimizer *o, const float *gradients)
{
    const Parameters *p = o->parameters;
    int64_t first = o->bounds[o->grid->replica], end = o->bounds[o->grid->replica + 1];
    double sum = 0, total;
    for (int i = 0; i < p->count; i++) {
        const Tensor *t = &p->tensor[i];
        int64_t from = larger(first, t->offset), to = smaller(end, t->offset + t->local);
        if (from < to && counts(o->grid, t)) sum += simd_square_sum(gradients + from, to - from);
    }
    CHECK_MPI(MPI_Allreduce(&sum, &total, 1, MPI_DOUBLE, MPI_SUM, o->grid->world));
    return sqrt(total);
}

typedef struct Factors {
    float gradient; /* clipping */
    float beta1, beta2;
    float keep; /* 1 - rate * weight_decay */
    float rate; /* rate / (1 - beta1^t) */
    float root; /* 1 / sqrt(1 - beta2^t) */
    float epsilon;
} Factors;

SIMD_CLONES
static void adamw(int64_t n, Factors f, const float *restrict gradient, float *restrict w, float *restrict m,
                  float *restrict v)
{
    for (int64_t i = 0; i < n; i++) {
        float g = f.gradient * gradient[i];
        m[i] = f.beta1 * m[i] + (1 - f.beta1) * g;
        v[i] = f.beta2 * v[i] + (1 - f.beta2) * g * g;
        w[i] = f.keep * w[i] - f.rate * m[i] / (sqrtf(v[i]) * f.root + f.epsilon);
    }
}

bool optimizer_update(Optimizer *o, float *weights, const float *gradients, double rate, double norm)
{
    const OptimizerSettings *s = &o->settings;
    bool clip = s->max_grad_norm > 0 && norm > s->max_grad_norm;
    double t = (double)++o->updates;
    Factors f = {
        .gradient = clip ? (float)(s->max_grad_norm / (norm + 1e-6)) : 1,
        .beta1 = (float)s->beta1,
        .beta2 = (float)s->beta2,
        .keep = (float)(1 - rate * s->weight_decay),
        .rate = (float)(rate / (1 - pow(s->beta1, t))),
        .root = (float)(1 / sqrt(1 - pow(s->beta2, t))),
        .epsilon = (float)s->epsilon,
    };
    int64_t matrices = smaller(larger(o->parameters->matrix_floats, o->first), o->end);
    adamw(matrices - o->first, f, gradients + o->first, weights + o->first, o->m, o->v);
    f.keep = 1;
    adamw(o->end - matrices, f, gradients + matrices, weights + matrices, o->m + (matrices - o->first),
          o->v + (matrices - o->first));
    return clip;
}

void optimizer_spread(const Optimizer *o, float *weights)
{
    if (o->settings.shard) replica_allgather(o->grid, weights, o->bounds);
}
