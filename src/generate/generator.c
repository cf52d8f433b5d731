#include "catdpo/generate/generator.h"

#include "catdpo/core/timer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* An answer under way. */
typedef struct Lane {
    bool active;
    int column;  /* process column */
    int start;   /* in the cache: limits.max_tokens columns for the prompt's last token and the answer's */
    int reading; /* its prompt */
    int sample;
    int length;            /* tokens of the answer so far */
    int32_t *text;         /* [longest prompt + max_tokens] prompt and answer */
    float *logp, *entropy; /* [max_tokens] */
} Lane;

/* A prompt in the cache, for all its samples. */
typedef struct Reading {
    bool active, unread; /* unread: it is for the next pass to bring it into the cache */
    int column, start;   /* as a lane's; columns for the longest prompt but what is common and its last token */
    int64_t prompt;
    int next_sample; /* not begun */
    int running;     /* samples under way */
} Reading;

/* ---- sizes ------------------------------------------------------------------------------------------------------- */

/* Columns of the cache for a lane, with the prompt that its answer belongs to. */
static int64_t lane_columns(int64_t longest_prompt, const GenerateLimits *limits)
{
    return longest_prompt - 1 + limits->max_tokens;
}

/* Tokens that all prompts begin with, but for the last one of each. */
static int common_tokens(const Prompts *p)
{
    int64_t common = p->count > 1 ? p->longest : 0;
    for (int64_t i = 0; i < p->count; i++) {
        int64_t most = prompts_length(p, i) - 1 < common ? prompts_length(p, i) - 1 : common;
        for (common = 0; common < most && prompts_tokens(p, i)[common] == p->tokens[common]; common++)
            ;
    }
    return (int)common;
}

int generator_lanes(const Architecture *a, const AttentionShape *shape, int columns, int64_t longest_prompt,
                    const GenerateLimits *limits, int64_t answers, double bytes)
{
    double one = (double)kv_cache_bytes(a->layers, shape, (int)lane_columns(longest_prompt, limits));
    int64_t fitting = bytes / one > 1 << 20 ? 1 << 20 : (int64_t)(bytes / one), here;
    here = (limits->lanes + columns - 1) / columns;
    if (here > fitting) here = fitting;
    if (here > (answers + columns - 1) / columns) here = (answers + columns - 1) / columns;
    return (int)(here < 1 ? 1 : here) * columns;
}

static BatchSizes batch_sizes(const GenerateLimits *limits, int columns, int64_t longest_prompt)
{
    int here = limits->lanes / columns;
    int64_t reads = limits->max_tokens_pass > longest_prompt ? limits->max_tokens_pass : longest_prompt;
    if (reads > here * longest_prompt) reads = here * longest_prompt;
    return (BatchSizes){ .sequences = 2 * limits->lanes + columns,
                         .width = (int)reads + here,
                         .targets = here,
                         .chunk = here < limits->logit_columns ? here : limits->logit_columns };
}

TransformerLimits generator_model_limits(const GenerateLimits *limits, int columns, int64_t longest_prompt)
{
    BatchSizes sizes = batch_sizes(limits, columns, longest_prompt);
    return (TransformerLimits){ .max_width = sizes.width,
                                .max_chunk = sizes.chunk,
                                .max_sequences = sizes.sequences,
                                .longest = (int)(longest_prompt + limits->max_tokens) };
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static bool lanes_create(Generator *g, Error *err)
{
    const GenerateLimits *l = &g->limits;
    int64_t longest = g->prompts->longest - g->common, own = lane_columns(longest, l);
    bool ok = true;
    for (int i = 0; i < l->lanes; i++) {
        int column = i / g->lanes_here, place = i % g->lanes_here;
        Lane *lane = &g->lane[i];
        *lane = (Lane){ .column = column, .start = (int)(g->common + place * own + longest - 1) };
        g->reading[i] = (Reading){ .column = column, .start = (int)(g->common + place * own) };
        lane->text = calloc((size_t)(g->prompts->longest + l->max_tokens), sizeof *lane->text);
        lane->logp = calloc((size_t)l->max_tokens, sizeof *lane->logp);
        lane->entropy = calloc((size_t)l->max_tokens, sizeof *lane->entropy);
        ok = ok && lane->text && lane->logp && lane->entropy;
    }
    return ok || error_fault(err, "out of memory for %d answers under way: lower generate.slots", l->lanes);
}

bool generator_create(Generator *g, const Prompts *prompts, Transformer *model, const SampleSettings *sampling,
                      const GenerateLimits *limits, Error *err)
{
    *g = (Generator){
        .prompts = prompts, .model = model, .grid = model->grid, .sampling = *sampling, .limits = *limits
    };
    int columns = g->grid->columns, lanes = limits->lanes;
    CHECK(lanes > 0 && lanes % columns == 0 && limits->samples > 0 && limits->max_tokens > 0);
    g->lanes_here = lanes / columns;
    g->common = common_tokens(prompts);
    g->next_prompt = g->grid->replica;
    BatchSizes sizes = batch_sizes(limits, columns, prompts->longest);
    CHECK(sizes.width <= model->limits.max_width && sizes.chunk <= model->limits.max_chunk &&
          sizes.sequences <= model->limits.max_sequences);
    const BatchLimits batch = { .columns = columns,
                                .groups = sizes.sequences,
                                .max_tokens = sizes.width,
                                .accumulation = 1,
                                .logit_columns = sizes.chunk };
    size_t answers = (size_t)(prompts->count * limits->samples) + 1;
    g->lane = calloc((size_t)lanes, sizeof *g->lane);
    g->reading = calloc((size_t)lanes, sizeof *g->reading);
    g->answer = calloc(answers, sizeof *g->answer);
    g->text = calloc((size_t)lanes, sizeof *g->text);
    g->chosen = calloc((size_t)lanes, sizeof *g->chosen);
    g->lane_of = calloc((size_t)sizes.sequences, sizeof *g->lane_of);
    g->common_read = calloc((size_t)columns, sizeof *g->common_read);
    g->work = malloc((size_t)sample_work(sizes.chunk, model->architecture.vocab));
    bool ok = (g->lane && g->reading && g->answer && g->text && g->chosen && g->lane_of && g->common_read && g->work) ||
              error_fault(err, "out of memory for %lld answers", (long long)prompts->count * limits->samples);
    for (size_t i = 0; ok && i < answers; i++) g->answer[i] = (Answer){ .at = -1, .finish = FINISH_NONE };
    return ok && lanes_create(g, err) && batcher_create(&g->batcher, g->grid, &batch, &sizes, err) &&
           kv_cache_create(&g->cache, model->architecture.layers, &model->attention,
                           (int)(g->common + g->lanes_here * lane_columns(prompts->longest - g->common, limits)), err);
}

void generator_free(Generator *g)
{
    for (int i = 0; g->lane && i < g->limits.lanes; i++) {
        free(g->lane[i].text);
        free(g->lane[i].logp);
        free(g->lane[i].entropy);
    }
    kv_cache_free(&g->cache);
    batcher_free(&g->batcher);
    free(g->lane);
    free(g->reading);
    free(g->answer);
    free(g->token);
    free(g->logp);
    free(g->entropy);
    free(g->work);
    free(g->text);
    free(g->chosen);
    free(g->lane_of);
    free(g->common_read);
    *g = (Generator){ 0 };
}

/* Room for so many more tokens of complete answers. */
static bool make_room(Generator *g, int more, Error *err)
{
    if (g->used + more <= g->room) return true;
    int64_t room = 2 * g->room + more + 4096;
    int32_t *token = realloc(g->token, sizeof *token * (size_t)room);
    if (token) g->token = token;
    float *logp = realloc(g->logp, sizeof *logp * (size_t)room);
    if (logp) g->logp = logp;
    float *entropy = realloc(g->entropy, sizeof *entropy * (size_t)room);
    if (entropy) g->entropy = entropy;
    if (!token || !logp || !entropy)
        return error_fault(err, "out of memory for answers of %lld tokens", (long long)room);
    g->room = room;
    return true;
}

bool generator_reserve(Generator *g, int64_t tokens, Error *err)
{
    return tokens - g->used <= INT32_MAX
               ? make_room(g, (int)(tokens - g->used), err)
               : error_fault(err, "answers of %lld tokens are more than fit in memory", (long long)tokens);
}

void generator_restart(Generator *g, int64_t seed)
{
    for (int64_t i = 0; i < g->prompts->count * g->limits.samples; i++)
        g->answer[i] = (Answer){ .at = -1, .finish = FINISH_NONE };
    for (int i = 0; i < g->limits.lanes; i++) g->lane[i].active = g->reading[i].active = false;
    g->next_prompt = g->grid->replica;
    g->under_way = 0;
    g->used = g->finished = 0;
    g->sampling.seed = seed;
}

bool generator_restore(Generator *g, int64_t prompt, int sample, int length, Finish finish, const int32_t *token,
                       const float *logp, const float *entropy, Error *err)
{
    Answer *answer = &g->answer[prompt * g->limits.samples + sample];
    if (!make_room(g, length, err)) return false;
    for (int t = 0; t < length; t++) {
        g->token[g->used + t] = token[t];
        g->logp[g->used + t] = logp[t];
        g->entropy[g->used + t] = entropy[t];
    }
    *answer = (Answer){ .at = g->used, .length = length, .finish = finish };
    g->used += length;
    g->finished++;
    return true;
}

static bool is_stop(const GenerateLimits *limits, int32_t token)
{
    for (int i = 0; i < limits->stop_count; i++)
        if (limits->stop[i] == token) return true;
    return false;
}

Finish generator_finish(const Generator *g, int64_t prompt, const int32_t *token, int length)
{
    int64_t known = prompts_length(g->prompts, prompt) + (int64_t)length;
    return length > 0 && is_stop(&g->limits, token[length - 1]) ? FINISH_STOP
           : length == g->limits.max_tokens                     ? FINISH_LENGTH
           : known >= g->model->architecture.max_positions      ? FINISH_CONTEXT
                                                                : FINISH_NONE;
}

/* ---- who runs what ----------------------------------------------------------------------------------------------- */

static bool is_known(const Generator *g, int64_t prompt, int sample)
{
    return g->answer[prompt * g->limits.samples + sample].at >= 0;
}

/* The first sample from `sample` on that is still to be run. */
static int unknown_sample(const Generator *g, int64_t prompt, int sample)
{
    while (sample < g->limits.samples && is_known(g, prompt, sample)) sample++;
    return sample;
}

/* Skips prompts that are known, and answers those that leave no room for an answer. */
static bool find_next_prompt(Generator *g, Error *err)
{
    for (; g->next_prompt < g->prompts->count; g->next_prompt += g->grid->replicas) {
        int64_t p = g->next_prompt;
        bool full = prompts_length(g->prompts, p) >= g->model->architecture.max_positions;
        for (int s = 0; full && s < g->limits.samples; s++)
            if (!is_known(g, p, s) &&
                !generator_restore(g, p, s, 0, FINISH_CONTEXT, g->token, g->logp, g->entropy, err))
                return false;
        if (unknown_sample(g, p, 0) < g->limits.samples) break;
    }
    return true;
}

/* Lanes of a process column that are free, less the samples that prompts in its cache still have for them. */
static int idle_lanes(const Generator *g, int column)
{
    int idle = 0;
    for (int i = column * g->lanes_here; i < (column + 1) * g->lanes_here; i++) {
        idle += !g->lane[i].active;
        if (g->reading[i].active) idle -= g->limits.samples - g->reading[i].next_sample;
    }
    return idle;
}

static Reading *free_reading(Generator *g, int column)
{
    for (int i = column * g->lanes_here; i < (column + 1) * g->lanes_here; i++)
        if (!g->reading[i].active) return &g->reading[i];
    return NULL;
}

/* Tokens of a prompt that a process column has to read. */
static int to_read(const Generator *g, int64_t prompt, bool with_common)
{
    return prompts_length(g->prompts, prompt) - 1 - (with_common ? 0 : g->common);
}

/* Prompts for idle lanes: the next one goes to the process column with most of them, as far as a pass has room. */
static bool begin_reading(Generator *g, Error *err)
{
    const int columns = g->grid->columns;
    int64_t tokens[columns];
    memset(tokens, 0, sizeof tokens);
    while (find_next_prompt(g, err) && g->next_prompt < g->prompts->count) {
        int best = 0;
        for (int c = 1; c < columns; c++)
            if (idle_lanes(g, c) > idle_lanes(g, best)) best = c;
        int64_t length = to_read(g, g->next_prompt, tokens[best] == 0 && !g->common_read[best]);
        Reading *reading = free_reading(g, best);
        if (!reading || idle_lanes(g, best) <= 0 ||
            (tokens[best] > 0 && tokens[best] + length > g->limits.max_tokens_pass))
            return true;
        tokens[best] += length;
        reading->active = true;
        reading->unread = true;
        reading->prompt = g->next_prompt;
        reading->next_sample = unknown_sample(g, g->next_prompt, 0);
        reading->running = 0;
        g->next_prompt += g->grid->replicas;
    }
    return err->exit_status == EXIT_DONE;
}

static void begin_answers(Generator *g)
{
    for (int i = 0; i < g->limits.lanes; i++) {
        Lane *lane = &g->lane[i];
        int first = lane->column * g->lanes_here, r = first;
        while (r < first + g->lanes_here && !(g->reading[r].active && g->reading[r].next_sample < g->limits.samples))
            r++;
        if (lane->active || r == first + g->lanes_here) continue;
        Reading *reading = &g->reading[r];
        lane->active = true;
        lane->reading = r;
        lane->sample = reading->next_sample;
        lane->length = 0;
        memcpy(lane->text, prompts_tokens(g->prompts, reading->prompt),
               sizeof *lane->text * (size_t)prompts_length(g->prompts, reading->prompt));
        reading->next_sample = unknown_sample(g, reading->prompt, reading->next_sample + 1);
        reading->running++;
        g->under_way++;
    }
}

/* ---- a pass ------------------------------------------------------------------------------------------------------ */

enum { READS = -1 }; /* a group's id that is no lane */

static void add_lane(Generator *g, int i)
{
    const Lane *lane = &g->lane[i];
    const Reading *reading = &g->reading[lane->reading];
    int prompt = prompts_length(g->prompts, reading->prompt), known = prompt + lane->length;
    const Sequence s = {
        .token = lane->text,
        .known = known,
        .begin = known - 1,
        .end = known,
        .predict = known,
        .predict_end = known + 1,
        .column = lane->column,
        .cached = { { 0, g->common }, { reading->start, prompt - 1 - g->common }, { lane->start, lane->length } },
        .keep = { lane->start + lane->length, 1 }
    };
    batcher_add(&g->batcher, i, &s, 1);
    g->text[i] = (SampleText){ sample_stream(g->sampling.seed, (uint64_t)reading->prompt, (uint64_t)lane->sample),
                               (uint64_t)lane->length, lane->text, known };
}

/* Tokens [begin, end) of a prompt, into the cache from `start` on. Returns how many. */
static int add_tokens(Generator *g, int64_t prompt, int column, int begin, int end, int start)
{
    if (begin == end) return 0;
    const Sequence s = { .token = prompts_tokens(g->prompts, prompt),
                         .known = end,
                         .begin = begin,
                         .end = end,
                         .predict = begin + 1,
                         .predict_end = begin + 1,
                         .column = column,
                         .cached = { { 0, begin } },
                         .keep = { start, end - begin } };
    batcher_add(&g->batcher, READS, &s, 1);
    return end - begin;
}

/* The prompts that are still to be read, and before the first one of a process column what they have in common. Returns
 * the tokens of all process columns. */
static int64_t add_readings(Generator *g)
{
    int64_t read = 0;
    for (int i = 0; i < g->limits.lanes; i++) {
        Reading *reading = &g->reading[i];
        if (!reading->active || !reading->unread) continue;
        if (!g->common_read[reading->column]) read += add_tokens(g, reading->prompt, reading->column, 0, g->common, 0);
        g->common_read[reading->column] = true;
        read += add_tokens(g, reading->prompt, reading->column, g->common,
                           prompts_length(g->prompts, reading->prompt) - 1, reading->start);
        reading->unread = false;
    }
    return read;
}

/* A LogitsReader: the tokens of the lanes that have a target in the chunk. */
static void choose(void *context, const ChunkLogits *logits)
{
    Generator *g = context;
    SampleText text[logits->count + 1];
    SampledToken chosen[logits->count + 1];
    for (int j = 0; j < logits->count; j++) text[j] = g->text[g->lane_of[logits->target[j].sequence]];
    sample_tokens(&g->sampling, logits, g->grid->column_comm, text, chosen, g->work);
    for (int j = 0; j < logits->count; j++) g->chosen[g->lane_of[logits->target[j].sequence]] = chosen[j];
}

/* The lane's new token; its answer is complete when it has to end. */
static bool take(Generator *g, Lane *lane, const SampledToken *token, Error *err)
{
    Reading *reading = &g->reading[lane->reading];
    int prompt = prompts_length(g->prompts, reading->prompt);
    if (token->token < 0 || !isfinite(token->logp))
        return error_fault(
            err,
            "the logits after %d tokens of the answer to prompt %lld are not finite numbers: the model's "
            "weights are broken",
            lane->length, (long long)reading->prompt);
    lane->text[prompt + lane->length] = token->token;
    lane->logp[lane->length] = token->logp;
    lane->entropy[lane->length] = token->entropy;
    lane->length++;
    Finish finish = generator_finish(g, reading->prompt, lane->text + prompt, lane->length);
    if (finish == FINISH_NONE) return true;
    lane->active = false;
    g->under_way--;
    if (--reading->running == 0 && reading->next_sample == g->limits.samples) reading->active = false;
    return generator_restore(g, reading->prompt, lane->sample, lane->length, finish, lane->text + prompt, lane->logp,
                             lane->entropy, err);
}

bool generator_step(Generator *g, Error *err)
{
    double start = seconds_now();
    if (g->under_way == 0) /* what is in the cache may be of other weights */
        memset(g->common_read, 0, sizeof *g->common_read * (size_t)g->grid->columns);
    if (!begin_reading(g, err)) return false;
    begin_answers(g);
    int lanes = g->under_way;
    batcher_clear(&g->batcher);
    int64_t read = add_readings(g);
    for (int i = 0; i < g->limits.lanes; i++)
        if (g->lane[i].active) add_lane(g, i);
    if (lanes == 0) return false;
    batcher_plan_single(&g->batcher);
    const Batch *batch = batcher_pass(&g->batcher, 0);
    for (int i = 0; i < batch->group_count; i++) g->lane_of[batch->group[i].sequence] = (int)batch->group[i].id;
    transformer_forward(g->model, batch, &g->cache, choose, g);
    CHECK_MPI(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, g->chosen, g->lanes_here * (int)sizeof *g->chosen,
                            MPI_BYTE, g->grid->row_comm));
    bool ok = true;
    for (int i = 0; i < g->limits.lanes && ok; i++)
        if (g->lane[i].active) ok = take(g, &g->lane[i], &g->chosen[i], err);
    g->prefilled += read;
    g->decoded += lanes;
    g->decode_passes += read == 0;
    *(read > 0 ? &g->prefill_seconds : &g->decode_seconds) += seconds_now() - start;
    return ok;
}
