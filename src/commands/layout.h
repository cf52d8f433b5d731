/* The shape of the run: how many replicas of what grid. */
#ifndef CATDPO_LAYOUT_H
#define CATDPO_LAYOUT_H

#include "catdpo/architecture.h"
#include "catdpo/config.h"
#include "catdpo/pairs.h"
#include "catdpo/transformer.h"

typedef struct Layout {
    int  replicas, rows, columns;
    char why[256];     /* one sentence for the header line */
} Layout;

/* "2x3x1": replicas, rows, columns. */
enum { LAYOUT_TEXT = 64 };
void layout_text(const Layout *layout, char text[LAYOUT_TEXT]);

/* As configured, or with parallel.grid = "auto" the smallest grid whose share of the model fits the memory of the nodes, with as many
 * replicas as there are ranks for: replicas exchange the least. The same on all ranks. Collective over world. */
bool layout_choose(Layout *layout, const Config *config, const Architecture *a, const Pairs *pairs, MPI_Comm world, Error *err);

/* Limits of the batcher and of the model on a grid of this shape. `backward`: training. Not collective. */
BatchLimits layout_batch_limits(const Config *config, const Architecture *a, int rows, int columns);
bool layout_limits(const Config *config, const Architecture *a, const Pairs *pairs, const Layout *layout, bool backward,
                   TransformerLimits *limits, Error *err);

#endif
