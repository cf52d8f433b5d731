/* A step's pairs, shared out: to replicas, to passes (gradient accumulation), and in a pass to the process columns of a
 * grid.
 *
 * A pair's two sequences mostly share their prompt; it is run once, and both completions attend to it (share_prompt). A
 * sequence's last token predicts nothing and is not run. There is no padding between sequences; a process column is
 * padded only to the longest one. Everything here is computed from the same data on every rank and needs no
 * communication.
 */
#ifndef CATDPO_DATA_BATCH_H
#define CATDPO_DATA_BATCH_H

#include "catdpo/parallel/grid.h"
#include "catdpo/data/pairs.h"

/* Tokens [start, start + length) of this process column, at positions position, position + 1, ...: they attend to the
 * tokens [prefix_start, prefix_start + prefix_length) and to those of the segment up to themselves. */
typedef struct Segment {
    int start, length;
    int prefix_start, prefix_length;
    int position;
} Segment;

/* The output at `column` has to predict `token`; sequence = 2 * (pair in the pass) + side. */
typedef struct Target {
    int column, token, sequence;
} Target;

/* Pairs [pair, next chunk's pair) whose logits exist at the same time. */
typedef struct Chunk {
    int pair;
    int width;  /* targets on the process column that has most */
    int target; /* this column's first; the next chunk's first ends them */
} Chunk;

/* One pass of a replica's grid. */
typedef struct Batch {
    int pair_count;
    int64_t *pair; /* [pair_count] index in the data */
    int *slot;     /* [pair_count] place in the step's list of pairs */
    int *counter;  /* [pair_count] rank of grid->comm that counts this pair */
    int width;     /* N: columns of the longest process column */
    int *token;    /* [C][width], -1: padding */
    int used;      /* of this process column's width */
    int segment_count;
    Segment *segment;
    int target_count;
    Target *target; /* by chunk */
    int chunk_count;
    Chunk *chunk; /* [chunk_count + 1]; the last only ends the one before */
} Batch;

typedef struct BatchLimits {
    int columns;        /* C */
    int pairs;          /* a step */
    int64_t max_tokens; /* a pass, per process column; a longer pair goes alone */
    int accumulation;   /* passes, at least (never more than the pairs a replica has) */
    int logit_columns;  /* of a chunk; a longer pair goes alone */
    bool share_prompt;
} BatchLimits;

typedef struct Batcher {
    const Pairs *pairs;
    const Grid *grid;
    BatchLimits limits;
    int max_width;   /* largest Batch.width that can come up: what buffers are sized for */
    int max_targets; /* largest target_count of a process column */
    int max_chunk;   /* largest Chunk.width */
    int passes;      /* of the step planned last, on this replica (0: it has no pairs) */
    Batch batch;
    struct PlannedPair *plan; /* [limits.pairs] this replica's, by pass */
    int plan_count;
    int *scratch;
} Batcher;

/* Allocates all that later calls need. Not collective. */
bool batcher_create(Batcher *b, const Pairs *pairs, const Grid *grid, const BatchLimits *limits, Error *err);
void batcher_free(Batcher *b);

/* Plan a step of count pairs (indices into the data; count <= limits.pairs): sets passes. The same pairs whatever the
 * layout. */
void batcher_plan(Batcher *b, const int64_t *pairs, int count);
/* Build pass 0 <= pass < passes; valid until the next call. */
const Batch *batcher_pass(Batcher *b, int pass);

#endif
