/* Memory: one allocation for each kind of thing (weights, gradients, optimiser, activations) with views carved from
 * it, and a table of what each kind takes. Nothing here is collective.
 */
#ifndef CATDPO_CORE_MEMORY_H
#define CATDPO_CORE_MEMORY_H

#include "catdpo/core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MEMORY_ALIGNMENT = 64, MEMORY_KINDS = 16 };

/* `bytes` >= 0 of zeroed memory, aligned to MEMORY_ALIGNMENT and owned by the caller; never NULL without an error,
 * which names `what` ("weights"; a remedy may follow in parentheses). */
void *memory_allocate(int64_t bytes, const char *what, Error *err);
void memory_free(void *memory); /* NULL is harmless */

/* Hands out views of one allocation, one behind the other. The same code runs twice: first with a base of NULL, when
 * the views are NULL and only `used` is of interest; then with the allocation of that size. */
typedef struct Arena {
    char *base;   /* NULL: measuring; not owned */
    int64_t used; /* bytes */
} Arena;

/* count elements of `size` bytes, aligned to MEMORY_ALIGNMENT. */
void *arena_take(Arena *arena, int64_t count, size_t size);
float *arena_floats(Arena *arena, int64_t count);

/* Bytes by kind on this rank, for the run's header line. All zero at first. */
typedef struct MemoryTable {
    int count;
    struct {
        const char *kind; /* not owned */
        int64_t bytes;
    } row[MEMORY_KINDS];
} MemoryTable;

/* Adds bytes to a kind. */
void memory_note(MemoryTable *table, const char *kind, int64_t bytes);
/* "weights 513 MB + gradients 513 MB = 1.03 GB" into text; returns text. Kinds of 0 bytes are left out. */
const char *memory_line(const MemoryTable *table, char *text, size_t size);
/* "1.03 GB", decimal units, three digits; returns text. */
const char *memory_text(double bytes, char text[16]);

/* Largest resident memory of this process so far, bytes; 0 if the system does not tell. */
int64_t memory_peak(void);
/* Resident memory of this process now, bytes; the peak where the system does not tell. (A peak may be that of the
 * program which called exec.) */
int64_t memory_resident(void);

#endif
