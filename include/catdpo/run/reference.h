/* Frozen models: the reference, and the second one that modpo has. Their log-probs of the pairs are computed once,
 * before training, and kept in a file under digests of all that they depend on. */
#ifndef CATDPO_RUN_REFERENCE_H
#define CATDPO_RUN_REFERENCE_H

#include "catdpo/run/run.h"

typedef enum {
    FROZEN_REFERENCE, /* reference.model, else model.path */
    FROZEN_MODPO,     /* objective.modpo_model */
} FrozenModel;

/* Refuses a path that leads to something else than a model of ours, such as a GGUF file. Not collective. */
bool frozen_refuse_foreign(const Config *config, Error *err);

/* Digest of its weights, as its file says; "none" if it is not needed. Collective over world. */
bool frozen_digest(const Run *run, FrozenModel which, char digest[WEIGHTS_DIGEST], Error *err);

/* Its log-probs of all pairs of the batcher, the same on all ranks: from the cache if there is one for this data and
 * these weights, else computed and cached under `group` (those of the second segments, if logps->answer is there, under
 * "<group>_answer"); a pass that is interrupted goes on from its cache. The model's weights are afterwards those of the
 * frozen model, or as before. Collective over world. */
bool frozen_logps(Run *run, FrozenModel which, PairBatcher *batcher, const char *group, const PairLogps *logps,
                  Error *err);

#endif
