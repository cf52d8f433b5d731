/* The plan as one JSON object: bytes, seconds, counts. */
#include "plan_private.h"

#include "catdpo/core/json.h"

static void print_memory(Json *j, const PlanMemory *m)
{
    json_object(j, "memory");
    json_number(j, "weights", m->weights);
    json_number(j, "adapters", m->adapters);
    json_number(j, "gradients", m->gradients);
    json_number(j, "moments", m->moments);
    json_number(j, "activations", m->activations);
    json_number(j, "logits", m->logits);
    json_number(j, "caches", m->caches);
    json_number(j, "library", m->library);
    json_number(j, "answers", m->answers);
    json_number(j, "total", plan_memory_total(m));
    json_close(j);
}

static void print_step(Json *j, const StepCost *c)
{
    json_object(j, "step");
    json_number(j, "seconds", c->seconds);
    json_number(j, "matmul", c->matmul);
    json_number(j, "head", c->head);
    json_number(j, "attention", c->attention);
    json_number(j, "elementwise", c->elementwise);
    json_number(j, "exchange", c->exchange);
    json_number(j, "optimizer", c->optimizer);
    json_number(j, "flops", c->flops);
    json_number(j, "product_flops", c->product_flops);
    json_number(j, "bytes", c->bytes);
    json_number(j, "messages", c->messages);
    json_number(j, "tokens", c->tokens);
    json_number(j, "passes", c->passes);
    json_number(j, "width", c->width);
    json_number(j, "width_most", c->width_most);
    json_number(j, "steps_sampled", c->sampled);
    json_close(j);
}

static void print_grid(const Plan *plan, const RanksPlan *size, const GridPlan *g, Json *j)
{
    char command[4096];
    json_break(j);
    json_object(j, NULL);
    json_number(j, "replicas", g->layout.replicas);
    json_number(j, "rows", g->layout.rows);
    json_number(j, "columns", g->layout.columns);
    json_bool(j, "valid", g->valid);
    json_number(j, "need", g->need);
    if (g->valid) {
        json_bool(j, "roomy", g->roomy);
        json_bool(j, "idle_replicas", g->idle);
        print_memory(j, &g->cost.memory);
        print_step(j, &g->cost);
        if (g->probe.count > 0) {
            json_object(j, "probe");
            json_number(j, "count", g->probe.count);
            json_number(j, "seconds", g->probe.seconds);
            json_close(j);
        }
        json_number(j, "run_seconds", plan_seconds(plan, g));
        if (plan_command(plan, size, g, command, sizeof command)) json_text(j, "command", command);
    } else
        json_text(j, "reason", g->reason);
    json_close(j);
}

static void print_answers(const Plan *plan, const AnswersPlan *x, Json *j)
{
    if (!x->known) {
        json_null(j, "answers");
        return;
    }
    json_object(j, "answers");
    json_text(j, "prompts", plan->prompts_group);
    json_number(j, "prompt_count", (double)plan->prompts.count);
    if (*x->reason) {
        json_text(j, "reason", x->reason);
    } else {
        json_integer(j, "replicas", x->layout.replicas);
        json_integer(j, "rows", x->layout.rows);
        json_integer(j, "columns", x->layout.columns);
        json_integer(j, "at_once", x->limits.lanes);
        json_number(j, "model_bytes", x->bytes.model);
        json_number(j, "cache_bytes", x->bytes.cache);
        json_number(j, "prefill_seconds", x->cost.prefill);
        json_number(j, "decode_seconds", x->cost.decode);
        json_number(j, "passes", x->cost.passes);
    }
    json_close(j);
}

static void print_size(const Plan *plan, const RanksPlan *size, Json *j)
{
    PlanFiles files = plan_files(plan);
    json_break(j);
    json_object(j, NULL);
    json_number(j, "ranks", size->ranks);
    json_number(j, "nodes", size->nodes);
    json_number(j, "ranks_per_node", size->ranks_per_node);
    json_number(j, "memory_per_rank", size->memory.bytes);
    json_text(j, "memory_of", size->memory.of);
    json_object(j, "files");
    json_number(j, "model", files.model);
    json_number(j, "checkpoint", files.checkpoint);
    json_number(j, "reference", files.reference);
    json_number(j, "metrics", files.metrics);
    json_close(j);
    if (size->best < 0)
        json_null(j, "recommended");
    else
        json_integer(j, "recommended", size->best);
    json_text(j, "why", size->why);
    if (size->best >= 0) {
        const RanksPlan *few;
        json_number(j, "run_seconds", plan_run_seconds(plan, size));
        json_number(j, "node_hours", plan_node_hours(plan, size));
        json_number(j, "efficiency", plan_efficiency(plan, size, &few));
    }
    print_answers(plan, &size->answers, j);
    json_array(j, "grids");
    for (int i = 0; i < size->count; i++) print_grid(plan, size, &size->grid[i], j);
    json_close(j);
    json_close(j);
}

static void print_sizes(const Plan *plan, const char *key, int from, int to, Json *j)
{
    json_array(j, key);
    for (int i = from; i < to; i++) print_size(plan, &plan->size[i], j);
    json_close(j);
}

void plan_print_json(const Plan *plan, FILE *out)
{
    const Machine *m = &plan->machine;
    Json json = json_begin(out), *j = &json;
    json_object(j, NULL);
    json_text(j, "model", plan->model_name);
    json_number(j, "parameters", plan->parameters);
    json_text(j, "pairs", plan->pairs_name);
    json_number(j, "pair_count", (double)plan->pairs.count);
    json_number(j, "steps", (double)plan->steps);
    json_object(j, "machine");
    json_number(j, "gflops", m->gflops);
    json_number(j, "memory_bandwidth", m->memory_bandwidth);
    json_number(j, "node_bandwidth", m->node_bandwidth);
    json_number(j, "latency", m->latency);
    json_close(j);
    print_sizes(plan, "sizes", 0, plan->asked, j);
    if (plan->sizes > plan->asked) print_sizes(plan, "alternatives", plan->asked, plan->sizes, j);
    if (plan->least_nodes > 0) json_number(j, "least_nodes", plan->least_nodes);
    if (plan->recompute_nodes > 0) json_number(j, "least_nodes_with_recompute", plan->recompute_nodes);
    json_close(j);
    fputc('\n', out);
}
