/* catdpo plan: what a run needs, before it is submitted. By one process, without MPI. */
#include "plan_private.h"

#include "catdpo/core/log.h"
#include "catdpo/core/memory.h"
#include "catdpo/files/foreign.h"
#include "catdpo/files/model_file.h"
#include "catdpo/files/pairs_file.h"
#include "catdpo/files/prompts_file.h"
#include "catdpo/train/probe.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double EFFORT = 4e6; /* pairs that are laid out for the numbers of ranks that were asked for */
static const double BANDWIDTH = 12.5e9, LATENCY = 2e-6, COMPLETION_SHARE = 0.7, INVENTED_PAIRS = 10000;

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

/* The numbers of ranks that were asked for. */
static bool read_sizes(Plan *plan, Error *err)
{
    const CommandLine *line = plan->line;
    const char *list = command_option(line, "--ranks"), *many_nodes = command_option(line, "--nodes");
    int nodes, per_node;
    if (!read_count(line, "--nodes", 1, &nodes, err) ||
        !read_count(line, "--ranks-per-node", cores(), &per_node, err) ||
        !read_number(line, "--memory-per-rank", 1e-6, 1e9, 0, &plan->memory_gb, err))
        return false;
    if (!list == !many_nodes)
        return error_usage(err, "catdpo plan needs --ranks N, or --nodes N (with --ranks-per-node M)");
    if ((double)nodes * per_node > 1 << 22)
        return error_usage(err, "%d nodes of %d ranks are more ranks than can be planned", nodes, per_node);
    plan->per_node_given = command_option(line, "--ranks-per-node") != NULL;
    if (many_nodes) return plan_add_size(plan, nodes * per_node, per_node, err);
    for (const char *at = list; *at;) {
        char *end;
        long ranks = strtol(at, &end, 10);
        if (end == at || ranks < 1 || ranks > 1 << 22 || (*end && *end != ','))
            return error_usage(err, "--ranks must be a whole number or a list like 16,32,64, not '%.60s'", list);
        if (!plan_add_size(plan, (int)ranks, per_node, err)) return false;
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

/* What `generate` would answer without --prompts and --split, where the file has any. */
static bool read_prompts(Plan *plan, Error *err)
{
    const char *path = plan->config.data.path;
    bool there = false;
    if (plan->invented) return true;
    plan->prompts_group = "prompts";
    if (!prompts_exist(path, plan->prompts_group, &there, MPI_COMM_NULL, err)) return false;
    if (!there) {
        plan->prompts_group = plan->config.data.heldout;
        if (!prompts_exist(path, plan->prompts_group, &there, MPI_COMM_NULL, err)) return false;
    }
    return !there || prompts_load(&plan->prompts, path, plan->prompts_group, MPI_COMM_NULL, err);
}

/* Made-up pairs have no probe group. */
static bool read_probe(Plan *plan, Error *err)
{
    const Config *config = &plan->config;
    if (plan->invented || config->margin.source == SOURCE_PAIRS) return true;
    bool ok;
    if (config->margin.source == SOURCE_HELDOUT) {
        Pairs pairs = { 0 };
        int64_t *chosen = NULL;
        ok = probe_read_pairs(&pairs, &chosen, &plan->probe.pairs, config, MPI_COMM_NULL, err);
        pairs_free(&pairs);
        free(chosen);
    } else {
        Prompts prompts = { 0 };
        ok = probe_read_prompts(&prompts, config, MPI_COMM_NULL, err);
        if (ok)
            plan->probe = (ProbeSize){ .prompts = prompts.count,
                                       .longest = prompts.longest,
                                       .prompt_tokens = (double)prompts.offsets[prompts.count] };
        prompts_free(&prompts);
    }
    return ok;
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

int command_plan(const CommandLine *line, MPI_Comm comm)
{
    (void)comm;
    Error err = { 0 };
    Log log;
    log_open(&log, stderr, 0);
    Plan *plan = calloc(1, sizeof *plan);
    if (!plan) {
        error_fault(&err, "out of memory for a plan");
        log_error(&log, &err);
        log_close(&log);
        return err.exit_status;
    }
    plan->line = line;
    bool ok = config_load(&plan->config, line->config, line->set_count, line->sets, &err) && read_sizes(plan, &err) &&
              read_model(plan, &err) && read_machine(plan, &err) && read_pairs(plan, &err) &&
              read_prompts(plan, &err) && read_probe(plan, &err) && count_parameters(plan, &err);
    gemm_set_block((int)plan->config.parallel.block);
    for (int i = 0; ok && i < plan->sizes; i++) ok = plan_size(plan, &plan->size[i], EFFORT / plan->sizes, &err);
    ok = ok && plan_alternatives(plan, &err);
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
    prompts_free(&plan->prompts);
    free(plan);
    log_close(&log);
    return err.exit_status;
}
