/* The shape of the run: how many replicas of what grid. */
#ifndef CATDPO_RUN_LAYOUT_H
#define CATDPO_RUN_LAYOUT_H

#include "catdpo/model/architecture.h"
#include "catdpo/config/config.h"
#include "catdpo/core/memory_limit.h"
#include "catdpo/data/pairs.h"
#include "catdpo/model/transformer.h"

#define LAYOUT_ROOM                                                                                                    \
    0.8 /* part of the memory that a layout chosen for the user takes: the rest is for libraries, messages and the     \
           system */

/* What passes are for. */
typedef enum {
    PASS_FORWARD, /* log-probs */
    PASS_ATTACK,  /* and gradients of the input, for attacks */
    PASS_TRAIN,   /* and gradients of the weights, and their moments */
} PassPurpose;

typedef struct Layout {
    int replicas, rows, columns;
    char why[512]; /* one sentence for the header line */
} Layout;

/* "2x3x1": replicas, rows, columns. */
enum { LAYOUT_TEXT = 64 };
void layout_text(const Layout *layout, char text[LAYOUT_TEXT]);

/* As configured, or with parallel.grid = "auto" the smallest grid whose share of the model fits the memory that the job
 * may use, with as many replicas as there are ranks for: replicas exchange the least. Refuses
 * what the memory cannot hold. The same on all ranks. Collective over world. */
bool layout_choose(Layout *layout, const Config *config, const Architecture *a, const Pairs *pairs, PassPurpose purpose,
                   MPI_Comm world, Error *err);

/* The same for `ranks` ranks of this memory each. Not collective. */
bool layout_choose_for(Layout *layout, const Config *config, const Architecture *a, const Pairs *pairs, int ranks,
                       const MemoryShare *memory, PassPurpose purpose, Error *err);

/* Refuses what train refuses: shapes that do not suit the ranks or the model, or that need more than `memory` bytes a
 * rank. *need: bytes of weights, gradients, moments and the largest pass that the data can make; 0 where the shape is
 * refused. Not collective. */
bool layout_check(const Layout *layout, const Config *config, const Architecture *a, const Pairs *pairs, int ranks,
                  const MemoryShare *memory, PassPurpose purpose, double *need, Error *err);

/* Limits of the batcher and of the model on a grid of this shape. Not collective. */
BatchLimits layout_batch_limits(const Config *config, const Architecture *a, int rows, int columns);
bool layout_limits(const Config *config, const Architecture *a, const Pairs *pairs, const Layout *layout,
                   PassPurpose purpose, TransformerLimits *limits, Error *err);

#endif
