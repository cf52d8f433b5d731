/* From the config to what the generator needs. */
#include "catdpo/core/memory_limit.h"
#include "catdpo/generate/run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

SampleSettings generate_sampling(const Config *config)
{
    return (SampleSettings){ .temperature = config->generate.temperature,
                             .min_p = config->generate.min_p,
                             .top_p = config->generate.top_p,
                             .top_k = config->generate.top_k,
                             .repetition_penalty = config->generate.repetition_penalty,
                             .seed = config->generate.seed };
}

static bool add_stop(GenerateLimits *limits, long long token, int vocab, Error *err)
{
    if (token < 0 || token >= vocab)
        return error_usage(err, "generate.stop: the model has no token %lld; they go from 0 to %d", token, vocab - 1);
    if (limits->stop_count == STOP_TOKENS)
        return error_usage(err, "generate.stop: more than %d tokens end an answer", STOP_TOKENS);
    limits->stop[limits->stop_count++] = (int32_t)token;
    return true;
}

static bool read_stop(const char *text, GenerateLimits *limits, int vocab, Error *err)
{
    if (strcmp(text, "none") == 0) return true;
    for (const char *at = text; *at;) {
        char *end;
        errno = 0;
        long long token = strtoll(at, &end, 10);
        end += strspn(end, " ");
        if (end == at || errno || (*end && *end != ','))
            return error_usage(
                err,
                "generate.stop must be token ids with commas between, such as \"2,32000\", or \"none\", not "
                "\"%.80s\"",
                text);
        if (!add_stop(limits, token, vocab, err)) return false;
        at = *end ? end + 1 : end;
    }
    return true;
}

GenerateLimits generate_sizes(const Config *config)
{
    return (GenerateLimits){ .samples = (int)config->generate.samples,
                             .max_tokens = (int)config->generate.max_tokens,
                             .lanes = (int)config->generate.slots,
                             .max_tokens_pass = config->batch.max_tokens };
}

bool generate_limits(const Config *config, const Vocabulary *v, int vocab, GenerateLimits *limits, Error *err)
{
    *limits = generate_sizes(config);
    if (*config->generate.stop) return read_stop(config->generate.stop, limits, vocab, err);
    if (v->stop_count == 0)
        return error_usage(err,
                           "the model file does not say which tokens end an answer (an older version imported it): "
                           "import it again, or set generate.stop");
    for (int64_t i = 0; i < v->stop_count; i++)
        if (!add_stop(limits, v->stop[i], vocab, err)) return false;
    return true;
}

void generate_describe(const Config *config, const GenerateLimits *limits, char text[GENERATE_TEXT])
{
    int used = snprintf(text, GENERATE_TEXT,
                        "samples=%lld max_tokens=%lld temperature=%.17g min_p=%.17g top_p=%.17g top_k=%lld "
                        "repetition_penalty=%.17g seed=%lld stop=",
                        (long long)config->generate.samples, (long long)config->generate.max_tokens,
                        config->generate.temperature, config->generate.min_p, config->generate.top_p,
                        (long long)config->generate.top_k, config->generate.repetition_penalty,
                        (long long)config->generate.seed);
    for (int i = 0; i < limits->stop_count; i++)
        used += snprintf(text + used, GENERATE_TEXT - (size_t)used, "%s%d", i ? "," : "", limits->stop[i]);
    if (limits->stop_count == 0) snprintf(text + used, GENERATE_TEXT - (size_t)used, "none");
}

/* ---- layout ------------------------------------------------------------------------------------------------------ */

/* Limits on a grid of this shape, and the bytes that its first rank, which has most, needs. */
static GenerateBytes need_of(const Config *config, const Architecture *a, const Prompts *prompts, const Layout *layout,
                             GenerateLimits *limits)
{
    int rows = layout->rows, columns = layout->columns;
    const AttentionShape shape = { .groups = (a->groups + rows - 1) / rows,
                                   .per_group = a->heads / a->groups,
                                   .head_dim = a->head_dim };
    int64_t answers = (prompts->count + layout->replicas - 1) / layout->replicas * limits->samples;
    limits->logit_columns = layout_batch_limits(config, a, rows, columns).logit_columns;
    limits->lanes =
        generator_lanes(a, &shape, columns, prompts->longest, limits, answers, config->generate.cache_mb * 1e6);
    TransformerLimits model = generator_model_limits(limits, columns, prompts->longest);
    TransformerBytes bytes = transformer_bytes(a, &model, layout->replicas, rows, columns, false);
    return (GenerateBytes){
        .model = (double)(bytes.weights + bytes.activations + bytes.logits),
        .cache = (double)kv_cache_bytes(a->layers, &shape,
                                        limits->lanes / columns * (int)(prompts->longest - 1 + limits->max_tokens)),
    };
}

bool generate_layout_for(Layout *layout, const Config *config, const Architecture *a, const Prompts *prompts,
                         GenerateLimits *limits, int ranks, const MemoryShare *memory, GenerateBytes *bytes, Error *err)
{
    int rows = (int)config->parallel.grid[0], columns = (int)config->parallel.grid[1];
    int replicas = (int)config->parallel.replicas;
    const GenerateLimits wanted = *limits;
    char wants[16] = "", has[16];
    bool free_grid = rows == 0;
    for (int r = free_grid ? 1 : rows; r <= (free_grid ? ranks : rows); r++) {
        int c = free_grid ? 1 : columns, d = replicas > 0 ? replicas : ranks / (r * c);
        if (free_grid && (ranks % r != 0 || r > a->groups || (replicas > 0 && d * r != ranks))) continue;
        *layout = (Layout){ .replicas = d < 1 ? 1 : d, .rows = r, .columns = c, .why = "as configured" };
        if (!architecture_fits(a, r, c, ranks, err)) return false;
        *limits = wanted;
        *bytes = need_of(config, a, prompts, layout, limits);
        double need = bytes->model + bytes->cache;
        memory_text(need, wants);
        if (need > memory->bytes * (free_grid ? LAYOUT_ROOM : 1)) continue;
        if (free_grid)
            snprintf(layout->why, sizeof layout->why,
                     "the fewest rows on which model and cache (%s a rank) fit the memory (%s a rank: %s)", wants,
                     memory_text(memory->bytes, has), memory->of);
        return true;
    }
    return error_usage(
        err,
        "model and cache need %s a rank, of %s (%s): start more ranks or nodes, or lower generate.slots, "
        "generate.cache_mb or generate.max_tokens",
        *wants ? wants : "more", memory_text(memory->bytes, has), memory->of);
}

bool generate_layout(Layout *layout, const Config *config, const Architecture *a, const Prompts *prompts,
                     GenerateLimits *limits, MPI_Comm world, Error *err)
{
    int ranks;
    GenerateBytes bytes;
    CHECK_MPI(MPI_Comm_size(world, &ranks));
    MemoryShare memory = memory_share(world);
    if (config->parallel.memory_gb > 0)
        memory = (MemoryShare){ .bytes = config->parallel.memory_gb * 1e9, .of = "parallel.memory_gb" };
    return generate_layout_for(layout, config, a, prompts, limits, ranks, &memory, &bytes, err);
}
