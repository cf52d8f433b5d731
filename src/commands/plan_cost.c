/* What follows from a plan: its files, its time, and the command that submits it. */
#include "plan_private.h"

#include "catdpo/core/phase.h"
#include "catdpo/files/metrics.h"
#include "catdpo/files/reference_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Log-probs of all pairs under the frozen models. */
static double reference_bytes(const Plan *plan)
{
    const Objective *objective = objective_of(&plan->config.objective);
    int sets = !objective->no_reference + objective->baseline + objective->second_model;
    return sets * reference_file_bytes(plan->pairs.count);
}

PlanFiles plan_files(const Plan *plan)
{
    double weights = 4 * plan->parameters;
    return (PlanFiles){ .model = weights,
                        .checkpoint = 3 * weights,
                        .reference = reference_bytes(plan),
                        .metrics =
                            metrics_bytes(plan->steps, plan->pairs.category_count, plan->config.batch.pairs, PHASES) };
}

double plan_reference_seconds(const Plan *plan, const StepCost *cost)
{
    const Objective *objective = objective_of(&plan->config.objective);
    double passes = !objective->no_reference + objective->baseline + objective->second_model;
    double step = (cost->seconds - cost->optimizer) / (1 + (objective->baseline ? PLAN_FORWARD_SHARE : 0));
    return passes * PLAN_FORWARD_SHARE * step * (double)plan->steps_per_epoch;
}

double plan_seconds(const Plan *plan, const GridPlan *grid)
{
    return plan_reference_seconds(plan, &grid->cost) + grid->cost.seconds * (double)plan->steps +
           grid->probe.seconds * grid->probe.count;
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
    /* what came by a pipe has no name that the job could read */
    used = add_word(text, size, used, strncmp(plan->line->config, "/dev/", 5) == 0 ? "run.cfg" : plan->line->config);
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
