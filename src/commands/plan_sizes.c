/* catdpo plan: the grids of a number of ranks, and other numbers of ranks to compare it with. */
#include "plan_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double LEAST_EFFORT = 2e4;  /* pairs that are laid out for one grid */
static const double BESIDE_EFFORT = 5e5; /* for all that is only compared with */
/* The rule of "auto" (layout.h) holds unless another grid is faster by more than the estimate may be wrong. */
static const double CLEARLY_FASTER = 1.25;
static const double WORTH_SAYING = 1.05; /* another number of ranks is so much faster, or cheaper */
enum { MOST_RANKS = 1 << 17 };           /* that are looked at to find how many it takes */

bool plan_add_size(Plan *plan, int ranks, int per_node, Error *err)
{
    RanksPlan *more = realloc(plan->size, sizeof *more * (size_t)(plan->sizes + 1));
    if (!more) return error_fault(err, "out of memory for the plan");
    plan->size = more;
    int beside = ranks < per_node ? ranks : per_node;
    MemoryShare memory = memory_share_here(beside);
    if (plan->config.parallel.memory_gb > 0)
        memory = (MemoryShare){ .bytes = plan->config.parallel.memory_gb * 1e9, .of = "parallel.memory_gb" };
    if (plan->memory_gb > 0) memory = (MemoryShare){ .bytes = plan->memory_gb * 1e9, .of = "--memory-per-rank" };
    more[plan->sizes++] = (RanksPlan){ .ranks = ranks,
                                       .ranks_per_node = beside,
                                       .nodes = (ranks + per_node - 1) / per_node,
                                       .memory = memory,
                                       .best = -1 };
    return true;
}

/* ---- grids ------------------------------------------------------------------------------------------------------ */

static int divisors(int n)
{
    int count = 0;
    for (int d = 1; d <= n; d++) count += n % d == 0;
    return count;
}

/* The first clause of a message is what is wrong; what follows is what to do about it. */
static void first_clause(char *text, size_t size, const char *message)
{
    size_t length = 0;
    while (message[length] && strncmp(message + length, ": ", 2) != 0 && strncmp(message + length, "; ", 2) != 0)
        length++;
    snprintf(text, size, "%.*s", (int)length, message);
}

static bool plan_grid(Plan *plan, RanksPlan *size, GridPlan *g, int replicas, int rows, int columns, double effort,
                      Error *err)
{
    const Config *config = &plan->config;
    Error refusal = { 0 };
    *g = (GridPlan){ .layout = { .replicas = replicas, .rows = rows, .columns = columns },
                     .idle = replicas > config->batch.pairs };
    g->valid = layout_check(&g->layout, config, &plan->architecture, &plan->pairs, size->ranks, &size->memory,
                            PASS_TRAIN, &g->need, &refusal);
    g->roomy = g->valid && g->need < LAYOUT_ROOM * size->memory.bytes;
    if (!g->valid) {
        first_clause(g->reason, sizeof g->reason, refusal.message);
        return true;
    }
    BatchLimits limits = layout_batch_limits(config, &plan->architecture, rows, columns);
    const PlanShape shape = { replicas, rows, columns };
    if (!step_cost(&g->cost, config, &plan->architecture, &plan->pairs, &limits, shape, &plan->machine, plan->steps,
                   effort, err))
        return false;
    if (!probe_cost(&g->probe, config, &plan->architecture, &plan->probe, shape, &plan->machine, &g->cost, plan->steps,
                    err))
        return false;
    g->cost.memory.answers = g->probe.cache;
    return true;
}

static int find_layout(const RanksPlan *size, const Layout *l)
{
    for (int i = 0; i < size->count; i++)
        if (size->grid[i].layout.replicas == l->replicas && size->grid[i].layout.rows == l->rows) return i;
    return -1;
}

/* What "auto" takes, or what is clearly faster. */
static void choose_best(const Plan *plan, RanksPlan *size)
{
    Layout layout;
    Error refusal = { 0 };
    Config config = plan->config;
    memset(config.parallel.grid, 0, sizeof config.parallel.grid);
    config.parallel.replicas = 0;
    if (!layout_choose_for(&layout, &config, &plan->architecture, &plan->pairs, size->ranks, &size->memory, PASS_TRAIN,
                           &refusal)) {
        snprintf(size->why, sizeof size->why, "%.600s", refusal.message);
        return;
    }
    int usual = find_layout(size, &layout), fastest = usual;
    for (int i = 0; i < size->count; i++)
        if (size->grid[i].roomy && !size->grid[i].idle && size->grid[i].cost.seconds < size->grid[fastest].cost.seconds)
            fastest = i;
    double gain = size->grid[usual].cost.seconds / size->grid[fastest].cost.seconds;
    size->best = gain > CLEARLY_FASTER ? fastest : usual;
    const Layout *f = &size->grid[fastest].layout;
    if (size->best != usual)
        snprintf(size->why, sizeof size->why,
                 "expected to be %.1f times as fast as %d x %d x %d, which parallel.grid = \"auto\" would take (%s)",
                 gain, layout.replicas, layout.rows, layout.columns, layout.why);
    else if (fastest != usual)
        snprintf(size->why, sizeof size->why,
                 "as parallel.grid = \"auto\" would: %s; %d x %d x %d may be %.0f %% faster", layout.why, f->replicas,
                 f->rows, f->columns, 100 * (gain - 1));
    else
        snprintf(size->why, sizeof size->why, "as parallel.grid = \"auto\" would, and the fastest: %s", layout.why);
}

bool plan_size(Plan *plan, RanksPlan *size, double pairs, Error *err)
{
    int pairs_of_divisors = 0;
    for (int d = 1; d <= size->ranks; d++)
        if (size->ranks % d == 0) pairs_of_divisors += divisors(size->ranks / d);
    size->grid = calloc((size_t)pairs_of_divisors, sizeof *size->grid);
    if (!size->grid) return error_fault(err, "out of memory for %d grids", pairs_of_divisors);
    plan->machine.ranks_per_node = size->ranks_per_node;
    double effort = pairs / pairs_of_divisors;
    effort = effort < LEAST_EFFORT ? LEAST_EFFORT : effort;
    for (int replicas = size->ranks; replicas >= 1; replicas--) {
        int grid = size->ranks / replicas;
        for (int rows = 1; size->ranks % replicas == 0 && rows <= grid; rows++)
            if (grid % rows == 0 &&
                !plan_grid(plan, size, &size->grid[size->count++], replicas, rows, grid / rows, effort, err))
                return false;
    }
    choose_best(plan, size);
    return plan_answers(plan, size, err);
}

/* ---- answers ---- */

bool plan_answers(Plan *plan, RanksPlan *size, Error *err)
{
    const Prompts *p = &plan->prompts;
    AnswersPlan *x = &size->answers;
    Error refusal = { 0 };
    Config config = plan->config; /* the grid is free, as for training */
    memset(config.parallel.grid, 0, sizeof config.parallel.grid);
    config.parallel.replicas = 0;
    *x = (AnswersPlan){ .known = p->count > 0, .limits = generate_sizes(&config) };
    if (!x->known) return true;
    if (!generate_layout_for(&x->layout, &config, &plan->architecture, p, &x->limits, size->ranks, &size->memory,
                             &x->bytes, &refusal)) {
        first_clause(x->reason, sizeof x->reason, refusal.message);
        return true;
    }
    const Layout *l = &x->layout;
    double share = (double)((p->count + l->replicas - 1) / l->replicas), mean = (double)p->offsets[p->count] / p->count;
    const GenerationLoad load = { .answers = share * x->limits.samples,
                                  .prompt_tokens = share * mean,
                                  .prompt = mean,
                                  .lanes = x->limits.lanes,
                                  .max_tokens = x->limits.max_tokens,
                                  .max_tokens_pass = (int)x->limits.max_tokens_pass };
    plan->machine.ranks_per_node = size->ranks_per_node;
    return generation_cost(&x->cost, &config, &plan->architecture, (PlanShape){ l->replicas, l->rows, l->columns },
                           &plan->machine, &load, err);
}

/* ---- other numbers of ranks ---- */

/* Halves of the nodes, then of the ranks on one. */
static bool add_fewer(Plan *plan, Error *err)
{
    const RanksPlan asked = plan->size[0];
    int per_node = asked.ranks_per_node;
    for (int nodes = asked.nodes / 2; nodes >= 1; nodes /= 2)
        if (!plan_add_size(plan, nodes * per_node, per_node, err)) return false;
    for (int ranks = per_node / 2; ranks >= 1; ranks /= 2)
        if (!plan_add_size(plan, ranks, per_node, err)) return false;
    return true;
}

static bool fits_on(const Plan *plan, const Config *config, const RanksPlan *asked, int nodes)
{
    Layout layout;
    Error refusal = { 0 };
    return layout_choose_for(&layout, config, &plan->architecture, &plan->pairs, nodes * asked->ranks_per_node,
                             &asked->memory, PASS_TRAIN, &refusal);
}

/* The fewest nodes of as many ranks that some grid fits on, by doubling and halving; 0 if none is found. */
static int find_least_nodes(const Plan *plan, const RanksPlan *asked, bool recompute)
{
    Config config = plan->config;
    memset(config.parallel.grid, 0, sizeof config.parallel.grid);
    config.parallel.replicas = 0;
    config.engine.recompute = config.engine.recompute || recompute;
    int most = asked->nodes, fits = 0, too_few = asked->nodes;
    if (fits_on(plan, &config, asked, asked->nodes)) return asked->nodes;
    while (2.0 * most * asked->ranks_per_node <= MOST_RANKS) most *= 2;
    if (!fits_on(plan, &config, asked, most)) return 0;
    for (int nodes = 2 * asked->nodes; fits == 0; nodes *= 2)
        if (nodes >= most || fits_on(plan, &config, asked, nodes))
            fits = nodes;
        else
            too_few = nodes;
    while (fits - too_few > 1) {
        int nodes = (fits + too_few) / 2;
        *(fits_on(plan, &config, asked, nodes) ? &fits : &too_few) = nodes;
    }
    return fits;
}

bool plan_alternatives(Plan *plan, Error *err)
{
    plan->asked = plan->sizes;
    if (plan->asked > 1) return true;
    if (!add_fewer(plan, err)) return false;
    for (int i = 1; i < plan->sizes; i++)
        if (!plan_size(plan, &plan->size[i], BESIDE_EFFORT / plan->sizes, err)) return false;
    if (plan->size[0].best >= 0) return true;
    plan->least_nodes = find_least_nodes(plan, &plan->size[0], false);
    if (!plan->config.engine.recompute) plan->recompute_nodes = find_least_nodes(plan, &plan->size[0], true);
    return true;
}

double plan_run_seconds(const Plan *plan, const RanksPlan *size)
{
    return size->best < 0 ? INFINITY : plan_seconds(plan, &size->grid[size->best]);
}

double plan_node_hours(const Plan *plan, const RanksPlan *size)
{
    return size->nodes * plan_run_seconds(plan, size) / 3600;
}

const RanksPlan *plan_faster(const Plan *plan)
{
    const RanksPlan *best = NULL;
    double least = plan_run_seconds(plan, &plan->size[0]) / WORTH_SAYING;
    for (int i = plan->asked; i < plan->sizes; i++)
        if (plan_run_seconds(plan, &plan->size[i]) < least) {
            best = &plan->size[i];
            least = plan_run_seconds(plan, best);
        }
    return best;
}

const RanksPlan *plan_cheaper(const Plan *plan)
{
    const RanksPlan *best = NULL;
    double least = plan_node_hours(plan, &plan->size[0]) / WORTH_SAYING;
    for (int i = plan->asked; i < plan->sizes; i++)
        if (plan_node_hours(plan, &plan->size[i]) < least) {
            best = &plan->size[i];
            least = plan_node_hours(plan, best);
        }
    return best;
}

static double rate_of_a_rank(const RanksPlan *size)
{
    const StepCost *c = &size->grid[size->best].cost;
    return c->tokens / c->seconds / size->ranks;
}

double plan_efficiency(const Plan *plan, const RanksPlan *size, const RanksPlan **few)
{
    *few = NULL;
    for (int i = 0; i < plan->sizes; i++)
        if (plan->size[i].best >= 0 && plan->size[i].ranks < (*few ? (*few)->ranks : size->ranks))
            *few = &plan->size[i];
    return *few ? rate_of_a_rank(size) / rate_of_a_rank(*few) : 1;
}
