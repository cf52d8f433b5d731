/* Evaluation of pairs whose prompts are attacked: violations by radius and category, under the attack that the settings
 * eval.* ask for and under perturbations of the same length whose direction is drawn. */
#ifndef CATDPO_RUN_ATTACKED_H
#define CATDPO_RUN_ATTACKED_H

#include "catdpo/files/eval_file.h"
#include "catdpo/run/evaluate.h"
#include "catdpo/run/run.h"

/* A radii, the first 0; K categories, N pairs. */
typedef struct Attacked {
    EvalAttack result;     /* what eval.h5 has of it; its arrays lie in memory */
    PairBatcher batcher;   /* of whole pairs with shared prompts */
    Evaluation evaluation; /* of the radius at hand */
    void *memory;
} Attacked;

/* Room for it. Not collective. */
bool attacked_create(Attacked *a, const Run *run, bool segments, Error *err);
void attacked_free(Attacked *a); /* harmless on one that is all zero */

/* Evaluates all radii under the weights at hand; `plain` is the measured evaluation without an attack, which is that of
 * radius 0. Collective over world. */
bool attacked_measure(Attacked *a, Run *run, const Evaluation *plain, const MarginState *margins, Error *err);

#endif
