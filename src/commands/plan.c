/* catdpo plan: what a run needs, before it is submitted. By one process, without MPI. */
#include "plan_private.h"

#include "catdpo/core/log.h"
#include "catdpo/core/memory.h"
#include "catdpo/files/foreign.h"
#include "catdpo/files/model_file.h"
#include "catdpo/files/pairs_file.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double EFFORT = 4e6, LEAST_EFFORT = 2e4; /* pairs that are laid out, over all grids; for one grid */
static const double BANDWIDTH = 12.5e9, LATENCY = 2e-6, COMPLETION_SHARE = 0.7, INVENTED_PAIRS = 10000;
/* The rule of "auto" (layout.h) holds unless another grid is faster by more than the estimate may be wrong. */
static const double CLEARLY_FASTER = 1.25;
/* A forward pass, of a step's forward and backward. */
static const double FORWARD_SHARE = 1.0 / 3;

/* ---- options ---------------------------------------------------------------------------------------------------- */

/* A number behind an option; `otherwise` if it was not given. */
static bool read_number(const CommandLine *line, const char *name, double low, double high, double otherwise,
                        double *value, Error *err)
{
    const char *text = command_option(line, name);
    char *end;
    *value = otherwise;
    if (!text) return true;
    errno = 0;
    *value = strtod(text, &end);
    return (end != text && !*end && errno == 0 && *value >= low && *value <= high) ||
           error_usage(err, "%s must be a number from %g to %g, not '%.60s'", name, low, high, text);
}

static bool read_count(const CommandLine *line, const char *name, int otherwise, int *value, Error *err)
{
    double number;
    if (!read_number(line, name, 1, 1 << 22, otherwise, &number, err)) return false;
    *value = (int)number;
    return *value == number || error_usage(err, "%s must be a whole number", name);
}

static int cores(void)
{
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : (int)count;
}

static bool add_size(Plan *plan, int ranks, int per_node, double memory_gb, Error *err)
{
    RanksPlan *more = realloc(plan->size, sizeof *more * (size_t)(plan->sizes + 1));
    if (!more) return error_fault(err, "out of memory for the plan");
    plan->size = more;
    int beside = ranks < per_node ? ranks : per_node;
    MemoryShare memory = memory_share_here(beside);
    if (plan->config.parallel.memory_gb > 0)
        memory = (MemoryShare){ .bytes = plan->config.parallel.memory_gb * 1e9, .of = "parallel.memory_gb" };
    if (memory_gb > 0) memory = (MemoryShare){ .bytes = memory_gb * 1e9, .of = "--memory-per-rank" };
    more[plan->sizes++] = (RanksPlan){ .ranks = ranks,
                                       .ranks_per_node = beside,
                                       .nodes = (ranks + per_node - 1) / per_node,
                                       .memory = memory,
                                       .best = -1 };
    return true;
}

/* The numbers of ranks that were asked for. */
static bool read_sizes(Plan *plan, Error *err)
{
    const CommandLine *line = plan->line;
    const char *list = command_option(line, "--ranks"), *many_nodes = command_option(line, "--nodes");
    int nodes, per_node;
    double memory;
    if (!read_count(line, "--nodes", 1, &nodes, err) ||
        !read_count(line, "--ranks-per-node", cores(), &per_node, err) ||
        !read_number(line, "--memory-per-rank", 1e-6, 1e9, 0, &memory, err))
        return false;
    if (!list == !many_nodes)
        return error_usage(err, "catdpo plan needs --ranks N, or --nodes N with --ranks-per-node M");
    if (many_nodes && !command_option(line, "--ranks-per-node"))
        return error_usage(err, "--nodes needs --ranks-per-node too");
    if (many_nodes) return add_size(plan, nodes * per_node, per_node, memory, err);
    for (const char *at = list; *at;) {
        char *end;
        long ranks = strtol(at, &end, 10);
        if (end == at || ranks < 1 || ranks > 1 << 22 || (*end && *end != ','))
            return error_usage(err, "--ranks must be a whole number or a list like 16,32,64, not '%.60s'", list);
        if (!add_size(plan, (int)ranks, per_node, memory, err)) return false;
        at = *end ? end + 1 : end;
    }
    return true;
}

static bool read_machine(Plan *plan, Error *err)
{
    const CommandLine *line = plan->line;
    Machine *m = &plan->machine;
    double gflops, memory_gb, bandwidth_gb, latency_us;
    if (!read_number(line, "--gflops", 1e-3, 1e6, 0, &gflops, err) ||
        !read_number(line, "--memory-bandwidth-gb", 1e-3, 1e6, 0, &memory_gb, err) ||
        !read_number(line, "--bandwidth-gb", 1e-6, 1e6, BANDWIDTH / 1e9, &bandwidth_gb, err) ||
        !read_number(line, "--latency-us", 0, 1e9, LATENCY * 1e6, &latency_us, err) ||
        !read_number(line, "--hours", 1e-3, 1e6, 0, &plan->hours, err))
        return false;
    *m = (Machine){ .gflops = gflops,
                    .memory_bandwidth = memory_gb * 1e9,
                    .node_bandwidth = bandwidth_gb * 1e9,
                    .latency = latency_us * 1e-6 };
    plan->gflops_given = gflops > 0;
    plan->memory_bandwidth_given = memory_gb > 0;
    plan->bandwidth_given = command_option(line, "--bandwidth-gb") != NULL;
    plan->latency_given = command_option(line, "--latency-us") != NULL;
    return machine_measure(m, &plan->architecture, (int)plan->config.parallel.threads, err);
}

/* ---- model and data --------------------------------------------------------------------------------------------- */

static bool read_model(Plan *plan, Error *err)
{
    static const char *const required[] = { "model.path", NULL };
    const char *shape = command_option(plan->line, "--model-size");
    if (shape) {
        snprintf(plan->model_name, sizeof plan->model_name, "%s", shape);
        return shape_parse(&plan->architecture, shape, err);
    }
    H5File file;
    ModelInfo info;
    if (!config_require(&plan->config, required, err) || !foreign_refuse(plan->config.model.path, FOREIGN_MODEL, err) ||
        !model_file_open(&file, plan->config.model.path, &info, MPI_COMM_NULL, err))
        return false;
    h5_close(&file);
    plan->architecture = info.architecture;
    snprintf(plan->model_name, sizeof plan->model_name, "%s", plan->config.model.path);
    return true;
}

static bool read_pairs(Plan *plan, Error *err)
{
    static const char *const required[] = { "data.path", NULL };
    const CommandLine *line = plan->line;
    double tokens, share, count;
    if (!read_number(line, "--tokens-per-pair", 8, 1e6, 0, &tokens, err) ||
        !read_number(line, "--completion-share", 0.01, 1, COMPLETION_SHARE, &share, err) ||
        !read_number(line, "--pairs", 1, 1e7, INVENTED_PAIRS, &count, err))
        return false;
    plan->invented = tokens > 0;
    if (!plan->invented && (command_option(line, "--completion-share") || command_option(line, "--pairs")))
        return error_usage(err, "--completion-share and --pairs describe made-up pairs: they need --tokens-per-pair");
    if (plan->invented) {
        snprintf(plan->pairs_name, sizeof plan->pairs_name, "made up, %g tokens a pair, %g of them completions", tokens,
                 share);
        return pairs_invent(&plan->pairs, (int64_t)count, tokens, share, plan->architecture.vocab, err);
    }
    snprintf(plan->pairs_name, sizeof plan->pairs_name, "%s", plan->config.data.path);
    if (!config_require(&plan->config, required, err) || !foreign_refuse(plan->config.data.path, FOREIGN_PAIRS, err) ||
        !pairs_load(&plan->pairs, plan->config.data.path, "train", MPI_COMM_NULL, err))
        return false;
    if (plan->pairs.vocab_size > plan->architecture.vocab)
        return error_usage(err,
                           "%s was prepared with a tokenizer of %lld tokens, but %s has a vocabulary of %d: prepare it "
                           "again with this model",
                           plan->pairs_name, (long long)plan->pairs.vocab_size, plan->model_name,
                           plan->architecture.vocab);
    return plan->pairs.count > 0 ||
           error_usage(err, "%s has no training pairs: /train is empty. Prepare it again with some", plan->pairs_name);
}

static bool count_parameters(Plan *plan, Error *err)
{
    Parameters p;
    Grid one = { .replicas = 1, .rows = 1, .columns = 1 };
    if (!parameters_layout(&p, &plan->architecture, &one, err)) return false;
    plan->parameters = (double)p.logical;
    parameters_free(&p);
    const Config *c = &plan->config;
    plan->steps_per_epoch = (plan->pairs.count + c->batch.pairs - 1) / c->batch.pairs;
    plan->steps =
        c->schedule.steps > 0 ? c->schedule.steps : (int64_t)ceil(c->schedule.epochs * (double)plan->steps_per_epoch);
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
    g->valid = layout_check(&g->layout, config, &plan->architecture, &plan->pairs, size->ranks, &size->memory, true,
                            &g->need, &refusal);
    g->roomy = g->valid && g->need < LAYOUT_ROOM * size->memory.bytes;
    if (!g->valid) {
        first_clause(g->reason, sizeof g->reason, refusal.message);
        return true;
    }
    BatchLimits limits = layout_batch_limits(config, &plan->architecture, rows, columns);
    return step_cost(&g->cost, config, &plan->architecture, &plan->pairs, &limits,
                     (PlanShape){ replicas, rows, columns }, &plan->machine, plan->steps, effort, err);
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
    if (!layout_choose_for(&layout, &config, &plan->architecture, &plan->pairs, size->ranks, &size->memory, true,
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

static bool plan_size(Plan *plan, RanksPlan *size, Error *err)
{
    int pairs_of_divisors = 0;
    for (int d = 1; d <= size->ranks; d++)
        if (size->ranks % d == 0) pairs_of_divisors += divisors(size->ranks / d);
    size->grid = calloc((size_t)pairs_of_divisors, sizeof *size->grid);
    if (!size->grid) return error_fault(err, "out of memory for %d grids", pairs_of_divisors);
    plan->machine.ranks_per_node = size->ranks_per_node;
    double effort = EFFORT / plan->sizes / pairs_of_divisors;
    effort = effort < LEAST_EFFORT ? LEAST_EFFORT : effort;
    for (int replicas = size->ranks; replicas >= 1; replicas--) {
        int grid = size->ranks / replicas;
        for (int rows = 1; size->ranks % replicas == 0 && rows <= grid; rows++)
            if (grid % rows == 0 &&
                !plan_grid(plan, size, &size->grid[size->count++], replicas, rows, grid / rows, effort, err))
                return false;
    }
    choose_best(plan, size);
    return true;
}

/* ---- what follows from it --------------------------------------------------------------------------------------- */

PlanFiles plan_files(const Plan *plan, int ranks)
{
    enum { COLUMNS = 20, CATEGORY_COLUMNS = 7, PHASE_COLUMNS = 12 };
    double categories = plan->pairs.category_count, weights = 4 * plan->parameters;
    double row = 8 * (COLUMNS + CATEGORY_COLUMNS * categories + PHASE_COLUMNS + 2 * ranks * categories +
                      (double)plan->config.batch.pairs);
    return (PlanFiles){ .model = weights,
                        .checkpoint = 3 * weights,
                        .reference = 16.0 * (double)plan->pairs.count,
                        .metrics = row * (double)plan->steps };
}

double plan_reference_seconds(const Plan *plan, const StepCost *cost)
{
    return FORWARD_SHARE * (cost->seconds - cost->optimizer) * (double)plan->steps_per_epoch;
}

double plan_seconds(const Plan *plan, const StepCost *cost)
{
    return plan_reference_seconds(plan, cost) + cost->seconds * (double)plan->steps;
}

/* A word as a shell takes it. */
static size_t add_word(char *text, size_t size, size_t used, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=,:";
    bool quote = !*word || word[strspn(word, plain)] != '\0';
    if (used + 2 * strlen(word) + 8 > size) return used;
    used += (size_t)snprintf(text + used, size - used, quote ? " '" : " ");
    for (const char *c = word; *c; c++)
        used += (size_t)snprintf(text + used, size - used, *c == '\'' ? "'\\''" : "%c", *c);
    return used + (size_t)snprintf(text + used, size - used, quote ? "'" : "");
}

bool plan_command(const Plan *plan, const RanksPlan *ranks, const GridPlan *grid, char *text, size_t size)
{
    if (plan->invented || command_option(plan->line, "--model-size")) return false;
    const Layout *l = &grid->layout;
    char word[64];
    size_t used =
        (size_t)snprintf(text, size, "sbatch --nodes=%d --ntasks-per-node=%d", ranks->nodes, ranks->ranks_per_node);
    if (plan->config.parallel.threads > 1) /* train.sbatch gives each rank as many BLAS threads */
        used += (size_t)snprintf(text + used, size - used, " --cpus-per-task=%lld",
                                 (long long)plan->config.parallel.threads);
    if (plan->hours > 0) {
        long minutes = lround(ceil(plan->hours * 60));
        used += (size_t)snprintf(text + used, size - used, " --time=%ld:%02ld:00", minutes / 60, minutes % 60);
    }
    used = add_word(text, size, used, "jobs/train.sbatch");
    used = add_word(text, size, used, plan->line->config);
    for (int i = 0; i < plan->line->set_count; i++)
        if (strncmp(plan->line->sets[i], "parallel.grid=", 14) != 0 &&
            strncmp(plan->line->sets[i], "parallel.replicas=", 18) != 0) {
            used = add_word(text, size, used, "--set");
            used = add_word(text, size, used, plan->line->sets[i]);
        }
    snprintf(word, sizeof word, "parallel.grid=[%d,%d]", l->rows, l->columns);
    used = add_word(text, size, add_word(text, size, used, "--set"), word);
    snprintf(word, sizeof word, "parallel.replicas=%d", l->replicas);
    used = add_word(text, size, add_word(text, size, used, "--set"), word);
    if (command_option(plan->line, "--memory-per-rank")) {
        snprintf(word, sizeof word, "parallel.memory_gb=%g", ranks->memory.bytes / 1e9);
        add_word(text, size, add_word(text, size, used, "--set"), word);
    }
    return true;
}

int command_plan(const CommandLine *line, MPI_Comm comm)
{
    (void)comm;
    Error err = { 0 };
    Log log;
    Plan *plan = calloc(1, sizeof *plan);
    CHECK(plan);
    log_open(&log, stderr, 0);
    plan->line = line;
    bool ok = config_load(&plan->config, line->config, line->set_count, line->sets, &err) && read_sizes(plan, &err) &&
              read_model(plan, &err) && read_machine(plan, &err) && read_pairs(plan, &err) &&
              count_parameters(plan, &err);
    gemm_set_block((int)plan->config.parallel.block);
    for (int i = 0; ok && i < plan->sizes; i++) ok = plan_size(plan, &plan->size[i], &err);
    if (!ok)
        log_error(&log, &err);
    else if (command_option(line, "--json"))
        plan_print_json(plan, stdout);
    else
        plan_print(plan, stdout);
    if (ok && (fflush(stdout) != 0 || ferror(stdout))) {
        error_fault(&err, "cannot write the plan: %s", strerror(errno));
        log_error(&log, &err);
    }
    for (int i = 0; i < plan->sizes; i++) free(plan->size[i].grid);
    free(plan->size);
    pairs_free(&plan->pairs);
    free(plan);
    log_close(&log);
    return err.exit_status;
}
