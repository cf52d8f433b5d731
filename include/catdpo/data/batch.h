/* Passes made of sequences, shared out: to replicas, to passes (gradient accumulation), and in a pass to the process
 * columns of a grid.
 *
 * Sequences come in groups, whatever a group is to its builder: a preference pair (pair_batch.h), a prompt with its
 * answers, a text that is being generated. A group is run in one pass. What its sequences have in common is run once,
 * and all of them attend to it (share_prompt). There is no padding between sequences; a process column is padded only
 * to the longest one. Everything here is computed from the same data on every rank and needs no communication.
 *
 * A sequence may go on where an earlier one ended: the keys and values of its tokens until then lie in a cache, which
 * is a row of columns to this file, and those of the tokens that are run now may be kept there, before any token of the
 * pass looks for them. So one pass can hold prompts that are read and texts that grow by a token, side by side, and a
 * text may grow in the pass that reads its prompt.
 */
#ifndef CATDPO_DATA_BATCH_H
#define CATDPO_DATA_BATCH_H

#include "catdpo/parallel/grid.h"

#include <stdbool.h>
#include <stdint.h>

enum { CACHED_RANGES = 3 }; /* what all prompts begin with, a prompt that several texts continue, the text itself */

/* Columns [start, start + length) of the cache. */
typedef struct CacheRange {
    int start, length;
} CacheRange;

/* What one pass has to do with a text. */
typedef struct Sequence {
    const int32_t *token;             /* [known] not owned, read until the pass is built */
    int known;                        /* tokens */
    int begin, end;                   /* tokens [begin, end) are run, end <= known */
    int predict, predict_end;         /* tokens [predict, predict_end) are to be predicted, each by the one before it;
                                       * begin < predict, predict_end <= end + 1 */
    int split;                        /* targets from this token on are a part of their own; 0: there is one part */
    int column;                       /* process column that has to run it, for its cache is there; -1: any */
    CacheRange cached[CACHED_RANGES]; /* tokens [0, begin), of earlier passes or kept by this one */
    CacheRange keep;                  /* where tokens [begin, end) go; of length 0: they are not kept */
} Sequence;

/* Tokens [start, start + length) of this process column, at positions position, position + 1, ... They attend to the
 * cached tokens, to the tokens [prefix_start, prefix_start + prefix_length) of this process column and to those of the
 * segment up to themselves; in this order these are the positions from 0 on. */
typedef struct Segment {
    int start, length;
    int prefix_start, prefix_length;
    int position;
    CacheRange cached[CACHED_RANGES];
    CacheRange keep; /* where their keys and values go; of length 0: they are not kept */
} Segment;

/* The output at `column` predicts `token` of a sequence of the pass; -1: a token that is still to be chosen. A sequence
 * that is split has two numbers: the first is for all of its targets, the second for those of its second part, which
 * name the second one and have part = 1. */
typedef struct Target {
    int column, token, sequence, part;
} Target;

/* A group of the pass: its sequences [sequence, next group's sequence). */
typedef struct BatchGroup {
    int64_t id;  /* the builder's name for it: a pair's index in the data */
    int place;   /* in the order in which the step's groups were added */
    int counter; /* rank of grid->comm that counts it */
    int sequence;
    int column;                      /* process column of all its sequences; -1: they are on several */
    int shared_start, shared_length; /* columns there of the tokens that are run once for all of them */
} BatchGroup;

/* Groups [group, next chunk's group) whose logits exist at the same time. */
typedef struct Chunk {
    int group;
    int width;  /* targets on the process column that has most */
    int target; /* this column's first; the next chunk's first ends them */
} Chunk;

/* One pass of a replica's grid. */
typedef struct Batch {
    int group_count, sequence_count;
    BatchGroup *group; /* [group_count + 1]; the last only ends the one before */
    int width;         /* N: columns of the longest process column */
    int *token;        /* [C][width], -1: padding */
    int used;          /* of this process column's width */
    int segment_count;
    Segment *segment;
    int target_count;
    Target *target; /* by chunk */
    int chunk_count;
    Chunk *chunk; /* [chunk_count + 1]; the last only ends the one before */
} Batch;

/* Width of its widest chunk. */
int batch_widest_chunk(const Batch *batch);

typedef struct BatchLimits {
    int columns;        /* C */
    int groups;         /* a step */
    int64_t max_tokens; /* a pass, per process column; a longer group goes alone */
    int accumulation;   /* passes, at least (never more than the groups a replica has) */
    int logit_columns;  /* of a chunk; a longer group goes alone */
    bool share_prompt;
    int parts;  /* of a pair's sequences: 2 if they are split into segments; 0 and 1: one */
    bool whole; /* the sequences of a group stay on one process column, even where splitting it would balance better */
} BatchLimits;

/* The most that can come up in a pass, by the builder's knowledge: what buffers are sized for. */
typedef struct BatchSizes {
    int sequences; /* of all groups of a step */
    int width;     /* Batch.width */
    int targets;   /* target_count of a process column */
    int chunk;     /* Chunk.width */
} BatchSizes;

typedef struct Batcher {
    const Grid *grid;
    BatchLimits limits;
    BatchSizes most;
    int passes; /* of the step planned last, on this replica (0: it has no groups) */
    Batch batch;
    struct PlannedGroup *plan; /* [limits.groups] all that were added; once planned this replica's, by pass */
    int plan_count;
    struct PlannedSequence *sequence; /* [most.sequences] in the order in which they were added */
    int sequence_count;
    int *scratch;
} Batcher;

/* Allocates all that later calls need. Not collective. */
bool batcher_create(Batcher *b, const Grid *grid, const BatchLimits *limits, const BatchSizes *most, Error *err);
void batcher_free(Batcher *b);

/* Begin a step, and add its groups of count >= 1 sequences, at most limits.groups. Those of a group are on one process
 * column if they name one. */
void batcher_clear(Batcher *b);
void batcher_add(Batcher *b, int64_t id, const Sequence *sequence, int count);
/* Share the groups out to replicas and passes: sets passes. The same groups whatever the layout. */
void batcher_plan(Batcher *b);
/* Instead, where every replica has added groups of its own: all of them are one pass. */
void batcher_plan_single(Batcher *b);
/* Build pass 0 <= pass < passes; valid until the next call. */
const Batch *batcher_pass(Batcher *b, int pass);

#endif
