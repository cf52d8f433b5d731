/* A generation from beginning to end: a model on a grid, the prompts, and samples.h5 as far as it came. */
#ifndef CATDPO_GENERATE_RUN_H
#define CATDPO_GENERATE_RUN_H

#include "catdpo/data/vocabulary.h"
#include "catdpo/files/samples_file.h"
#include "catdpo/generate/generator.h"
#include "catdpo/run/run.h"

/* All answers so far on rank 0 of grid->world: texts too if there is a vocabulary. Elsewhere its arrays stay empty, and
 * the counts are set. The memory is its own; what belongs to the prompts is theirs. Collective over grid->world, errors
 * agreed. */
typedef struct Gathered {
    Samples samples;
    void *memory[10];
} Gathered;
bool gather_answers(const Generator *g, const Vocabulary *vocabulary, Gathered *gathered, Error *err);
void gathered_free(Gathered *gathered);

/* Takes over the answers of a samples.h5 that is there, this replica's. `path` names it in the error if one of them, of
 * whatever replica, is none that these prompts, this model and these settings can have. Before the first step. Not
 * collective: the same on all ranks but for a lack of memory. */
bool restore_answers(Generator *g, const Samples *s, const char *path, Error *err);

/* The settings of the group `generate`; lanes are not yet cut to the cache. generate_sizes leaves out stop tokens. */
GenerateLimits generate_sizes(const Config *config);
bool generate_limits(const Config *config, const Vocabulary *vocabulary, int vocab, GenerateLimits *limits, Error *err);
SampleSettings generate_sampling(const Config *config);
/* What the answers depend on beside weights and prompts, in words that are compared and shown. */
enum { GENERATE_TEXT = 4096 };
void generate_describe(const Config *config, const GenerateLimits *limits, char text[GENERATE_TEXT]);

/* The layout for generation: as configured, or the fewest process rows that the model and its cache fit, with replicas
 * to fill: a column of a grid reads all its weights for each token, so more of them gain nothing. Sets limits->lanes to
 * what the cache holds. The same on all ranks. Collective over world. */
bool generate_layout(Layout *layout, const Config *config, const Architecture *a, const Prompts *prompts,
                     GenerateLimits *limits, MPI_Comm world, Error *err);

/* Bytes of the rank that has most. */
typedef struct GenerateBytes {
    double model, cache; /* weights, activations and logits; keys and values */
} GenerateBytes;

/* The same for `ranks` ranks with so much memory each, and what it takes of it. Not collective. */
bool generate_layout_for(Layout *layout, const Config *config, const Architecture *a, const Prompts *prompts,
                         GenerateLimits *limits, int ranks, const MemoryShare *memory, GenerateBytes *bytes,
                         Error *err);

typedef struct Generation {
    const char *model_path, *prompts_path, *out; /* not owned */
    const char *group; /* of the prompts' file; NULL: prompts of its own if it has them, else data.heldout */
    Prompts prompts;
    Vocabulary vocabulary;
    GenerateLimits limits;
    Generator generator;
    char settings[GENERATE_TEXT]; /* generate_describe */
    int64_t restored;             /* answers that were there already */
} Generation;

/* Reads prompts and model, chooses the layout, loads the weights, and takes over the answers of an unfinished
 * samples.h5 under `out`; one of other settings, weights or prompts is refused unless `overwrite`. Errors are agreed.
 * Collective over run->world; generation_close in any case. */
bool generation_open(Generation *x, Run *run, bool overwrite, Error *err);
/* All answers; saves in between as checkpoint.minutes says, and before it stops for a signal or the time limit.
 * Collective. */
bool generation_run(Generation *x, Run *run, Error *err);
void generation_close(Generation *x);

#endif
