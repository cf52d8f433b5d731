/* The plan as text. */
#include "plan_private.h"

#include "catdpo/core/memory.h"

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
    PlanFiles files = plan_files(plan, plan->size[0].ranks);
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
            "%.3g us (%s)\n\n",
            m->gflops, given_or(plan->gflops_given, "measured"), m->memory_bandwidth / 1e9,
            given_or(plan->memory_bandwidth_given, "measured"), m->node_bandwidth / 1e9,
            given_or(plan->bandwidth_given, "default"), m->latency * 1e6, given_or(plan->latency_given, "default"));
}

static const char *remark(const RanksPlan *size, int i)
{
    const GridPlan *g = &size->grid[i];
    return i == size->best ? "recommended" : g->idle ? "replicas without pairs" : !g->roomy ? "tight memory" : "";
}

static void print_grids(const RanksPlan *size, FILE *out)
{
    char text[16], most[16];
    int refused = 0;
    fprintf(out, "%22s  %9s  %9s  %10s  %9s  %9s  %8s  %9s\n", "replicas x rows x cols", "memory", "at most",
            "GFLOP/rank", "sent/rank", "messages", "s/step", "tokens/s");
    for (int i = 0; i < size->count; i++) {
        const GridPlan *g = &size->grid[i];
        const StepCost *c = &g->cost;
        char shape[32], sent[16];
        refused += !g->valid;
        if (!g->valid) continue;
        snprintf(shape, sizeof shape, "%d x %d x %d", g->layout.replicas, g->layout.rows, g->layout.columns);
        double library = c->memory.library + c->memory.caches;
        fprintf(out, "%22s  %9s  %9s  %10.3g  %9s  %9.0f  %8.3g  %9.0f  %s\n", shape,
                memory_text(plan_memory_total(&c->memory), text), memory_text(g->need + library, most), c->flops / 1e9,
                memory_text(c->bytes, sent), c->messages, c->seconds, c->tokens / c->seconds, remark(size, i));
    }
    if (refused > 0) fprintf(out, "refused:\n");
    for (int i = 0; i < size->count; i++) {
        const GridPlan *g = &size->grid[i];
        if (!g->valid)
            fprintf(out, "%10d x %d x %d  %s\n", g->layout.replicas, g->layout.rows, g->layout.columns, g->reason);
    }
}

static void print_kinds(const PlanMemory *m, FILE *out)
{
    MemoryTable table = { 0 };
    char text[400];
    memory_note(&table, "weights", (int64_t)m->weights);
    memory_note(&table, "gradients", (int64_t)m->gradients);
    memory_note(&table, "moments", (int64_t)m->moments);
    memory_note(&table, "activations", (int64_t)m->activations);
    memory_note(&table, "logits", (int64_t)m->logits);
    memory_note(&table, "caches", (int64_t)m->caches);
    memory_note(&table, "libraries", (int64_t)m->library);
    fprintf(out, "memory    %s a rank, expected peak\n", memory_line(&table, text, sizeof text));
}

static void print_best(const Plan *plan, const RanksPlan *size, FILE *out)
{
    const GridPlan *g = &size->grid[size->best];
    const StepCost *c = &g->cost;
    char command[4096], reference[32], all[32];
    double run = plan_seconds(plan, c), wall = plan->hours * 3600, before = plan_reference_seconds(plan, c);
    fprintf(out, "\ntake      %d replica%s of %d x %d: %s\n", g->layout.replicas, g->layout.replicas > 1 ? "s" : "",
            g->layout.rows, g->layout.columns, size->why);
    print_kinds(&c->memory, out);
    fprintf(out,
            "step      %.3g s: products %.3g, head %.3g, attention %.3g, norms and the like %.3g, messages %.3g, "
            "optimiser %.3g\n",
            c->seconds, c->matmul, c->head, c->attention, c->elementwise, c->exchange, c->optimizer);
    fprintf(out, "run       %s, %s of them for the reference before the first step\n", duration(run, all),
            duration(before, reference));
    if (plan->hours > 0) {
        double fit = wall > before ? (wall - before) / c->seconds : 0;
        fprintf(out, "wall time %g h: %.0f of %lld steps in the first job, %.0f job%s in all\n", plan->hours,
                fit < (double)plan->steps ? fit : (double)plan->steps, (long long)plan->steps,
                (double)(int64_t)(run / wall) + 1, run > wall ? "s" : "");
    }
    if (plan_command(plan, size, g, command, sizeof command)) fprintf(out, "submit    %s\n", command);
}

static void print_one(const Plan *plan, const RanksPlan *size, FILE *out)
{
    char memory[16];
    fprintf(out, "%d rank%s on %d node%s of %d, %s a rank (%s)\n\n", size->ranks, size->ranks > 1 ? "s" : "",
            size->nodes, size->nodes > 1 ? "s" : "", size->ranks_per_node, memory_text(size->memory.bytes, memory),
            size->memory.of);
    print_grids(size, out);
    if (size->best >= 0)
        print_best(plan, size, out);
    else
        fprintf(out, "\ntake      none of them: %s\n", size->why);
}

/* One line for each number of ranks. */
static void print_summary(const Plan *plan, FILE *out)
{
    fprintf(out, "%7s  %5s  %22s  %9s  %10s  %9s  %8s  %9s  %8s\n", "ranks", "nodes", "replicas x rows x cols",
            "memory", "GFLOP/rank", "sent/rank", "s/step", "tokens/s", "run");
    for (int i = 0; i < plan->sizes; i++) {
        const RanksPlan *size = &plan->size[i];
        if (size->best < 0) {
            fprintf(out, "%7d  %5d  %s\n", size->ranks, size->nodes, size->why);
            continue;
        }
        const GridPlan *g = &size->grid[size->best];
        const StepCost *c = &g->cost;
        char shape[32], memory[16], sent[16], run[32];
        snprintf(shape, sizeof shape, "%d x %d x %d", g->layout.replicas, g->layout.rows, g->layout.columns);
        fprintf(out, "%7d  %5d  %22s  %9s  %10.3g  %9s  %8.3g  %9.0f  %8s\n", size->ranks, size->nodes, shape,
                memory_text(plan_memory_total(&c->memory), memory), c->flops / 1e9, memory_text(c->bytes, sent),
                c->seconds, c->tokens / c->seconds, duration(plan_seconds(plan, c), run));
    }
}

void plan_print(const Plan *plan, FILE *out)
{
    print_task(plan, out);
    if (plan->sizes == 1)
        print_one(plan, &plan->size[0], out);
    else
        print_summary(plan, out);
}
