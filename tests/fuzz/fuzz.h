/* What the fuzz targets share: a small valid file of each format, recipes that spoil it, and the program's readers.
 *
 * Every target is one process with one rank (MPI_COMM_SELF). Files lie in a folder of the process in memory (TMPDIR, or
 * /dev/shm). A broken promise ends the process by abort(), which libFuzzer keeps as a finding.
 */
#ifndef CATDPO_FUZZ_H
#define CATDPO_FUZZ_H

#include "catdpo/core/error.h"
#include "catdpo/h5/h5.h"
#include "catdpo/model/transformer.h"

#include <stddef.h>
#include <stdint.h>

/* A format, how to make a valid file of it and how the program reads one. */
typedef struct FuzzFormat {
    const char *name;
    void (*make)(const char *path);
    void (*read)(const char *path);
} FuzzFormat;

extern const FuzzFormat formats[];
extern const int format_count;
const FuzzFormat *format_named(const char *name);
void samples_make(const char *path); /* samples.c; the others' are in formats.c */
void samples_look(const char *path);
/* All that the program does with a file of the format: `catdpo check`, then its own reader, which may write to it. */
void format_read(const FuzzFormat *format, const char *path);

/* ---- the process ---- */

void fuzz_start(void);                                         /* MPI, HDF5, the folder; once */
const char *fuzz_path(char path[FILE_PATH], const char *name); /* a file in the folder */
void fuzz_write(const char *path, const void *bytes, size_t size);
uint8_t *fuzz_bytes(const char *path, size_t *size); /* the caller frees it */

/* A reader's verdict: one message exactly if it refused, in one line of text, and nothing of HDF5's left open. */
void fuzz_verdict(bool ok, const Error *err);
void fuzz_all_closed(void);
/* What a valid file must be: accepted. */
void fuzz_must(bool ok, const Error *err);

/* Do work in a child, which is stopped after some seconds and says nothing. Its exit status, FUZZ_CHILD_KILLED for any
 * other end. */
enum { FUZZ_CHILD_KILLED = 99 };
int fuzz_child(void (*work)(void *context), void *context);

/* The grid of one rank, and a transformer on it, as large as the architecture says. */
Grid *fuzz_grid(void);
bool fuzz_transformer(Transformer *t, const Architecture *a, Error *err);

/* ---- recipes ---- */

/* The fuzzer's bytes, read from the front; zeros when they are used up. */
typedef struct Recipe {
    const uint8_t *next;
    size_t left;
} Recipe;

uint8_t recipe_byte(Recipe *r);
uint64_t recipe_number(Recipe *r); /* of the interesting ones, or any */

/* Change the valid file at path through HDF5, a step for each few bytes of the recipe. By a child: HDF5 is not proof
 * against what is asked of it here, and the file is left as it is when it dies. */
void recipe_spoil(Recipe *r, const char *path);

#endif
