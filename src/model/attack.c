#include "catdpo/model/attack.h"

#include "catdpo/core/phase.h"
#include "catdpo/core/rng.h"
#include "catdpo/core/side.h"
#include "catdpo/core/simd.h"
#include "catdpo/ops/rmsnorm.h"

#include <math.h>
#include <string.h>

static const double LEAST_SHARE = 1e-3; /* of the pair's largest gradient: a smaller one makes a smaller step */
static const double WHOLE_WAY = 2.5;    /* all steps together, in radii, unless the settings say how long one is */

/* ---- the radius ------------------------------------------------------------------------------------------------- */

double attack_embedding_norm(Transformer *t)
{
    const Embedding *e = &t->embedding;
    const Grid *grid = t->grid;
    const float *table = t->weights + t->parameters.tensor[t->parameters.embedding].offset;
    int v = e->vocab.local;
    double sum = 0, *squares = (transformer_arrange(t, 0, 0), t->attack.table);
    memset(squares, 0, sizeof *squares * (size_t)v);
    for (int f = 0; f < e->features.local; f++)
        for (int i = 0; i < v; i++) {
            double x = table[(int64_t)f * v + i];
            squares[i] += x * x;
        }
    if (grid->columns > 1 && v > 0)
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, squares, v, MPI_DOUBLE, MPI_SUM, grid->row_comm));
    for (int i = 0; i < v; i++) sum += sqrt(squares[i]);
    if (grid->rows > 1) CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &sum, 1, MPI_DOUBLE, MPI_SUM, grid->column_comm));
    return e->scale * sum / e->vocab.length;
}

Attack attack_make(Transformer *t, const AttackSettings *s, double radius)
{
    if (s->unit == RADIUS_RELATIVE) radius *= attack_embedding_norm(t);
    return (Attack){ .type = (AttackType)s->type,
                     .norm = (AttackNorm)s->norm,
                     .radius = radius,
                     .step = radius * (s->step_size > 0 ? s->step_size : WHOLE_WAY / (double)s->steps),
                     .steps = s->steps };
}

/* ---- tokens under attack ---------------------------------------------------------------------------------------- */

/* Columns [first, end) of this process column that the group's perturbation is of. */
static void columns_of(const Transformer *t, const BatchGroup *group, int *first, int *end)
{
    CHECK(group->column >= 0);
    *first = group->shared_start;
    *end = group->column == t->grid->column ? *first + group->shared_length : *first;
}

/* t->attack.sums[j] = || x_j ||, over all features, of every column of the batch. Collective over column_comm. */
static void token_norms(Transformer *t, const Batch *batch, const float *x)
{
    int h = t->hidden.local;
    double *norm = t->attack.sums;
    for (int j = 0; j < batch->width; j++) norm[j] = simd_square_sum(x + (int64_t)j * h, h);
    rmsnorm_sum(t->grid, norm, batch->width);
    for (int j = 0; j < batch->width; j++) norm[j] = sqrt(norm[j]);
}

/* x_j becomes factor * x_j */
static void scale_token(float *x, int h, double factor)
{
    for (int f = 0; f < h; f++) x[f] *= (float)factor;
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

/* d A / d logp: constants. A GroupGradient whose context is the Attack. */
static void attack_gradient(void *context, const Batch *batch, int first, int count, const SequenceResult *result,
                            float *coefficient)
{
    const Attack *attack = context;
    (void)result;
    for (int i = first; i < first + count; i++) {
        int start = batch->group[i].sequence, end = batch->group[i + 1].sequence, half = (start + end) / 2;
        for (int j = start; j < half; j++) coefficient[j] = attack->type == ATTACK_CONTRASTIVE ? 1 : 0;
        for (int j = half; j < end; j++) coefficient[j] = -1; /* all parts of the rejected response */
    }
}

/* delta -= step * g / max(norm of g, a share of the pair's largest), g = t->dx */
static void step_l2(Transformer *t, const Batch *batch, const Attack *attack)
{
    int h = t->hidden.local, first, end;
    token_norms(t, batch, t->dx);
    for (int i = 0; i < batch->group_count; i++) {
        double largest = 0;
        columns_of(t, &batch->group[i], &first, &end);
        for (int j = first; j < end; j++) largest = fmax(largest, t->attack.sums[j]);
        for (int j = first; largest > 0 && j < end; j++) {
            float factor = (float)(attack->step / fmax(t->attack.sums[j], LEAST_SHARE * largest));
            const float *g = t->dx + (int64_t)j * h;
            float *delta = t->attack.delta + (int64_t)j * h;
            for (int f = 0; f < h; f++) delta[f] -= factor * g[f];
        }
    }
}

/* delta -= step * sign(g), kept within the ball */
static void step_linf(Transformer *t, const Batch *batch, const Attack *attack)
{
    int h = t->hidden.local, first, end;
    double root = sqrt(t->hidden.length);
    float bound = (float)(attack->radius / root), step = (float)(attack->step / root);
    for (int i = 0; i < batch->group_count; i++) {
        columns_of(t, &batch->group[i], &first, &end);
        for (int64_t k = (int64_t)first * h; k < (int64_t)end * h; k++) {
            float g = t->dx[k], x = t->attack.delta[k] - (g > 0 ? step : g < 0 ? -step : 0);
            t->attack.delta[k] = x > bound ? bound : x < -bound ? -bound : x;
        }
    }
}

/* Every token whose perturbation is longer than the radius, or every one if `all`, gets one of that length. */
static void project_l2(Transformer *t, const Batch *batch, double radius, bool all)
{
    int h = t->hidden.local, first, end;
    token_norms(t, batch, t->attack.delta);
    for (int i = 0; i < batch->group_count; i++) {
        columns_of(t, &batch->group[i], &first, &end);
        for (int j = first; j < end; j++) {
            double norm = t->attack.sums[j];
            if (norm > radius || (all && norm > 0)) scale_token(t->attack.delta + (int64_t)j * h, h, radius / norm);
        }
    }
}

/* ---- random directions ------------------------------------------------------------------------------------------ */

/* A number of the normal distribution, a function of its arguments alone (Box and Muller). */
static double normal_at(uint64_t seed, uint64_t stream, uint64_t index)
{
    double u = ((double)(rng_at(seed, stream, 2 * index) >> 11) + 0.5) * 0x1p-53;
    double v = (double)(rng_at(seed, stream, 2 * index + 1) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(2 * acos(-1) * v);
}

static void draw(Transformer *t, const Batch *batch, const Attack *attack)
{
    int h = t->hidden.local, first, end;
    float bound = (float)(attack->radius / sqrt(t->hidden.length));
    for (int i = 0; i < batch->group_count; i++) {
        const BatchGroup *group = &batch->group[i];
        columns_of(t, group, &first, &end);
        for (int j = first; j < end; j++)
            for (int f = 0; f < h; f++) {
                uint64_t place =
                    (uint64_t)(j - first) * (uint64_t)t->hidden.length + (uint64_t)axis_global(&t->hidden, f);
                double x = normal_at(attack->seed, (uint64_t)group->id, (attack->draw << 36) + place);
                t->attack.delta[(int64_t)j * h + f] = attack->norm == NORM_L2 ? (float)x : x < 0 ? -bound : bound;
            }
    }
    if (attack->norm == NORM_L2) project_l2(t, batch, attack->radius, true);
}

/* ---- an attack -------------------------------------------------------------------------------------------------- */

static void keep_clean(Transformer *t, const Batch *batch)
{
    memcpy(t->attack.clean, t->result, sizeof *t->result * (size_t)batch->sequence_count);
}

void attack_batch(Transformer *t, const Batch *batch, const Attack *attack)
{
    CHECK(t->limits.attack && attack->type != ATTACK_NONE);
    t->shift = NULL;
    transformer_arrange(t, batch->width, batch_widest_chunk(batch));
    memset(t->attack.delta, 0, sizeof(float) * (size_t)batch->width * (size_t)t->hidden.local);
    if (attack->type == ATTACK_RANDOM) {
        transformer_forward(t, batch, NULL, NULL, NULL);
        keep_clean(t, batch);
        draw(t, batch, attack);
    }
    for (int64_t k = 0; attack->type != ATTACK_RANDOM && k < attack->steps; k++) {
        transformer_input_gradient(t, batch, attack_gradient, (void *)attack);
        if (k == 0) keep_clean(t, batch);
        timer_start(t->timer, PHASE_EMBEDDING);
        if (attack->norm == NORM_LINF)
            step_linf(t, batch, attack);
        else {
            step_l2(t, batch, attack);
            project_l2(t, batch, attack->radius, false);
        }
        timer_stop(t->timer);
        t->shift = t->attack.delta;
    }
    t->shift = t->attack.delta;
}

void attack_end(Transformer *t) { t->shift = NULL; }
