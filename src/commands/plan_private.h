/* catdpo plan: the plan itself, and how it is printed. */
#ifndef CATDPO_COMMAND_PLAN_H
#define CATDPO_COMMAND_PLAN_H

#include "catdpo/run/layout.h"

#include "catdpo/commands/cli.h"
#include "catdpo/plan/plan.h"

typedef struct GridPlan {
    Layout layout;
    bool valid;       /* train runs it */
    bool roomy;       /* and it leaves the room in memory that "auto" asks for */
    bool idle;        /* some replica has no pairs */
    char reason[256]; /* why it is refused */
    double need;      /* bytes a rank at most: weights, gradients, moments, the largest pass that the data can make */
    StepCost cost;
} GridPlan;

/* All grids of one number of ranks. */
typedef struct RanksPlan {
    int ranks, nodes, ranks_per_node;
    MemoryShare memory; /* of a rank */
    int count;
    GridPlan *grid; /* [count]; owned */
    int best;       /* index, -1: no grid is valid and roomy */
    char why[640];  /* why the best is the best, or why there is none */
} RanksPlan;

typedef struct Plan {
    const CommandLine *line;
    Config config;
    Architecture architecture;
    char model_name[FILENAME_MAX], pairs_name[FILENAME_MAX];
    Pairs pairs;
    bool invented;   /* the pairs are */
    Machine machine; /* ranks_per_node is that of the RanksPlan at hand */
    bool gflops_given, memory_bandwidth_given, bandwidth_given, latency_given;
    double parameters;
    int64_t steps, steps_per_epoch;
    double hours;    /* wall time of a job; 0: not given */
    int sizes;       /* how many numbers of ranks */
    RanksPlan *size; /* [sizes]; owned */
} Plan;

/* Bytes of the files of a run on `ranks` ranks. */
typedef struct PlanFiles {
    double model, checkpoint, reference, metrics;
} PlanFiles;

PlanFiles plan_files(const Plan *plan, int ranks);
/* Seconds of the run: the reference's pass over the pairs, then all steps. */
double plan_reference_seconds(const Plan *plan, const StepCost *cost);
double plan_seconds(const Plan *plan, const StepCost *cost);
/* The command that submits the run on this grid; false if its model or its data are not there yet. */
bool plan_command(const Plan *plan, const RanksPlan *ranks, const GridPlan *grid, char *text, size_t size);

void plan_print(const Plan *plan, FILE *out);
void plan_print_json(const Plan *plan, FILE *out);

#endif
