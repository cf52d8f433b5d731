/* What train and eval have in common: a model on a grid, the pairs, and the frozen reference's log-probs of them. */
#ifndef CATDPO_RUN_RUN_H
#define CATDPO_RUN_RUN_H

#include "catdpo/data/pair_batch.h"
#include "catdpo/run/layout.h"
#include "catdpo/rundir/lifecycle.h"

#include "catdpo/model/attack.h"
#include "catdpo/parallel/blas_check.h"
#include "catdpo/core/log.h"
#include "catdpo/core/memory.h"
#include "catdpo/files/model_file.h"
#include "catdpo/core/phase.h"
#include "catdpo/parallel/watchdog.h"
#include "catdpo/rundir/owner.h"

typedef struct Run {
    Config config;
    MPI_Comm world; /* not owned */
    int rank, ranks;
    Log log;
    Timer *timer;
    Lifecycle life;
    Writer *writer; /* of run.dir while this run owns it; NULL before */
    Watchdog *watchdog;
    BlasReport blas;
    ModelInfo model_info; /* of the weights that were loaded last */
    Pairs pairs, heldout; /* heldout: to choose the best checkpoint by; without pairs unless asked for */
    Pairs mismatched;     /* of pairs (mismatch.h): for objectives with a baseline, else without pairs */
    Blobs templates;      /* that the pairs were made with; none unless the run trains */
    Layout layout;
    Grid grid;
    bool grid_made;
    PairBatcher batcher, heldout_batcher, mismatched_batcher;
    Transformer model;
    char loaded_digest[WEIGHTS_DIGEST]; /* of the file that run_load_model has read last; "": none */
    const Attack *attack;               /* on the prompts whose log-probs run_logps finds; NULL: none. Not owned */
} Run;

/* Reads the config, of which the keys `required` (NULL-terminated) have to be set, and starts log, clocks and signals.
 * run_close is due also after a failure. Errors are agreed. Collective over world. */
bool run_begin(Run *run, const char *config_path, int set_count, char *const sets[], const char *const required[],
               MPI_Comm world, Error *err);
void run_close(Run *run);

/* Own run.dir, which is made if need be: from now on its status.json is this run's to write. Collective over world. */
bool run_own_folder(Run *run, bool take_over, Error *err);

/* Checks BLAS, loads the pairs of `group`, reads the architecture of `model_path`, chooses the layout and makes room
 * for the model; no weights yet. Errors are agreed. Collective over world. */
bool run_open(Run *run, const char *group, const char *model_path, PassPurpose purpose, Error *err);

/* run_open in three parts, for who sends more through the model than pairs. First all but layout and model; then the
 * layout, and limits that the caller may widen; then the model and what belongs to it. Errors are agreed. Collective
 * over world. */
bool run_open_pairs(Run *run, const char *group, const char *model_path, PassPurpose purpose, Error *err);
bool run_choose_layout(Run *run, const char *model_path, PassPurpose purpose, TransformerLimits *limits, Error *err);
bool run_place(Run *run, const char *model_path, PassPurpose purpose, const TransformerLimits *limits, Error *err);
/* The limits become those of a model that these pairs go through as well. Not collective. */
bool run_widen_limits(const Run *run, const Pairs *pairs, TransformerLimits *limits, Error *err);

/* What run_open begins with: checks BLAS and reads the architecture of `model_path`. Errors are agreed. Collective over
 * world. */
bool run_open_model(Run *run, const char *model_path, Error *err);
/* And ends with: the grid of run->layout, and room for a model of these limits; ok and err: of what came before, on
 * this rank. Collective over world. */
bool run_place_model(Run *run, const TransformerLimits *limits, Error *err);
/* Parameters of the model, its adapters included. Not collective. */
int64_t run_parameters(const Run *run);
/* The lines about model, grid, memory and BLAS at the beginning of the log; `data` between them. Not collective. */
void run_print_header(Run *run, const char *model_path, const char *data);

/* Watch for ranks that hang. Errors are agreed. Collective over world. */
bool run_watch(Run *run, Error *err);

/* Weights of a model file or checkpoint, of the architecture that the run was opened with. Collective over world. */
bool run_load_model(Run *run, const char *path, Error *err);

/* The adapter of a file into the model's own, which were laid out for such a one: of a base with this digest.
 * Collective over world. */
bool run_load_adapter(Run *run, const char *path, const char *base_digest, Error *err);

/* Has the data what the run's objective reads of it: segments, scores? Not collective; the same on all ranks. */
bool run_refuse_data(const Run *run, const Pairs *pairs, Error *err);

/* Log-probs of the pairs from *done on under the weights at hand and under run->attack, the same on all ranks; of the
 * second segments too if logps->answer is there (the batcher's limits.parts is 2). Goes on until all are done or the
 * lifecycle has something else to do: *done and *verdict say so. Shows progress under `title`. Collective over world.
 */
bool run_logps(Run *run, PairBatcher *batcher, const char *title, const PairLogps *logps, int64_t *done,
               Verdict *verdict, Error *err);

/* "<run.dir>/<name>" */
void run_path(const Run *run, const char *name, char path[FILE_PATH]);
/* Makes run.dir and `name` below it (NULL: only run.dir). Collective over world. */
bool run_make_folder(const Run *run, const char *name, Error *err);

#endif
