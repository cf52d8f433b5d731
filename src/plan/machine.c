/* How fast one rank is: the program's own loops on small matrices, on the machine that it is asked on. */
#include "catdpo/plan/plan.h"

#include "catdpo/parallel/blas_check.h"
#include "catdpo/core/memory.h"
#include "catdpo/ops/mlp.h"
#include "catdpo/core/timer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 4 };

/* MPI_Init and the first messages; the process that plans has everything else loaded that a rank has. Measured with
 * Open MPI 4. */
static const double MPI_BYTES = 17e6;

static void fill(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)(i % 17) / 17 - 0.5f;
}

/* Seconds of a score and head in attention, forward and backward, on one sequence. */
static bool measure_attention(Machine *machine, const Architecture *a, Error *err)
{
    enum {
        TOKENS = 512,
        TILE_SCORES = 128 * (128 + 256 + 384 + 512)
    }; /* that attention.c computes for them, masked ones included */
    AttentionShape s = { .groups = 1, .per_group = a->heads / a->groups, .head_dim = a->head_dim };
    s.scale = architecture_family(a)->model(a).attention_scale;
    Segment segment = { .length = TOKENS };
    Batch batch = { .width = TOKENS, .used = TOKENS, .segment_count = 1, .segment = &segment };
    int64_t qkv = (int64_t)TOKENS * (s.per_group + 2) * s.head_dim, out = (int64_t)TOKENS * s.per_group * s.head_dim,
            lse = (int64_t)TOKENS * s.per_group;
    float *x = memory_allocate((2 * qkv + 2 * out + lse + attention_scratch(&s, TOKENS)) * (int64_t)sizeof(float),
                               "a measurement", err);
    if (!x) return false;
    float *dx = x + qkv, *y = dx + qkv, *dy = y + out, *sums = dy + out, *scratch = sums + lse;
    fill(x, qkv);
    fill(dy, out);
    machine->attention_forward = machine->attention_backward = INFINITY;
    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds_now();
        attention_forward(&s, &batch, x, &(CachedKeys){ 0 }, y, sums, scratch);
        double middle = seconds_now();
        attention_backward(&s, &batch, x, y, sums, dy, dx, scratch);
        double scores = (double)TILE_SCORES * s.per_group;
        machine->attention_forward = fmin(machine->attention_forward, (middle - start) / scores);
        machine->attention_backward = fmin(machine->attention_backward, (seconds_now() - middle) / scores);
    }
    memory_free(x);
    return true;
}

static bool measure_mlp(Machine *machine, Activation activation, Error *err)
{
    enum { FEATURES = 1024, TOKENS = 512 };
    Axis axis = axis_even(FEATURES, 1, 0);
    float *x = memory_allocate(3LL * FEATURES * TOKENS * (int64_t)sizeof(float), "a measurement", err);
    if (!x) return false;
    float *y = x + 2LL * FEATURES * TOKENS;
    machine->mlp_forward = machine->mlp_backward = INFINITY;
    for (int round = 0; round < ROUNDS; round++) {
        fill(x, 2LL * FEATURES * TOKENS);
        double start = seconds_now();
        glu_forward(activation, &axis, TOKENS, x, y);
        double middle = seconds_now();
        glu_backward(activation, &axis, TOKENS, x, y);
        machine->mlp_forward = fmin(machine->mlp_forward, (middle - start) / FEATURES / TOKENS);
        machine->mlp_backward = fmin(machine->mlp_backward, (seconds_now() - middle) / FEATURES / TOKENS);
    }
    memory_free(x);
    return true;
}

/* Bytes/s read and written by a copy too large for the caches. */
static bool measure_bandwidth(Machine *machine, Error *err)
{
    enum { BYTES = 48 << 20 };
    char *x = memory_allocate(2LL * BYTES, "a measurement", err);
    if (!x) return false;
    memset(x, 1, 2LL * BYTES);
    double least = INFINITY;
    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds_now();
        memcpy(x + (round % 2 ? 0 : BYTES), x + (round % 2 ? BYTES : 0), BYTES);
        least = fmin(least, seconds_now() - start);
    }
    machine->memory_bandwidth = 2.0 * BYTES / least;
    memory_free(x);
    return true;
}

bool machine_measure(Machine *machine, const Architecture *a, int threads, Error *err)
{
    double given = machine->gflops, bandwidth = machine->memory_bandwidth, measured = blas_rate(threads);
    machine->library_bytes = (double)memory_resident() + MPI_BYTES;
    if (measured <= 0) return error_fault(err, "out of memory for measuring this machine");
    if (!measure_attention(machine, a, err) ||
        !measure_mlp(machine, architecture_family(a)->model(a).activation, err) || !measure_bandwidth(machine, err))
        return false;
    machine->gflops = given > 0 ? given : measured;
    double slower = measured / machine->gflops;
    machine->attention_forward *= slower;
    machine->attention_backward *= slower;
    machine->mlp_forward *= slower;
    machine->mlp_backward *= slower;
    if (bandwidth > 0) machine->memory_bandwidth = bandwidth;
    return true;
}
