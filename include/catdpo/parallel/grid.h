/* The process grid: world = D replicas x R rows x C columns.
 *
 * Rank w of the world is replica w / (R*C), row (w / C) % R, column w % C, so that a grid's ranks are neighbours. Every
 * replica has a BLACS context of its own, made from its communicator.
 *
 * Letters used for shapes everywhere:
 *   D R C   replicas, process rows, process columns
 *   H       hidden size              M   MLP size           V   vocabulary
 *   G       key/value groups (heads) Q   query features = heads x head size
 *   N       tokens of a pass on a process column (its width)
 *   K       harm categories          P   pairs
 * A local shape carries a lower-case letter: h x n is this rank's part of H x N*C.
 */
#ifndef CATDPO_PARALLEL_GRID_H
#define CATDPO_PARALLEL_GRID_H

#include "catdpo/core/error.h"

#include <mpi.h>

typedef struct Grid {
    int replicas, rows, columns; /* D, R, C */
    int replica, row, column;    /* this rank's place */
    MPI_Comm world;              /* D*R*C ranks; not owned */
    MPI_Comm comm;               /* this replica's R*C ranks, row-major */
    MPI_Comm row_comm;           /* the C ranks of this process row; rank = column */
    MPI_Comm column_comm;        /* the R ranks of this process column; rank = row */
    MPI_Comm replica_comm;       /* the D ranks at this row and column; rank = replica */
    int blacs_handle, context;   /* BLACS system handle and context of this replica's grid */
    double flops;                /* multiplications and additions asked of PBLAS by this replica so far */
} Grid;

/* Collective over world. Refuses, with the remedy, shapes whose product is not world's size. */
bool grid_create(Grid *grid, MPI_Comm world, int replicas, int rows, int columns, Error *err);
/* Collective over world. */
void grid_free(Grid *grid);

#endif
