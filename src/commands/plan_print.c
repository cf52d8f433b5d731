/* The plan as text. */
#include "plan_private.h"

#include "catdpo/core/memory.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

static const char *given_or(bool given, const char *otherwise) { return given ? "given" : otherwise; }

static const char *duration(double seconds, char text[32])
{
    if (seconds < 120)
        snprintf(text, 32, "%.3g s", seconds);
    else if (seconds < 7200)
        snprintf(text, 32, "%.0f min", seconds / 60);
    else
        snprintf(text, 32, "%.1f h", seconds / 3600);
    return text;
}

static void print_task(const Plan *plan, FILE *out)
{
    const Architecture *a = &plan->architecture;
    const Machine *m = &plan->machine;
    const Pairs *p = &plan->pairs;
    double tokens = (double)(p->side[0].token_count + p->side[1].token_count) / (double)p->count;
    char one[16], two[16], three[16];
    PlanFiles files = plan_files(plan);
    fprintf(out, "model     %s: %.1f M parameters, %d layers, hidden %d, %d heads, %d key/value heads, vocabulary %d\n",
            plan->model_name, plan->parameters / 1e6, a->layers, a->hidden, a->heads, a->groups, a->vocab);
    fprintf(out, "pairs     %s: %lld pairs, %.0f tokens a pair on average, longest sequence %lld tokens\n",
            plan->pairs_name, (long long)p->count, tokens, (long long)p->longest);
    fprintf(out, "run       %lld steps of %lld pairs\n", (long long)plan->steps, (long long)plan->config.batch.pairs);
    fprintf(out, "files     model %s, a checkpoint %s, reference.h5 %s, metrics.h5 %s\n", memory_text(files.model, one),
            memory_text(files.checkpoint, two), memory_text(files.reference, three),
            memory_text(files.metrics, (char[16]){ 0 }));
    fprintf(out,
            "machine   a rank: sgemm %.1f GF/s (%s), memory %.1f GB/s (%s); a node: network %.3g GB/s (%s); a message "
            "between nodes: "
            "%.3g us (%s)\n",
            m->gflops, given_or(plan->gflops_given, "measured"), m->memory_bandwidth / 1e9,
            given_or(plan->memory_bandwidth_given, "measured"), m->node_bandwidth / 1e9,
            given_or(plan->bandwidth_given, "default"), m->latency * 1e6, given_or(plan->latency_given, "default"));
}

static const char *remark(const RanksPlan *size, int i)
{
    const GridPlan *g = &size->grid[i];
    return i == size->best ? "recommended" : g->idle ? "replicas without pairs" : !g->roomy ? "tight memory" : "";
}

/* The same reason, whatever numbers are in it; `need` is that of grids that the memory refuses. */
static bool same_reason(const GridPlan *one, const GridPlan *other)
{
    const char *a = one->reason, *b = other->reason;
    if (one->need > 0 || other->need > 0) return one->need > 0 && other->need > 0;
    for (;; a++, b++) {
        while (isdigit((unsigned char)*a)) a++;
        while (isdigit((unsigned char)*b)) b++;
        if (*a != *b) return false;
        if (!*a) return true;
    }
}

static const GridPlan *next_refused(const RanksPlan *size, int from, const GridPlan *like)
{
    for (int i = from; i < size->count; i++)
        if (!size->grid[i].valid && same_reason(&size->grid[i], like)) return &size->grid[i];
    return NULL;
}

/* One line a reason: how many grids, and the one that needs the least memory or comes first. */
static void print_refused(const RanksPlan *size, FILE *out)
{
    for (int i = 0; i < size->count; i++) {
        const GridPlan *g = &size->grid[i], *least = g;
        int count = 0;
        if (g->valid || next_refused(size, 0, g) != g) continue;
        for (int k = i; (g = next_refused(size, k, &size->grid[i])); k = (int)(g - size->grid) + 1) {
            count++;
            if (g->need < least->need) least = g;
        }
        char shape[32];
        snprintf(shape, sizeof shape, "%d x %d x %d", least->layout.replicas, least->layout.rows,
                 least->layout.columns);
        bool named = strncmp(least->reason, shape, strlen(shape)) == 0;
        if (count == 1)
            fprintf(out, "refused   %s%s%s\n", named ? "" : shape, named ? "" : ": ", least->reason);
        else
            fprintf(out, "refused   %d grids%s%s%s%s\n", count, least->need > 0 ? ", at the least " : ", such as ",
                    named ? "" : shape, named ? "" : ": ", least->reason);
    }
}

static void print_grids(const RanksPlan *size, FILE *out)
{
    char text[16], most[16];
    bool any = false;
    for (int i = 0; i < size->count; i++) any = any || size->grid[i].valid;
    if (any)
        fprintf(out, "%22s  %9s  %9s  %10s  %9s  %9s  %8s  %9s\n", "replicas x rows x cols", "memory", "at most",
                "GFLOP/rank", "sent/rank", "messages", "s/step", "tokens/s");
    for (int i = 0; i < size->count; i++) {
        const GridPlan *g = &size->grid[i];
        const StepCost *c = &g->cost;
        char shape[32], sent[16];
        if (!g->valid) continue;
        snprintf(shape, sizeof shape, "%d x %d x %d", g->layout.replicas, g->layout.rows, g->layout.columns);
        double library = c->memory.library + c->memory.caches;
        fprintf(out, "%22s  %9s  %9s  %10.3g  %9s  %9.0f  %8.3g  %9.0f  %s\n", shape,
                memory_text(plan_memory_total(&c->memory), text), memory_text(g->need + library, most), c->flops / 1e9,
                memory_text(c->bytes, sent), c->messages, c->seconds, c->tokens / c->seconds, remark(size, i));
    }
    print_refused(size, out);
}

static void print_kinds(const PlanMemory *m, FILE *out)
{
    MemoryTable table = { 0 };
    char text[400];
    memory_note(&table, "weights", (int64_t)m->weights);
    memory_note(&table, "adapters", (int64_t)m->adapters);
    memory_note(&table, "gradients", (int64_t)m->gradients);
    memory_note(&table, "moments", (int64_t)m->moments);
    memory_note(&table, "activations", (int64_t)m->activations);
    memory_note(&table, "logits", (int64_t)m->logits);
    memory_note(&table, "caches", (int64_t)m->caches);
    memory_note(&table, "libraries", (int64_t)m->library);
    memory_note(&table, "answers of a probe", (int64_t)m->answers);
    fprintf(out, "memory    %s a rank, expected peak\n", memory_line(&table, text, sizeof text));
}

static void print_answers(const Plan *plan, const AnswersPlan *x, FILE *out)
{
    char model[16], cache[16], all[32], prompts[32], pass[32];
    const Layout *l = &x->layout;
    if (!x->known) return;
    fprintf(out, "answers   to the %lld prompts of /%s (catdpo generate): ", (long long)plan->prompts.count,
            plan->prompts_group);
    if (*x->reason) {
        fprintf(out, "refused, %s\n", x->reason);
        return;
    }
    fprintf(out,
            "%d replica%s of %d x %d, %d at once on each; %s a rank and %s for keys and values; %s at most, %s of it "
            "for reading prompts, then %.0f passes of %s\n",
            l->replicas, l->replicas > 1 ? "s" : "", l->rows, l->columns, x->limits.lanes,
            memory_text(x->bytes.model, model), memory_text(x->bytes.cache, cache),
            duration(x->cost.prefill + x->cost.decode, all), duration(x->cost.prefill, prompts), x->cost.passes,
            duration(x->cost.pass, pass));
}

/* "2 nodes of 128 ranks", "64 ranks on 1 node" */
static const char *places(const RanksPlan *size, char text[64])
{
    if (size->nodes == 1)
        snprintf(text, 64, "%d rank%s on 1 node", size->ranks, size->ranks > 1 ? "s" : "");
    else
        snprintf(text, 64, "%d ranks on %d nodes of %d", size->ranks, size->nodes, size->ranks_per_node);
    return text;
}

/* "1 node" or "64 ranks on 1 node", and how to ask for them. */
static void print_alternative(const Plan *plan, const char *label, const RanksPlan *other, FILE *out)
{
    const RanksPlan *asked = &plan->size[0];
    double mine = plan_run_seconds(plan, asked), its = plan_run_seconds(plan, other);
    char where[64], time[32], relation[64];
    if (fabs(its / mine - 1) < 0.1)
        snprintf(relation, sizeof relation, "about as fast");
    else if (its < mine)
        snprintf(relation, sizeof relation, "%.2g times as fast", mine / its);
    else
        snprintf(relation, sizeof relation, "%.2g times as long", its / mine);
    fprintf(out, "%-9s %s: %s (%s), %.3g instead of %.3g node-hours: --ranks %d --ranks-per-node %d\n", label,
            places(other, where), relation, duration(its, time), plan_node_hours(plan, other),
            plan_node_hours(plan, asked), other->ranks, other->ranks_per_node);
}

static void print_probe(const Plan *plan, const ProbeCost *probe, FILE *out)
{
    const ProbeSize *size = &plan->probe;
    char one[32], all[32];
    if (plan->config.margin.source == SOURCE_PAIRS) return;
    if (plan->invented) {
        fprintf(out, "probes    not planned: made-up pairs have no probe group\n");
        return;
    }
    fprintf(out, "probes    %.0f of ", probe->count);
    if (size->pairs > 0)
        fprintf(out, "%lld pairs", (long long)size->pairs);
    else
        fprintf(out, "%lld prompts, %lld answer%s each of up to %lld tokens", (long long)size->prompts,
                (long long)plan->config.generate.samples, plan->config.generate.samples > 1 ? "s" : "",
                (long long)plan->config.generate.max_tokens);
    fprintf(out, ": %s each%s, %s in all\n", duration(probe->seconds, one), size->pairs > 0 ? "" : " beside the judge",
            duration(probe->seconds * probe->count, all));
}

static void print_cost(const Plan *plan, const RanksPlan *size, FILE *out)
{
    const GridPlan *grid = &size->grid[size->best];
    const StepCost *c = &grid->cost;
    const RanksPlan *few, *faster = plan->sizes > plan->asked ? plan_faster(plan) : NULL,
                          *cheaper = plan->sizes > plan->asked ? plan_cheaper(plan) : NULL;
    double run = plan_seconds(plan, grid), before = plan_reference_seconds(plan, c),
           efficiency = plan_efficiency(plan, size, &few);
    char reference[32], all[32], where[64];
    fprintf(out, "run       %s, %.3g node-hours; %s of it for the reference before the first step\n",
            duration(run, all), plan_node_hours(plan, size), duration(before, reference));
    print_probe(plan, &grid->probe, out);
    if (few)
        fprintf(out, "rate      %.0f tokens/s, %.0f %% of the efficiency of %s\n", c->tokens / c->seconds,
                100 * efficiency, places(few, where));
    if (faster) print_alternative(plan, "faster", faster, out);
    if (cheaper && cheaper != faster) print_alternative(plan, "cheaper", cheaper, out);
    if (plan->hours > 0) {
        double wall = plan->hours * 3600, fit = wall > before ? (wall - before) / c->seconds : 0;
        fprintf(out, "wall time %g h: %.0f of %lld steps in the first job, %.0f job%s in all\n", plan->hours,
                fit < (double)plan->steps ? fit : (double)plan->steps, (long long)plan->steps,
                (double)(int64_t)(run / wall) + 1, run > wall ? "s" : "");
    }
}

/* What to do, before all that it follows from. */
static void print_answer(const Plan *plan, const RanksPlan *size, FILE *out)
{
    const GridPlan *g = &size->grid[size->best];
    char command[4096], where[64];
    fprintf(out, "take      %d replica%s of %d x %d (rows x columns): %s\n", g->layout.replicas,
            g->layout.replicas > 1 ? "s" : "", g->layout.rows, g->layout.columns, places(size, where));
    print_cost(plan, size, out);
    if (plan_command(plan, size, g, command, sizeof command)) fprintf(out, "submit    %s\n", command);
    fprintf(out, "why       %s\n", size->why);
}

static void print_need(const char *condition, int nodes, const RanksPlan *size, FILE *out)
{
    if (nodes == size->nodes)
        fprintf(out, "fits     %s\n", condition);
    else if (nodes > 0)
        fprintf(out, "needs     at least %d node%s of %d rank%s%s\n", nodes, nodes > 1 ? "s" : "", size->ranks_per_node,
                size->ranks_per_node > 1 ? "s" : "", condition);
}

static void print_no_answer(const Plan *plan, const RanksPlan *size, FILE *out)
{
    char where[64];
    fprintf(out, "take      none: %s\n", size->why);
    print_need("", plan->least_nodes, size, out);
    if (plan->least_nodes == 0 || plan->recompute_nodes < plan->least_nodes)
        print_need(" with engine.recompute = true", plan->recompute_nodes, size, out);
    if (plan->least_nodes == 0 && plan->recompute_nodes == 0)
        fprintf(out, "needs     more memory a rank: no number of such nodes is enough\n");
    for (int i = plan->asked; i < plan->sizes; i++)
        if (plan->size[i].best >= 0) { /* fewer ranks have more memory each */
            fprintf(out, "or        %s, each with more of the node's memory: --ranks %d --ranks-per-node %d\n",
                    places(&plan->size[i], where), plan->size[i].ranks, plan->size[i].ranks_per_node);
            break;
        }
}

static void print_one(const Plan *plan, const RanksPlan *size, FILE *out)
{
    char memory[16], room[16], where[64];
    if (size->best >= 0)
        print_answer(plan, size, out);
    else
        print_no_answer(plan, size, out);
    fputc('\n', out);
    print_task(plan, out);
    fprintf(out, "ranks     %s%s, %s a rank (%s), of which \"auto\" takes %s\n\n", places(size, where),
            plan->per_node_given ? "" : " (as many as this machine has cores)", memory_text(size->memory.bytes, memory),
            size->memory.of, memory_text(LAYOUT_ROOM * size->memory.bytes, room));
    print_grids(size, out);
    print_answers(plan, &size->answers, out);
    if (size->best < 0) return;
    const StepCost *c = &size->grid[size->best].cost;
    fputs("\nof the recommended one:\n", out);
    print_kinds(&c->memory, out);
    fprintf(out,
            "step      %.3g s: products %.3g, head %.3g, attention %.3g, norms and the like %.3g, messages %.3g, "
            "optimiser %.3g\n",
            c->seconds, c->matmul, c->head, c->attention, c->elementwise, c->exchange, c->optimizer);
}

/* One line for each number of ranks. */
static void print_summary(const Plan *plan, FILE *out)
{
    fprintf(out, "%7s  %5s  %22s  %9s  %10s  %9s  %8s  %9s  %8s  %10s  %10s\n", "ranks", "nodes",
            "replicas x rows x cols", "memory", "GFLOP/rank", "sent/rank", "s/step", "tokens/s", "run", "node-hours",
            "efficiency");
    for (int i = 0; i < plan->sizes; i++) {
        const RanksPlan *size = &plan->size[i], *few;
        if (size->best < 0) {
            fprintf(out, "%7d  %5d  %s\n", size->ranks, size->nodes, size->why);
            continue;
        }
        const GridPlan *g = &size->grid[size->best];
        const StepCost *c = &g->cost;
        char shape[32], memory[16], sent[16], run[32];
        snprintf(shape, sizeof shape, "%d x %d x %d", g->layout.replicas, g->layout.rows, g->layout.columns);
        fprintf(out, "%7d  %5d  %22s  %9s  %10.3g  %9s  %8.3g  %9.0f  %8s  %10.3g  %8.0f %%\n", size->ranks,
                size->nodes, shape, memory_text(plan_memory_total(&c->memory), memory), c->flops / 1e9,
                memory_text(c->bytes, sent), c->seconds, c->tokens / c->seconds, duration(plan_seconds(plan, g), run),
                plan_node_hours(plan, size), 100 * plan_efficiency(plan, size, &few));
    }
}

void plan_print(const Plan *plan, FILE *out)
{
    if (plan->asked == 1) {
        print_one(plan, &plan->size[0], out);
        return;
    }
    print_summary(plan, out);
    fputc('\n', out);
    print_task(plan, out);
}
