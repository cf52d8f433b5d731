/* log.jsonl: one JSON object a step, written as one line in one write, for tailing. Rank 0 only; nothing is
 * collective. */
#ifndef CATDPO_RUNDIR_STEPLOG_H
#define CATDPO_RUNDIR_STEPLOG_H

#include "catdpo/files/metrics.h"

typedef struct StepLog StepLog;

/* Open for appending after step `keep`: lines of later steps and a torn last line are left out; keep = 0 starts anew.
 * What is kept is copied to a new file in `folder` (NULL: beside path), which replaces the old one: whoever still
 * appends to that does no harm. Category names [K] are copied. NULL on failure. */
StepLog *steplog_open(const char *path, const char *folder, int64_t keep, int category_count,
                      const char (*category_name)[CATEGORY_NAME], Error *err);
/* Numbers that are not finite become null; probe_rate only where there was a probe. warning (NULL: none): what is wrong
 * with the training as of this step. */
bool steplog_write(StepLog *log, const StepMetrics *row, double tokens_per_second, int64_t total_steps,
                   const char *warning, Error *err);
/* Of step 1, if its line was there when the log was opened, else NaN. */
double steplog_first_loss(const StepLog *log);
double steplog_first_grad_norm(const StepLog *log);
/* Everything written so far is on the disk. */
bool steplog_sync(StepLog *log, Error *err);
/* NULL is harmless. */
void steplog_close(StepLog *log);

#endif
