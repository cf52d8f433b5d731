/* How much memory this process may use: what the node has, and what its job was given of it. */
#ifndef CATDPO_CORE_MEMORY_LIMIT_H
#define CATDPO_CORE_MEMORY_LIMIT_H

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

enum { MEMORY_LIMITS = 32, MEMORY_LIMIT_NAME = 160 };

/* Something that bounds this process together with others of its node. */
typedef struct MemoryLimit {
    int64_t bytes; /* that all of them may use together */
    int64_t used;  /* of these at present, without what the system takes back when it has to */
    uint64_t key;  /* the same for all processes of a node that share it, not 0 */
    char name[MEMORY_LIMIT_NAME];
} MemoryLimit;

/* The node's memory, the limits of the control groups (v1 and v2) of this process and of all above them, as far as they
 * are below the node's memory, and SLURM's own (SLURM_MEM_PER_NODE, SLURM_MEM_PER_CPU). `proc`: "/proc", or a copy of
 * it for a test. Returns how many there are. Not collective. */
int memory_limits(const char *proc, MemoryLimit limit[MEMORY_LIMITS]);

/* The limit that leaves least; *available: bytes that it leaves, at least 0. Not collective. */
MemoryLimit memory_tightest(const char *proc, int64_t *available);

/* A rank's share of the limit that gives it least. */
typedef struct MemoryShare {
    double bytes;
    char of[MEMORY_LIMIT_NAME + 48]; /* for messages: "1/4 of the node's memory, 16.8 GB" */
} MemoryShare;

/* The least over all ranks, each limit being shared by the ranks of a node that it holds for. The same on all ranks.
 * Collective over world. */
MemoryShare memory_share(MPI_Comm world);
/* What each of `ranks` ranks beside each other would have on this machine, under the limits of this process. Not
 * collective. */
MemoryShare memory_share_here(int ranks);

#endif
