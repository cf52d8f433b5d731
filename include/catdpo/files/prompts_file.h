/* Reading the prompts of a pairs.h5, which catdpo-analysis prepare writes. */
#ifndef CATDPO_FILES_PROMPTS_FILE_H
#define CATDPO_FILES_PROMPTS_FILE_H

#include "catdpo/data/prompts.h"
#include "catdpo/files/pairs_file.h"

/* What the program reads of them; "@" is a group, such as "prompts" or "train/prompts". */
extern const Format prompts_format;
enum { PROMPTS_CATEGORY, PROMPTS_PROMPT, PROMPTS_BOUND, PROMPTS_TOKEN, PROMPTS_BYTE, PROMPTS_AXES };

/* Read the prompts of a group: "prompts" for rows that are prompts only, or "train", "heldout", "probe" for the
 * prompts of those pairs. Everything is checked; errors name file, dataset, index and remedy, and a group that is not
 * there is named with those that may be. Collective over comm: all ranks get all prompts; free with prompts_free.
 * MPI_COMM_NULL: this process alone, which needs no MPI. */
bool prompts_load(Prompts *prompts, const char *path, const char *group, MPI_Comm comm, Error *err);
/* *there: a pairs file has prompts of this group; collective as prompts_load. */
bool prompts_exist(const char *path, const char *group, bool *there, MPI_Comm comm, Error *err);
/* Harmless on zeros. */
void prompts_free(Prompts *prompts);

#endif
