/* What a model's log-probs of some pairs say about it, for each category: the rules of training (score.h), for eval and
 * for the choice of the best checkpoint. */
#ifndef CATDPO_RUN_EVALUATE_H
#define CATDPO_RUN_EVALUATE_H

#include "catdpo/data/pairs.h"
#include "catdpo/objective/score.h"

/* N pairs, K categories; the arrays lie in one allocation. A tie counts one half. */
typedef struct Evaluation {
    PairLogps logps, reference, second;              /* filled in by the caller */
    double *violation;                               /* [N] in [0, 1]; NaN where the margin does not apply */
    int64_t *index;                                  /* [N] rows of the split */
    int64_t *pairs, *n;                              /* [K] pairs, and those that the margin applies to */
    double *right, *violations;                      /* [K] the pairs whose chosen response leads; of n */
    double *accuracy, *accuracy_low, *accuracy_high; /* [K] with its 95 % interval; NaN without pairs */
    double *rate, *rate_low, *rate_high;             /* [K] violation rate */
    double *reward;                                  /* [K] mean reward margin */
    void *memory;
} Evaluation;

/* With room for the log-probs of second segments if the objective wants them. Not collective. */
bool evaluation_create(Evaluation *e, const Pairs *pairs, bool segments, Error *err);
void evaluation_free(Evaluation *e); /* harmless on one that is all zero */

/* Everything else from the log-probs, under these margins. Not collective. */
void evaluation_measure(Evaluation *e, const Pairs *pairs, const ObjectiveSettings *settings,
                        const MarginState *margins);

#endif
