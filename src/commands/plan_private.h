/* catdpo plan: the plan itself, and how it is printed. */
#ifndef CATDPO_COMMAND_PLAN_H
#define CATDPO_COMMAND_PLAN_H

#include "catdpo/generate/run.h"
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
    ProbeCost probe;
} GridPlan;

/* Answers to the prompts of the data, by as many ranks (catdpo generate). */
typedef struct AnswersPlan {
    bool known;       /* there are prompts */
    char reason[256]; /* why it is refused, "" if it is not */
    Layout layout;
    GenerateLimits limits;
    GenerateBytes bytes;
    GenerationCost cost;
} AnswersPlan;

/* All grids of one number of ranks. */
typedef struct RanksPlan {
    int ranks, nodes, ranks_per_node;
    MemoryShare memory; /* of a rank */
    int count;
    GridPlan *grid; /* [count]; owned */
    int best;       /* index, -1: no grid is valid and roomy */
    AnswersPlan answers;
    char why[640]; /* why the best is the best, or why there is none */
} RanksPlan;

typedef struct Plan {
    const CommandLine *line;
    Config config;
    Architecture architecture;
    char model_name[FILENAME_MAX], pairs_name[FILENAME_MAX];
    Pairs pairs;
    ProbeSize probe; /* without anything if the pairs are made up */
    bool invented;   /* the pairs are */
    Prompts prompts; /* what generate would answer: of the data's own prompts, or of data.heldout; none if count is 0 */
    const char *prompts_group;
    Machine machine; /* ranks_per_node is that of the RanksPlan at hand */
    bool gflops_given, memory_bandwidth_given, bandwidth_given, latency_given;
    double parameters;
    int64_t steps, steps_per_epoch;
    double hours;     /* wall time of a job; 0: not given */
    double memory_gb; /* of a rank, as given; 0: not given */
    int asked, sizes; /* how many numbers of ranks were asked for, and are planned: behind those, if there is one of
                         them, fewer nodes and fewer ranks to compare it with */
    RanksPlan *size;  /* [sizes]; owned */
    int least_nodes;  /* of as many ranks that the run fits on, if it does not fit on those asked for; 0: not known */
    int recompute_nodes; /* the same with engine.recompute; 0: likewise */
    bool per_node_given; /* the ranks of a node are; else they are this machine's cores */
} Plan;

/* Bytes of the files of a run. */
typedef struct PlanFiles {
    double model, checkpoint, reference, metrics;
} PlanFiles;

PlanFiles plan_files(const Plan *plan);
/* Adds `ranks` ranks, at most `per_node` on a node. */
bool plan_add_size(Plan *plan, int ranks, int per_node, Error *err);
/* Every grid of a number of ranks, and the best of them. `pairs`: how many may be laid out to find out. */
bool plan_size(Plan *plan, RanksPlan *size, double pairs, Error *err);
/* Of as many ranks: memory and time of answers to the prompts. */
bool plan_answers(Plan *plan, RanksPlan *size, Error *err);
/* What was asked for beside fewer nodes, fewer ranks on a node, or more nodes if it does not fit. */
bool plan_alternatives(Plan *plan, Error *err);

/* Of an alternative to the one number of ranks that was asked for: NULL if there is none that is better in that way. */
const RanksPlan *plan_faster(const Plan *plan);
const RanksPlan *plan_cheaper(const Plan *plan);
/* The ranks' rate as a part of that of the fewest ranks that the run fits on, which are left in *few (NULL: there are
 * no fewer). */
double plan_efficiency(const Plan *plan, const RanksPlan *size, const RanksPlan **few);
double plan_node_hours(const Plan *plan, const RanksPlan *size);
double plan_run_seconds(const Plan *plan, const RanksPlan *size); /* of its best grid */

/* Seconds of the run: the reference's pass over the pairs, then all steps and probes. */
double plan_reference_seconds(const Plan *plan, const StepCost *cost);
double plan_seconds(const Plan *plan, const GridPlan *grid);
/* The command that submits the run on this grid; false if its model or its data are not there yet. */
bool plan_command(const Plan *plan, const RanksPlan *ranks, const GridPlan *grid, char *text, size_t size);

void plan_print(const Plan *plan, FILE *out);
void plan_print_json(const Plan *plan, FILE *out);

#endif
