/* How fast this machine is at what training does, and whether that is what it should be. */
#include "catdpo/selfcheck/selfcheck.h"

#include "catdpo/core/timer.h"
#include "catdpo/parallel/blas_check.h"
#include "catdpo/parallel/gemm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 4 };

/* ---- one rank ---- */

/* Multiplications and additions without any memory: what this processor can do, whatever library there is. The chains
 * of sums do not wait for each other; the result is returned so that nothing is left out. Once for each width of
 * registers: a function is compiled for one. */
enum { CHAINS = 10 };

#define ARITHMETIC(name, bytes)                                                                                        \
    static float name(int rounds, float by)                                                                            \
    {                                                                                                                  \
        typedef float Lanes __attribute__((vector_size(bytes)));                                                       \
        Lanes x0 = { 0 }, x1 = x0 + 1, x2 = x0 + 2, x3 = x0 + 3, x4 = x0 + 4, x5 = x0 + 5, x6 = x0 + 6, x7 = x0 + 7,   \
              x8 = x0 + 8, x9 = x0 + 9, factor = x0 + by, term = x0 + (1 - by);                                        \
        for (int r = 0; r < rounds; r++) {                                                                             \
            x0 = x0 * factor + term, x1 = x1 * factor + term, x2 = x2 * factor + term, x3 = x3 * factor + term;        \
            x4 = x4 * factor + term, x5 = x5 * factor + term, x6 = x6 * factor + term, x7 = x7 * factor + term;        \
            x8 = x8 * factor + term, x9 = x9 * factor + term;                                                          \
        }                                                                                                              \
        Lanes all = x0 + x1 + x2 + x3 + x4 + x5 + x6 + x7 + x8 + x9;                                                   \
        return all[0];                                                                                                 \
    }

ARITHMETIC(arithmetic_plain, 16)
#if defined __x86_64__
__attribute__((target("avx2,fma"))) ARITHMETIC(arithmetic_avx2, 32) __attribute__((target("avx512f")))
ARITHMETIC(arithmetic_avx512, 64)
#endif

    typedef float Arithmetic(int rounds, float by);

/* The widest that this processor has; its numbers a register. */
static Arithmetic *widest(int *lanes)
{
#if defined __x86_64__
    __builtin_cpu_init();
    *lanes = 16;
    if (__builtin_cpu_supports("avx512f")) return arithmetic_avx512;
    *lanes = 8;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return arithmetic_avx2;
#endif
    *lanes = 4;
    return arithmetic_plain;
}

/* GF/s of one core without memory. */
static double arithmetic_rate(void)
{
    enum { REPEAT = 1 << 18 };
    int lanes;
    Arithmetic *run = widest(&lanes);
    double best = 0;
    volatile float keep = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds_now();
        keep += run(REPEAT, 0.999f);
        best = fmax(best, 2e-9 * REPEAT * CHAINS * lanes / (seconds_now() - start));
    }
    return best;
}

/* Bytes/s read and written by a copy that is too large for the caches; 0 without memory. */
static double copy_rate(void)
{
    enum { BYTES = 64 << 20 };
    char *x = malloc(2 * (size_t)BYTES);
    double best = 0;
    if (!x) return 0;
    memset(x, 1, 2 * (size_t)BYTES);
    for (int round = 0; round < ROUNDS; round++) {
        double start = seconds_now();
        memcpy(x + (round % 2 ? 0 : BYTES), x + (round % 2 ? BYTES : 0), BYTES);
        best = fmax(best, 2.0 * BYTES / (seconds_now() - start));
    }
    free(x);
    return best;
}

static void check_sgemm(SelfCheck *s, int threads)
{
    BlasReport blas = blas_check(s->world, threads);
    double mine[2] = { arithmetic_rate(), copy_rate() }, least[2];
    CHECK_MPI(MPI_Allreduce(mine, least, 2, MPI_DOUBLE, MPI_MIN, s->world));
    s->rates.sgemm_gflops = blas.gflops;
    s->rates.memory_bandwidth = least[1];
    if (blas.gflops <= 0 || least[1] <= 0) {
        selfcheck_add(s, "sgemm", CHECK_WRONG, "give the job more memory", "no memory to measure sgemm and copies");
        return;
    }
    double share = blas.gflops / (least[0] * threads);
    CheckVerdict verdict = *blas.warning || share < 0.4 ? CHECK_SLOW : CHECK_OK;
    selfcheck_add(s, "sgemm", verdict,
                  *blas.warning ? blas.warning
                                : "an optimised BLAS reaches more of the processor: Debian's libopenblas0-pthread, the "
                                  "site's MKL, LibSci or AOCL; or the ranks share cores (mpirun --bind-to core)",
                  "%.1f GF/s a rank, all ranks at work; %.0f %% of what the processor does without memory; %s",
                  blas.gflops, 100 * share, blas.library);
    selfcheck_add(s, "memory", CHECK_OK, NULL, "%.1f GB/s a rank, copied, all ranks at work", least[1] / 1e9);
}

/* ---- all ranks: psgemm on a shape of a model ---- */

/* GF/s a rank of a layer's product on this grid; 0 without memory. */
static double psgemm_rate(SelfCheck *s, Grid *grid)
{
    const int out = 1536, in = 576, tokens = 512 * grid->columns;
    Axis out_rows = axis_even(out, grid->rows, grid->row), in_rows = axis_even(in, grid->rows, grid->row),
         in_columns = axis_even(in, grid->columns, grid->column),
         token_columns = axis_even(tokens, grid->columns, grid->column);
    size_t w = (size_t)out_rows.local * (size_t)in_columns.local,
           x = (size_t)in_rows.local * (size_t)token_columns.local,
           y = (size_t)out_rows.local * (size_t)token_columns.local;
    float *memory = calloc(w + x + y + 1, sizeof *memory);
    Error ignored = { 0 };
    double best = 0;
    if (error_agree(s->world, memory || error_fault(&ignored, "memory"), &ignored)) {
        for (size_t i = 0; i < w + x; i++) memory[i] = (float)(i % 13) / 13;
        Matrix wm = matrix_make(grid, &out_rows, &in_columns, out_rows.local, memory),
               xm = matrix_make(grid, &in_rows, &token_columns, in_rows.local, memory + w),
               ym = matrix_make(grid, &out_rows, &token_columns, out_rows.local, memory + w + x);
        for (int round = 0; round <= ROUNDS; round++) {
            CHECK_MPI(MPI_Barrier(s->world));
            double start = seconds_now();
            gemm(grid, PLAIN, &wm, PLAIN, &xm, 0, &ym);
            CHECK_MPI(MPI_Barrier(s->world));
            double rate = 2e-9 * out * in * tokens / (grid->rows * grid->columns) / (seconds_now() - start);
            if (round > 0) best = fmax(best, rate);
        }
    }
    free(memory);
    CHECK_MPI(MPI_Bcast(&best, 1, MPI_DOUBLE, 0, s->world));
    return best;
}

static void check_psgemm(SelfCheck *s)
{
    if (s->rates.sgemm_gflops <= 0) return; /* no memory to measure it: check_sgemm has said so */
    Shape shapes[LAYOUTS];
    int layouts = selfcheck_layouts(s->ranks, shapes);
    for (int l = 0; l < layouts; l++) {
        if (shapes[l].rows * shapes[l].columns == 1 && layouts > 1) continue; /* sgemm with another name */
        Grid grid;
        Error err = { 0 };
        char name[FINDING_NAME];
        if (!grid_create(&grid, s->world, shapes[l].replicas, shapes[l].rows, shapes[l].columns, &err)) continue;
        double rate = psgemm_rate(s, &grid), share = rate / s->rates.sgemm_gflops;
        grid_free(&grid);
        s->rates.psgemm_gflops = fmax(s->rates.psgemm_gflops, rate);
        snprintf(name, sizeof name, "psgemm %d x %d", shapes[l].rows, shapes[l].columns);
        selfcheck_add(s, name, share < 0.25 ? CHECK_SLOW : CHECK_OK,
                      "messages are slow beside the arithmetic: fewer ranks a grid and more replicas (parallel.grid), "
                      "ranks bound to cores, another parallel.block",
                      "%.1f GF/s a rank on SmolLM2's widest product, %.0f %% of sgemm", rate, 100 * share);
    }
}

/* ---- messages ---- */

/* Seconds of a message of so many bytes from rank 0 to `other`, half of the way there and back; the same on all ranks.
 */
static double message_seconds(SelfCheck *s, int other, char *buffer, int bytes, int repeat)
{
    double best = INFINITY;
    for (int round = 0; round <= ROUNDS; round++) {
        CHECK_MPI(MPI_Barrier(s->world));
        double start = seconds_now();
        for (int i = 0; i < repeat && (s->rank == 0 || s->rank == other); i++) {
            int to = s->rank == 0 ? other : 0;
            if (s->rank == 0) CHECK_MPI(MPI_Send(buffer, bytes, MPI_BYTE, to, 0, s->world));
            CHECK_MPI(MPI_Recv(buffer, bytes, MPI_BYTE, to, 0, s->world, MPI_STATUS_IGNORE));
            if (s->rank != 0) CHECK_MPI(MPI_Send(buffer, bytes, MPI_BYTE, to, 0, s->world));
        }
        if (round > 0) best = fmin(best, (seconds_now() - start) / repeat / 2);
    }
    CHECK_MPI(MPI_Bcast(&best, 1, MPI_DOUBLE, 0, s->world));
    return best;
}

static double allreduce_seconds(SelfCheck *s)
{
    enum { REPEAT = 50, COUNTS = 28 };
    int64_t counts[COUNTS] = { 0 };
    double best = INFINITY;
    for (int round = 0; round <= ROUNDS; round++) {
        CHECK_MPI(MPI_Barrier(s->world));
        double start = seconds_now();
        for (int i = 0; i < REPEAT; i++)
            CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, counts, COUNTS, MPI_INT64_T, MPI_SUM, s->world));
        if (round > 0) best = fmin(best, (seconds_now() - start) / REPEAT);
    }
    CHECK_MPI(MPI_Bcast(&best, 1, MPI_DOUBLE, 0, s->world));
    return best;
}

static void check_messages(SelfCheck *s)
{
    enum { LONG = 8 << 20 };
    const char *slow = "ranks wait for each other: start no more ranks than cores, bind them (mpirun --bind-to core), "
                       "and let MPI use the cluster's network (UCX or libfabric), not TCP";
    if (s->ranks == 1) {
        selfcheck_add(s, "messages", CHECK_SKIPPED, "start more than one rank", "one rank sends none");
        return;
    }
    char *buffer = calloc(LONG, 1);
    Error ignored = { 0 };
    if (error_agree(s->world, buffer || error_fault(&ignored, "memory"), &ignored)) {
        s->rates.latency = message_seconds(s, s->ranks - 1, buffer, 8, 100);
        s->rates.bandwidth = LONG / message_seconds(s, s->ranks - 1, buffer, LONG, 2);
        selfcheck_add(s, "messages", s->rates.latency > 200e-6 || s->rates.bandwidth < 0.2e9 ? CHECK_SLOW : CHECK_OK,
                      slow, "rank 0 to rank %d, %s: %.1f us a message, %.2f GB/s", s->ranks - 1,
                      s->nodes > 1 ? "on another node" : "on the same node", 1e6 * s->rates.latency,
                      s->rates.bandwidth / 1e9);
    }
    free(buffer);
    s->rates.allreduce = allreduce_seconds(s);
    selfcheck_add(s, "allreduce", s->rates.allreduce > 5e-3 ? CHECK_SLOW : CHECK_OK, slow,
                  "%.1f us for the counts of 14 categories over %d ranks on %d node%s", 1e6 * s->rates.allreduce,
                  s->ranks, s->nodes, s->nodes > 1 ? "s" : "");
}

void selfcheck_rates(SelfCheck *s, int threads, int block)
{
    gemm_set_block(block);
    check_sgemm(s, threads);
    check_psgemm(s);
    check_messages(s);
}
