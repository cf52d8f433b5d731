#include "catdpo/parallel/grid.h"

#include <stdlib.h>

/* BLACS has no header of its own */
int Csys2blacs_handle(MPI_Comm comm);
void Cfree_blacs_system_handle(int handle);
void Cblacs_gridmap(int *context, int *usermap, int ldumap, int nprow, int npcol);
void Cblacs_gridexit(int context);
void Cblacs_set(int context, int what, int *value);

enum { BLACS_REPEATABLE = 15 }; /* combine in a fixed order, not in order of arrival */

bool grid_create(Grid *grid, MPI_Comm world, int replicas, int rows, int columns, Error *err)
{
    int ranks, rank;
    CHECK_MPI(MPI_Comm_size(world, &ranks));
    CHECK_MPI(MPI_Comm_rank(world, &rank));
    if ((long)replicas * rows * columns != ranks)
        return error_usage(
            err,
            "%d replicas of a %d x %d grid are %ld ranks, but %d were started: change parallel.replicas, "
            "parallel.grid or the number of ranks",
            replicas, rows, columns, (long)replicas * rows * columns, ranks);
    int per_grid = rows * columns;
    int *usermap = malloc(sizeof(int) * (size_t)per_grid); /* column-major R x C of ranks in grid->comm */
    if (!error_agree(world, usermap || error_fault(err, "out of memory for a grid of %d ranks", per_grid), err)) {
        free(usermap);
        return false;
    }
    *grid = (Grid){ .replicas = replicas, .rows = rows, .columns = columns, .world = world };
    grid->replica = rank / per_grid;
    grid->row = rank % per_grid / columns;
    grid->column = rank % columns;
    CHECK_MPI(MPI_Comm_split(world, grid->replica, rank, &grid->comm));
    CHECK_MPI(MPI_Comm_split(grid->comm, grid->row, grid->column, &grid->row_comm));
    CHECK_MPI(MPI_Comm_split(grid->comm, grid->column, grid->row, &grid->column_comm));
    CHECK_MPI(MPI_Comm_split(world, rank % per_grid, grid->replica, &grid->replica_comm));

    grid->blacs_handle = Csys2blacs_handle(grid->comm);
    grid->context = grid->blacs_handle;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) usermap[r + c * rows] = r * columns + c;
    Cblacs_gridmap(&grid->context, usermap, rows, rows, columns);
    free(usermap);
    int yes = 1;
    Cblacs_set(grid->context, BLACS_REPEATABLE, &yes);
    return true;
}

void grid_free(Grid *grid)
{
    Cblacs_gridexit(grid->context);
    Cfree_blacs_system_handle(grid->blacs_handle);
    MPI_Comm_free(&grid->replica_comm);
    MPI_Comm_free(&grid->column_comm);
    MPI_Comm_free(&grid->row_comm);
    MPI_Comm_free(&grid->comm);
}
