/* The plan as one JSON object: bytes, seconds, counts. */
#include "plan_private.h"

#include <math.h>

static void text(FILE *out, const char *value)
{
    fputc('"', out);
    for (const char *c = value; *c; c++) {
        if (*c == '"' || *c == '\\') fputc('\\', out);
        if ((unsigned char)*c < ' ')
            fprintf(out, "\\u%04x", (unsigned)*c);
        else
            fputc(*c, out);
    }
    fputc('"', out);
}

static void name(FILE *out, const char *key, bool first) { fprintf(out, "%s\"%s\": ", first ? "" : ", ", key); }

static void number(FILE *out, const char *key, double value, bool first)
{
    name(out, key, first);
    fprintf(out, isfinite(value) ? "%.15g" : "null", value);
}

static void word(FILE *out, const char *key, const char *value, bool first)
{
    name(out, key, first);
    text(out, value);
}

static void flag(FILE *out, const char *key, bool value)
{
    name(out, key, false);
    fputs(value ? "true" : "false", out);
}

static void print_memory(FILE *out, const PlanMemory *m)
{
    name(out, "memory", false);
    fputc('{', out);
    number(out, "weights", m->weights, true);
    number(out, "gradients", m->gradients, false);
    number(out, "moments", m->moments, false);
    number(out, "activations", m->activations, false);
    number(out, "logits", m->logits, false);
    number(out, "caches", m->caches, false);
    number(out, "library", m->library, false);
    number(out, "total", plan_memory_total(m), false);
    fputc('}', out);
}

static void print_step(FILE *out, const StepCost *c)
{
    name(out, "step", false);
    fputc('{', out);
    number(out, "seconds", c->seconds, true);
    number(out, "matmul", c->matmul, false);
    number(out, "head", c->head, false);
    number(out, "attention", c->attention, false);
    number(out, "elementwise", c->elementwise, false);
    number(out, "exchange", c->exchange, false);
    number(out, "optimizer", c->optimizer, false);
    number(out, "flops", c->flops, false);
    number(out, "product_flops", c->product_flops, false);
    number(out, "bytes", c->bytes, false);
    number(out, "messages", c->messages, false);
    number(out, "tokens", c->tokens, false);
    number(out, "passes", c->passes, false);
    number(out, "width", c->width, false);
    number(out, "width_most", c->width_most, false);
    number(out, "steps_sampled", c->sampled, false);
    fputc('}', out);
}

static void print_grid(const Plan *plan, const RanksPlan *size, const GridPlan *g, FILE *out)
{
    char command[4096];
    fputs("{", out);
    number(out, "replicas", g->layout.replicas, true);
    number(out, "rows", g->layout.rows, false);
    number(out, "columns", g->layout.columns, false);
    flag(out, "valid", g->valid);
    number(out, "need", g->need, false);
    if (g->valid) {
        flag(out, "roomy", g->roomy);
        flag(out, "idle_replicas", g->idle);
        print_memory(out, &g->cost.memory);
        print_step(out, &g->cost);
        number(out, "run_seconds", plan_seconds(plan, &g->cost), false);
        if (plan_command(plan, size, g, command, sizeof command)) word(out, "command", command, false);
    } else
        word(out, "reason", g->reason, false);
    fputs("}", out);
}

static void print_size(const Plan *plan, const RanksPlan *size, FILE *out)
{
    PlanFiles files = plan_files(plan, size->ranks);
    fputs("{", out);
    number(out, "ranks", size->ranks, true);
    number(out, "nodes", size->nodes, false);
    number(out, "ranks_per_node", size->ranks_per_node, false);
    number(out, "memory_per_rank", size->memory.bytes, false);
    word(out, "memory_of", size->memory.of, false);
    name(out, "files", false);
    fputc('{', out);
    number(out, "model", files.model, true);
    number(out, "checkpoint", files.checkpoint, false);
    number(out, "reference", files.reference, false);
    number(out, "metrics", files.metrics, false);
    fputs("}", out);
    name(out, "recommended", false);
    if (size->best < 0)
        fputs("null", out);
    else
        fprintf(out, "%d", size->best);
    word(out, "why", size->why, false);
    name(out, "grids", false);
    fputs("[\n  ", out);
    for (int i = 0; i < size->count; i++) {
        fputs(i > 0 ? ",\n  " : "", out);
        print_grid(plan, size, &size->grid[i], out);
    }
    fputs("]}", out);
}

void plan_print_json(const Plan *plan, FILE *out)
{
    const Machine *m = &plan->machine;
    fputs("{", out);
    word(out, "model", plan->model_name, true);
    number(out, "parameters", plan->parameters, false);
    word(out, "pairs", plan->pairs_name, false);
    number(out, "pair_count", (double)plan->pairs.count, false);
    number(out, "steps", (double)plan->steps, false);
    name(out, "machine", false);
    fputc('{', out);
    number(out, "gflops", m->gflops, true);
    number(out, "memory_bandwidth", m->memory_bandwidth, false);
    number(out, "node_bandwidth", m->node_bandwidth, false);
    number(out, "latency", m->latency, false);
    fputs("}", out);
    name(out, "sizes", false);
    fputs("[", out);
    for (int i = 0; i < plan->sizes; i++) {
        fputs(i > 0 ? ",\n " : "\n ", out);
        print_size(plan, &plan->size[i], out);
    }
    fputs("]}\n", out);
}
