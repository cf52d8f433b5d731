/* The probe: what the margins count with margin.source "heldout" or "generated", on data that is not trained on.
 *
 * Before the first step and then every margin.interval steps the model at hand is measured: the pairs of /probe go
 * through it, or it answers the prompts of /probe/prompts and the answers are judged. The counts are 2K integers as
 * those of training pairs are, each rank counts its own, and one MPI_Allreduce sums them up. A probe is a function of
 * weights, step and settings: a run that was interrupted in one goes on from its last checkpoint and measures again.
 *
 * K categories. All memory is taken before the first step; generation runs in the buffers of training. */
#ifndef CATDPO_TRAIN_PROBE_H
#define CATDPO_TRAIN_PROBE_H

#include "catdpo/generate/run.h"
#include "catdpo/objective/margin.h"
#include "catdpo/run/reference.h"
#include "catdpo/train/judging.h"

typedef struct Probe {
    MarginSource source; /* SOURCE_PAIRS: there is no probe, and nothing below is set */
    int category_count;
    int64_t *counts;               /* [2K] as margin_count makes them, of the probe measured last; over all ranks */
    int64_t *row;                  /* likewise, before they are summed up */
    double *n, *violations;        /* [K] the same as numbers */
    double seconds, judge_seconds; /* of the probe measured last */

    /* heldout */
    Pairs pairs;
    PairBatcher batcher;
    PairLogps reference, second; /* [N] under the frozen models */
    int64_t *chosen;             /* [chosen_count] pairs that are looked at, margin.probe_size of each category */
    int64_t chosen_count;

    /* generated */
    Prompts prompts; /* that are answered */
    Vocabulary vocabulary;
    GenerateLimits limits;
    Generator generator;
    char *text;      /* of the answer at hand */
    int64_t answers; /* prompts x samples */
    Judging judging;
    float *score; /* [answers] as in Judged: rank 0 has those of all after a probe */
    int8_t *verdict;
    uint8_t *kind;
    bool judge_failed; /* the probe measured last ended because the judge did not do its work */
} Probe;

/* The prompts of the probe group that are answered, and its pairs that are looked at, chosen [count]: margin.probe_size
 * of each category. Errors are agreed. Collective over comm; MPI_COMM_NULL: by a process alone, without MPI. The caller
 * frees both in any case. */
bool probe_read_prompts(Prompts *prompts, const Config *config, MPI_Comm comm, Error *err);
bool probe_read_pairs(Pairs *pairs, int64_t **chosen, int64_t *count, const Config *config, MPI_Comm comm, Error *err);

/* Reads the probe group, and chooses what is looked at. After run_open_pairs. Errors are agreed. Collective over
 * run->world; probe_free in any case. */
bool probe_load(Probe *p, Run *run, Error *err);
/* What the probe needs of the model: widens limits. After run_choose_layout. Not collective. */
bool probe_widen(Probe *p, const Run *run, TransformerLimits *limits, Error *err);
/* Its memory. After run_place. Errors are agreed. Collective. */
bool probe_create(Probe *p, Run *run, Error *err);
/* Log-probs under the frozen models, if a pair's violation depends on them. Collective. */
bool probe_frozen(Probe *p, Run *run, Error *err);
void probe_free(Probe *p);

/* Is one due after `step` steps? */
bool probe_is_due(const Probe *p, const MarginState *margins, int64_t step);

/* Measures the weights after `step` steps into p->counts and what follows. Goes on until all is done or something asks
 * for the end (verdict->stop): then nothing was measured. Errors are agreed. Collective over run->world. */
bool probe_measure(Probe *p, Run *run, const MarginState *margins, int64_t step, Verdict *verdict, Error *err);

/* Generated answers go to probe.h5 in run.dir, with their verdicts: a samples file, as catdpo generate writes it.
 * Collective. */
bool probe_keep(const Probe *p, Run *run, int64_t step, Error *err);

/* Is the upper 95 % Wilson bound of every category's rate below `target`? False if nothing was counted. */
bool probe_is_safe(const Probe *p, double target);

#endif
