/* Block-cyclic distribution: one axis, and a matrix of two. Nothing here communicates. */
#ifndef CATDPO_PARALLEL_MATRIX_H
#define CATDPO_PARALLEL_MATRIX_H

#include "catdpo/parallel/grid.h"

/* Global indices 0..length-1 dealt out in blocks to `parts` processes, in turn, from process 0. */
typedef struct Axis {
    int length, block, parts;
    int mine;  /* this process */
    int local; /* how many indices it has */
} Axis;

Axis axis_make(int length, int block, int parts, int mine);
/* Equal contiguous shares: one block a process. */
Axis axis_even(int length, int parts, int mine);
int axis_owner(const Axis *axis, int global);
int axis_local(const Axis *axis, int global); /* index on its owner */
int axis_global(const Axis *axis, int local); /* of this process */

/* A view: rows over process rows, columns over process columns; column-major local part of rows.local x columns.local.
 */
typedef struct Matrix {
    int desc[9];       /* ScaLAPACK's descriptor */
    int rows, columns; /* global */
    float *data;       /* local part; not owned */
} Matrix;

/* `stride` floats from one local column to the next, at least the local rows. */
Matrix matrix_make(const Grid *grid, const Axis *rows, const Axis *columns, int stride, float *data);

#endif
