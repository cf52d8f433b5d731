/* One writer: a run directory belongs to one running copy of the program.
 *
 * The copy that owns it holds a folder "writer-<n>" in it, n larger than of any copy before. Every file is written in
 * there and renamed out of it when it is complete. Whoever takes the directory over makes the folder of the next n and
 * removes the older ones, with what lies in them: from then on no rename of the old copy can succeed, wherever it runs
 * and however late it wakes up. So two copies may live at the same time (after a network split, or when a node's daemon
 * was lost), but only one of them writes.
 *
 * Is an owner alive? On the same kernel its lock (flock) on "owner" says so. From elsewhere only its heartbeat does: a
 * counter that a thread rewrites; if it stands still for `lease` seconds by the observer's own clock, the owner counts
 * as dead. Neither process ids nor clocks of other hosts are used. A restart of the same SLURM job may take over at
 * once: the scheduler says that the old one is gone.
 */
#ifndef CATDPO_RUNDIR_OWNER_H
#define CATDPO_RUNDIR_OWNER_H

#include "catdpo/core/log.h"

#include <mpi.h>
#include <stdbool.h>

typedef struct Writer Writer;

/* Own `directory`, which exists. Waits up to `lease` seconds for a sign of life if another copy on another host holds
 * it; refuses (EXIT_USAGE, naming the owner) if that one lives, unless take_over. NULL on failure, agreed. Collective
 * over comm (not owned). */
Writer *writer_acquire(const char *directory, double lease, bool take_over, Log *log, MPI_Comm comm, Error *err);

/* Where unfinished files lie, and the directory that is owned. The same on all ranks. */
const char *writer_folder(const Writer *writer);
const char *writer_directory(const Writer *writer);
/* When this copy began, as UTC text. The same on all ranks. */
const char *writer_started(const Writer *writer);

/* On rank 0, not collective: another copy has taken the directory over; this one must stop. err (if not set) names it.
 * Without `look` it is what the last heartbeat found. Always false on other ranks. */
bool writer_lost(const Writer *writer, bool look, Error *err);

/* Give the directory back and remove what is unfinished. NULL is harmless. Not collective. */
void writer_release(Writer *writer);

#endif
