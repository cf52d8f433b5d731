/* A folder of its own for a test's files, known to all ranks, removed at the end. Collective over MPI_COMM_WORLD. */
#ifndef CATDPO_TEST_SCRATCH_H
#define CATDPO_TEST_SCRATCH_H

#include "catdpo/core/error.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Scratch {
    char folder[256];
    char path[512]; /* the last answer of scratch_file */
} Scratch;

static inline int world_rank(void)
{
    int rank;
    CHECK_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    return rank;
}

static inline int world_size(void)
{
    int size;
    CHECK_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size));
    return size;
}

static inline Scratch scratch_make(void)
{
    Scratch scratch = { 0 };
    const char *root = getenv("TMPDIR");
    snprintf(scratch.folder, sizeof scratch.folder, "%s/catdpo-test-XXXXXX", root ? root : P_tmpdir);
    if (world_rank() == 0) CHECK(mkdtemp(scratch.folder));
    CHECK_MPI(MPI_Bcast(scratch.folder, sizeof scratch.folder, MPI_CHAR, 0, MPI_COMM_WORLD));
    return scratch;
}

static inline const char *scratch_file(Scratch *scratch, const char *name)
{
    strcpy(scratch->path, scratch->folder);
    size_t length = strlen(scratch->path);
    snprintf(scratch->path + length, sizeof scratch->path - length, "/%s", name);
    return scratch->path;
}

/* Files in the folder, as rank 0 sees it. */
static inline int scratch_count(const Scratch *scratch)
{
    int count = 0;
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
    if (world_rank() == 0) {
        DIR *folder = opendir(scratch->folder);
        CHECK(folder);
        for (struct dirent *entry; (entry = readdir(folder));) count += entry->d_name[0] != '.';
        closedir(folder);
    }
    CHECK_MPI(MPI_Bcast(&count, 1, MPI_INT, 0, MPI_COMM_WORLD));
    return count;
}

static inline void scratch_remove(const Scratch *scratch)
{
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
    if (world_rank() != 0) return;
    DIR *folder = opendir(scratch->folder);
    CHECK(folder);
    for (struct dirent *entry; (entry = readdir(folder));) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", scratch->folder, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) remove(path);
    }
    closedir(folder);
    CHECK(rmdir(scratch->folder) == 0);
}

#endif
