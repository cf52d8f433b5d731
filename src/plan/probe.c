/* A probe: a forward pass over pairs, or answers. */
#include "catdpo/plan/plan.h"

#include "catdpo/generate/generator.h"

#include <math.h>

static bool answers_cost(ProbeCost *c, const Config *config, const Architecture *a, const ProbeSize *size,
                         PlanShape shape, const Machine *m, const StepCost *step, Error *err)
{
    const AttentionShape own = { .groups = (a->groups + shape.rows - 1) / shape.rows,
                                 .per_group = a->heads / a->groups,
                                 .head_dim = a->head_dim };
    const GenerateLimits limits = { .samples = (int)config->generate.samples,
                                    .max_tokens = (int)config->generate.max_tokens,
                                    .lanes = (int)config->generate.slots };
    int64_t prompts = (size->prompts + shape.replicas - 1) / shape.replicas, answers = prompts * limits.samples;
    int lanes =
        generator_lanes(a, &own, shape.columns, size->longest, &limits, answers, config->generate.cache_mb * 1e6);
    int64_t columns = size->longest - 1 + limits.max_tokens;
    double prompt = size->prompt_tokens / (double)size->prompts;
    const GenerationLoad load = { .answers = (double)answers,
                                  .prompt_tokens = prompt * (double)prompts,
                                  .prompt = prompt,
                                  .lanes = lanes,
                                  .max_tokens = limits.max_tokens,
                                  .max_tokens_pass = (int)fmax(step->width_most, (double)size->longest) };
    GenerationCost cost;
    if (!generation_cost(&cost, config, a, shape, m, &load, err)) return false;
    c->cache = (double)kv_cache_bytes(a->layers, &own, (int)(lanes / shape.columns * columns));
    c->seconds = cost.prefill + cost.decode;
    return true;
}

bool probe_cost(ProbeCost *c, const Config *config, const Architecture *a, const ProbeSize *size, PlanShape shape,
                const Machine *machine, const StepCost *step, int64_t total_steps, Error *err)
{
    *c = (ProbeCost){ 0 };
    if (config->margin.source == SOURCE_PAIRS || size->pairs + size->prompts == 0) return true;
    c->count = ceil((double)total_steps / (double)config->margin.interval);
    if (config->margin.source == SOURCE_GENERATED) return answers_cost(c, config, a, size, shape, machine, step, err);
    c->seconds =
        PLAN_FORWARD_SHARE * (step->seconds - step->optimizer) * (double)size->pairs / (double)config->batch.pairs;
    return true;
}
