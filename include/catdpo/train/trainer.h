/* A training run: what its parts (train.c: before, between and after the steps; step.c: a step; record.c: what
 * it leaves behind; save.c: checkpoints; resume.c: going on from one) share. */
#ifndef CATDPO_TRAIN_TRAINER_H
#define CATDPO_TRAIN_TRAINER_H

#include "catdpo/run/evaluate.h"
#include "catdpo/run/reference.h"
#include "catdpo/run/run.h"
#include "catdpo/train/health.h"
#include "catdpo/train/probe.h"
#include "catdpo/train/tally.h"

#include "catdpo/files/checkpoint.h"
#include "catdpo/data/sampler.h"
#include "catdpo/rundir/steplog.h"

typedef struct Trainer {
    Run run;
    Sampler sampler;
    Optimizer optimizer;
    MarginState margins;
    Tally tally;
    Probe probe;
    bool probed;         /* before the step at hand: probe has what was measured */
    int64_t safe_probes; /* in a row, the last ones, in which every category was surely below margin.target */
    char ending[256];    /* why the run ended before its last step, and well; "": it did not */
    Metrics *metrics;
    StepLog *log;  /* rank 0 only */
    Health health; /* likewise */
    Progress progress;
    PairLogps reference, second;    /* [N] under the frozen models; NaN for one that is not needed */
    PairLogps mismatched_reference; /* [N] of run.mismatched; NULL without */
    double baseline;                /* nats: of the step at hand, for objectives that have one */
    Evaluation heldout;             /* of the held-out pairs; without memory unless checkpoint.best */
    char start_digest[WEIGHTS_DIGEST],
        reference_digest[WEIGHTS_DIGEST]; /* of the weights that training starts from, and of the reference */
    char base_digest[WEIGHTS_DIGEST];     /* of model.path: what adapters are trained on */
    int64_t *pair;                        /* [B] indices of the step's pairs, -1: none */
    double *logps[PAIR_SIDES];            /* [B] theirs, if this rank counts the pair, else infinite */
    double *ref_logps[PAIR_SIDES];        /* [B] under the reference; NaN: no such pair */
    int pair_count;
    double *phase_seconds;                 /* [PHASES] */
    int64_t step, total_steps, num_tokens; /* step: done so far, or being done */
    int64_t first_step;                    /* done before this process went on */
    int64_t skipped;                       /* steps without an update */
    double best; /* violation rate of the worst held-out category in best.h5; infinite: there is none */
} Trainer;

/* ---- train.c ---- */

/* What the command line asks for besides the settings. */
typedef struct TrainOptions {
    const char *config; /* file; NULL: none */
    int set_count;
    char *const *sets; /* "group.key=value" */
    bool overwrite, take_over;
    const char *resume; /* checkpoint to go on from, "": the newest one; NULL: a new run */
    const char *allow;  /* differences that a resumed run may have; NULL: none */
} TrainOptions;

/* A run from its settings to its last checkpoint. `t` is zeroed before and freed with trainer_free afterwards, also
 * after an error; errors are agreed. Collective over world. */
bool train(Trainer *t, const TrainOptions *options, MPI_Comm world, Error *err);
void trainer_free(Trainer *t);

/* ---- weights.c ---- */

/* The digests of base and start, as their files say; a file that does not go with the settings is refused. After
 * run_open. Collective over world. */
bool weights_identify(Trainer *t, Error *err);
/* What is trained, at its start or as in a checkpoint; from then on adapters are part of the model. Before, the model
 * is the frozen one. Collective over world. */
bool weights_start(Trainer *t, Error *err);
bool weights_resume(Trainer *t, const char *checkpoint, Error *err);

/* ---- step.c ---- */

/* The probe that is due after t->step steps, if there is one, and the margins' update by it; p.probed says so. Nothing
 * has changed if it was interrupted (verdict->stop). Errors are agreed. Collective over world. */
bool train_probe(Trainer *t, Verdict *verdict, Error *err);

/* Step t->step: one update of the weights and of the margins; fills row with everything that the pairs and the update
 * say. Errors are the same on all ranks. Collective over world. */
bool train_step(Trainer *t, StepMetrics *row, Error *err);

/* ---- record.c ---- */

/* metrics.h5, log.jsonl and config.cfg, for a new run or after step t->step. Collective over world. */
bool record_open(Trainer *t, Error *err);
/* Metrics, log and progress of the step just done. Not agreed: false on a rank where something failed. Collective over
 * world. */
bool record_step(Trainer *t, StepMetrics *row, Error *err);

/* ---- save.c ---- */

/* Write a checkpoint of this moment, after the metrics that it builds on; final.h5, or one of the latest. Collective
 * over world. */
bool save(Trainer *t, bool final, Error *err);
/* The checkpoints of an earlier run in this directory go: it is being replaced. On rank 0. */
bool save_clear(Trainer *t, Error *err);

/* ---- resume.c ---- */

/* Is there something to go on from (`path`; "": the newest checkpoint of run.dir), and may this run? Before the
 * reference is computed. `allowed` (NULL: nothing) is a list of differences to accept. Collective over world. */
bool resume_check(Trainer *t, const char *path, const char *allowed, Error *err);
/* Weights, moments, margins and position of the newest good one; *found is false if there is none, and then nothing has
 * changed. Collective over world. */
bool resume_load(Trainer *t, const char *path, bool *found, Error *err);

#endif
