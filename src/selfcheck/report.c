#include "catdpo/selfcheck/selfcheck.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void selfcheck_begin(SelfCheck *s, MPI_Comm world)
{
    MPI_Comm node;
    int first;
    *s = (SelfCheck){ .world = world };
    CHECK_MPI(MPI_Comm_rank(world, &s->rank));
    CHECK_MPI(MPI_Comm_size(world, &s->ranks));
    CHECK_MPI(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
    CHECK_MPI(MPI_Comm_rank(node, &first));
    CHECK_MPI(MPI_Comm_free(&node));
    first = first == 0;
    CHECK_MPI(MPI_Allreduce(&first, &s->nodes, 1, MPI_INT, MPI_SUM, world));
}

void selfcheck_add(SelfCheck *s, const char *name, CheckVerdict verdict, const char *remedy, const char *format, ...)
{
    CHECK(s->count < FINDINGS);
    Finding *f = &s->finding[s->count++];
    *f = (Finding){ .verdict = verdict };
    snprintf(f->name, sizeof f->name, "%s", name);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(f->found, sizeof f->found, format, arguments);
    va_end(arguments);
    if (verdict != CHECK_OK && remedy) snprintf(f->remedy, sizeof f->remedy, "%s", remedy);
}

static void add_shape(Shape shapes[LAYOUTS], int *count, int ranks, int rows, int columns)
{
    if (rows < 1 || columns < 1 || rows > ROWS_MAX || ranks % (rows * columns) != 0 || *count == LAYOUTS) return;
    Shape shape = { ranks / (rows * columns), rows, columns };
    for (int i = 0; i < *count; i++)
        if (memcmp(&shapes[i], &shape, sizeof shape) == 0) return;
    shapes[(*count)++] = shape;
}

int selfcheck_layouts(int ranks, Shape shapes[LAYOUTS])
{
    int count = 0, rows = ranks < ROWS_MAX ? ranks : ROWS_MAX, square = 1;
    while (ranks % rows != 0) rows--;
    for (int r = 2; r * r <= ranks && r <= ROWS_MAX; r++)
        if (ranks % r == 0) square = r;
    add_shape(shapes, &count, ranks, rows, 1);
    add_shape(shapes, &count, ranks, 1, ranks);
    add_shape(shapes, &count, ranks, square, ranks / square);
    add_shape(shapes, &count, ranks, 1, 1);
    return count;
}
