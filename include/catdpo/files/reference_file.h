/* The frozen reference's log-probabilities of the pairs' completions, cached in a file under digests of all they
 * depend on. */
#ifndef CATDPO_FILES_REFERENCE_FILE_H
#define CATDPO_FILES_REFERENCE_FILE_H

#include "catdpo/h5/fields.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

/* What the values depend on; all text must be equal for a cache to be used. Strings are not owned. */
typedef struct ReferenceKey {
    const char *data_digest, *weights_digest, *tokenizer_digest;
    const char *settings; /* what else changes the values, e.g. "dtype=float32" */
} ReferenceKey;

/* The file: the key, and "@" for each group of pairs. */
extern const Format reference_format;
/* Bytes that `count` pairs take in it. */
double reference_file_bytes(int64_t count);

typedef enum {
    REFERENCE_ABSENT, /* no file, or a file for this key that does not have the group yet */
    REFERENCE_FOUND,
    REFERENCE_REFUSED, /* err says why: made for something else (the digest and both values), damaged, unreadable */
} ReferenceStatus;

/* Summed completion log-probabilities (nats) of `count` pairs of group ("train" or "heldout") into chosen and
 * rejected [count], on every rank; the first `done` of them are known, the rest is what an interrupted pass left to do.
 * Collective over comm: rank 0 reads, the result is the same everywhere. chosen and rejected are undefined unless
 * FOUND. */
ReferenceStatus reference_cache_read(const char *path, const char *group, const ReferenceKey *key, int64_t count,
                                     double *chosen, double *rejected, int64_t *done, MPI_Comm comm, Error *err);

/* A readable cache that is made for another key. The same on every rank. Collective over comm. */
bool reference_cache_is_other(const char *path, const ReferenceKey *key, MPI_Comm comm);

/* A name of this key's own beside `path`: "reference-<hash of the key>.h5" beside reference.h5. Not collective. */
void reference_cache_beside(const char *path, const ReferenceKey *key, char beside[FILE_PATH]);

/* Add or replace a group and keep the other one; a file made for another key is refused, never overwritten. The file is
 * replaced as a whole, atomically; unfinished it lies in `folder` (NULL: beside path). Collective over comm; rank 0's
 * values count. */
bool reference_cache_write(const char *path, const char *folder, const char *group, const ReferenceKey *key,
                           int64_t count, const double *chosen, const double *rejected, int64_t done, MPI_Comm comm,
                           Error *err);

/* Verify a group of an open file: checksums and finite values. *count: its pairs, -1 without such a group. By a process
 * alone (a file opened with MPI_COMM_NULL). */
bool reference_check(H5File *file, const char *group, int64_t *count, Error *err);

#endif
