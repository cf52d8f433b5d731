/* What judges say of the answers in samples.h5: groups /scores/NAME, which analysis/catdpo_analysis/files/samples.py
 * writes beside the answers. The program only verifies them. */
#ifndef CATDPO_FILES_SCORES_FILE_H
#define CATDPO_FILES_SCORES_FILE_H

#include "catdpo/h5/h5.h"

enum { JUDGES_MAX = 64 };

typedef struct Judges {
    int count;
    char name[JUDGES_MAX][BLOB_NAME];
    int64_t judged[JUDGES_MAX], bad[JUDGES_MAX]; /* answers with a verdict, and with one that is bad */
} Judges;

/* Verify the scores of `answers` answers and count their verdicts; a file without any has no judge. Collective over the
 * file's communicator. */
bool scores_check(H5File *file, int64_t answers, Judges *judges, Error *err);

#endif
