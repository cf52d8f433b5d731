/* What train and eval have in common: a model on a grid, the pairs, and the frozen reference's log-probs of them. */
#ifndef CATDPO_RUN_H
#define CATDPO_RUN_H

#include "layout.h"

#include "catdpo/blas_check.h"
#include "catdpo/log.h"
#include "catdpo/memory.h"
#include "catdpo/model_file.h"
#include "catdpo/phase.h"

typedef struct Run {
    Config      config;
    MPI_Comm    world;          /* not owned */
    int         rank, ranks;
    Log         log;
    Timer       *timer;
    BlasReport  blas;
    ModelInfo   model_info;     /* of the weights that were loaded last */
    Pairs       pairs;
    Layout      layout;
    Grid        grid;
    bool        grid_made;
    Batcher     batcher;
    Transformer model;
} Run;

/* Reads the config, checks BLAS, loads the pairs of `group`, reads the architecture of `model_path` (NULL: config.model.path), chooses the layout
 * and makes room for the model; no weights yet. Errors are agreed. Collective over world. */
bool run_open(Run *run, const char *config_path, int set_count, char *const sets[], const char *group, const char *model_path, bool backward,
              MPI_Comm world, Error *err);
void run_close(Run *run);

/* Weights of a model file or checkpoint, of the architecture that the run was opened with. Collective over world. */
bool run_load_model(Run *run, const char *path, Error *err);

/* Log-probs of all pairs under the weights at hand: chosen and rejected [pairs.count], nats, the same on all ranks. Shows progress under
 * `title`. Collective over world. */
bool run_logps(Run *run, const char *title, double *chosen, double *rejected, Error *err);

/* The same under the frozen reference, from its cache if there is one for this data and these weights, else computed and cached. The model's
 * weights are afterwards the reference's, or as before. Collective over world. */
bool run_reference(Run *run, const char *group, double *chosen, double *rejected, char digest[WEIGHTS_DIGEST], Error *err);

/* "<run.dir>/<name>" */
void run_path(const Run *run, const char *name, char path[FILE_PATH]);
/* Makes run.dir and `name` below it (NULL: only run.dir). Collective over world. */
bool run_make_folder(const Run *run, const char *name, Error *err);

#endif
