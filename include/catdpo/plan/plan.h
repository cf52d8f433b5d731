/* What a run will need before it is started: memory, messages, operations and time of a step on a grid. Nothing here
 * communicates or needs MPI; every number is for the rank that has most, unless it says otherwise.
 *
 * The parts of a step are those of transformer.c, in the same order. What PBLAS moves and keeps in a product is
 * modelled in product.c; the batches are those that the run will really make (batch.h, sampler.h), or a sample of them.
 */
#ifndef CATDPO_PLAN_PLAN_H
#define CATDPO_PLAN_PLAN_H

#include "catdpo/config/config.h"
#include "catdpo/parallel/gemm.h"
#include "catdpo/data/pairs.h"
#include "catdpo/model/transformer.h"

/* A forward pass, of a step's forward and backward. */
#define PLAN_FORWARD_SHARE (1.0 / 3)

/* ---- one product ---- */

/* A dimension of a product: indices, and the most that a process has of them when they lie over process rows, or over
 * process columns. */
typedef struct Extent {
    double length, over_rows, over_columns;
} Extent;

Extent extent_make(int64_t length, int64_t row_block, int rows, int64_t column_block, int columns);

/* Of one psgemm, c[m x n] = op(a) op(b) over k. */
typedef struct ProductCost {
    double flops;  /* of the busiest rank */
    double copied; /* bytes that it copies in memory beside the multiplication */
    double row_bytes,
        column_bytes; /* sent along process rows and along process columns, by all ranks of the grid together */
    double row_messages, column_messages; /* of a rank */
    double workspace, kept;               /* bytes: while it runs, and in BLACS's buffer from then on */
} ProductCost;

/* op_a, op_b: (N, N), (T, N) or (N, T). block: PBLAS's logical block. */
ProductCost product_cost(Transpose op_a, Transpose op_b, Extent m, Extent n, Extent k, int rows, int columns,
                         int block);

/* ---- the machine ---- */

typedef struct Machine {
    double gflops;                                /* sgemm of one rank, GF/s */
    double attention_forward, attention_backward; /* seconds a score and head */
    double mlp_forward, mlp_backward;             /* seconds an element of the activation */
    double memory_bandwidth;                      /* bytes/s that one rank reads or writes */
    double node_bandwidth;                        /* bytes/s that a node sends to others */
    double latency;                               /* seconds a message between nodes */
    int ranks_per_node;
    double library_bytes; /* resident memory of a rank before the first matrix */
} Machine;

/* Measures one rank on this machine for about a second: everything but node_bandwidth, latency and ranks_per_node.
 * gflops > 0 is taken as given, and what is bound by arithmetic is scaled to it; likewise memory_bandwidth > 0. */
bool machine_measure(Machine *machine, const Architecture *a, int threads, Error *err);

/* ---- a step ---- */

typedef struct PlanShape {
    int replicas, rows, columns;
} PlanShape;

/* Bytes a rank by kind. */
typedef struct PlanMemory {
    double weights, adapters, gradients, moments, activations, logits, caches, library;
    double answers; /* keys and values of the answers of a probe */
} PlanMemory;

double plan_memory_total(const PlanMemory *m);

typedef struct StepCost {
    double tokens;            /* as the run counts them: both sequences of a pair, over all ranks */
    double passes;            /* of the replica that has most */
    double width, width_most; /* columns of a pass: mean, most */
    double flops;             /* of a rank, mean over ranks: products and attention */
    double product_flops;     /* of them, what is asked of PBLAS */
    double bytes;             /* sent by a rank in a step, mean over ranks */
    double messages;          /* of a rank */
    double matmul, head, attention, elementwise, exchange,
        optimizer;        /* seconds, without waiting for messages but for `exchange` */
    double seconds;       /* their sum, for the slowest replica */
    double forward_share; /* of a forward pass in a forward and a backward one */
    double sampled;       /* steps that this is the mean of */
    PlanMemory memory;    /* the most over those steps and over the pass of the reference */
} StepCost;

/* What a grid of this shape does in the steps of the run. `effort`: pairs of steps that may be laid out to find out;
 * the run's first steps if that covers all of them. */
bool step_cost(StepCost *cost, const Config *config, const Architecture *a, const Pairs *pairs,
               const BatchLimits *limits, PlanShape shape, const Machine *machine, int64_t total_steps, double effort,
               Error *err);

/* ---- generation ---- */

/* Of the replica that has most. */
typedef struct GenerationLoad {
    double answers, prompt_tokens; /* in all */
    double prompt;                 /* tokens of one, mean */
    int lanes;                     /* answers at once, over its process columns */
    int max_tokens;                /* of an answer */
    int max_tokens_pass;           /* of prompts that are read, on a process column */
} GenerationLoad;

/* Seconds at most: every answer has all its tokens. */
typedef struct GenerationCost {
    double prefill, decode;
    double passes, pass; /* of decode: how many, and of one with all lanes and answers half done */
} GenerationCost;

bool generation_cost(GenerationCost *cost, const Config *config, const Architecture *a, PlanShape shape,
                     const Machine *machine, const GenerationLoad *load, Error *err);

/* ---- the probe ---- */

/* What a probe looks at. */
typedef struct ProbeSize {
    int64_t pairs;            /* margin.source = "heldout" */
    int64_t prompts, longest; /* "generated"; tokens of the longest prompt */
    double prompt_tokens;     /* of all prompts */
} ProbeSize;

typedef struct ProbeCost {
    double count;   /* probes of the run */
    double seconds; /* of one, answers as long as they may be and without the judge */
    double cache;   /* bytes a rank of keys and values */
} ProbeCost;

/* On a grid of this shape, of which a step costs `step`. Without a probe all is 0. */
bool probe_cost(ProbeCost *cost, const Config *config, const Architecture *a, const ProbeSize *size, PlanShape shape,
                const Machine *machine, const StepCost *step, int64_t total_steps, Error *err);

/* ---- models and data that are not there yet ---- */

/* "1b", "8b", "70b" (the shapes of Llama 3), "gemma3-1b", "gemma3-4b", "gemma3-12b", "gemma3-27b", or a list like
 * "hidden=2048,mlp=8192,layers=16,heads=32,groups=8,head=64,vocab=128256,tied=1", with family=.. (llama), and window=..
 * for layers with a sliding window, all but every full=..th. */
bool shape_parse(Architecture *a, const char *text, Error *err);

/* Made-up pairs of `tokens` on average for both sequences, prompts counted twice, from half to one and a half times
 * that, evenly; `completion`: the part of them that is not prompt. Free with pairs_free. */
bool pairs_invent(Pairs *pairs, int64_t count, double tokens, double completion, int vocab, Error *err);

#endif
