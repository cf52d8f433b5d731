/* The answers of all replicas in one place, and their texts. */
#include "catdpo/generate/run.h"

#include <stdlib.h>
#include <string.h>

void gathered_free(Gathered *x)
{
    for (size_t i = 0; i < sizeof x->memory / sizeof *x->memory; i++) free(x->memory[i]);
    *x = (Gathered){ 0 };
}

/* calloc, owned by x. */
static void *take(Gathered *x, int place, int64_t count, size_t size)
{
    free(x->memory[place]);
    return x->memory[place] = calloc((size_t)count + 1, size);
}

enum { PROMPT, SAMPLE, OFFSET, FINISH, TOKEN, LOGP, ENTROPY, TEXT, TEXT_AT, PROMPT_TEXT };

/* This replica's complete answers one behind the other, in the order of prompt and sample. */
typedef struct Packed {
    int64_t tokens;
    int32_t *length; /* [answers]; -1: not of this replica, or not complete */
    uint8_t *finish; /* [answers] */
    int32_t *token;
    float *logp, *entropy;
} Packed;

static void packed_free(Packed *p)
{
    free(p->length);
    free(p->finish);
    free(p->token);
    free(p->logp);
    free(p->entropy);
}

static bool pack(const Generator *g, int64_t answers, Packed *p, Error *err)
{
    size_t tokens = (size_t)g->used + 1;
    *p = (Packed){ 0 };
    if (g->used > INT32_MAX / g->grid->replicas)
        return error_fault(err, "answers of %lld tokens are more than one file holds: generate fewer prompts at once",
                           (long long)g->used);
    *p = (Packed){ .length = malloc(sizeof *p->length * ((size_t)answers + 1)),
                   .finish = calloc((size_t)answers + 1, 1),
                   .token = malloc(sizeof *p->token * tokens),
                   .logp = malloc(sizeof *p->logp * tokens),
                   .entropy = malloc(sizeof *p->entropy * tokens) };
    if (!p->length || !p->finish || !p->token || !p->logp || !p->entropy)
        return error_fault(err, "out of memory for %lld answers", (long long)answers);
    for (int64_t i = 0; i < answers; i++) {
        const Answer *a = &g->answer[i];
        p->length[i] = a->at < 0 ? -1 : a->length;
        if (a->at < 0) continue;
        p->finish[i] = (uint8_t)a->finish;
        for (int t = 0; t < a->length; t++) {
            p->token[p->tokens + t] = g->token[a->at + t];
            p->logp[p->tokens + t] = g->logp[a->at + t];
            p->entropy[p->tokens + t] = g->entropy[a->at + t];
        }
        p->tokens += a->length;
    }
    return true;
}

/* Numbers of 4 bytes from every replica to the first, by its rank; received[sum of counts] there. Collective over
 * replica_comm. */
static void collect(const Grid *grid, const void *mine, int count, const int counts[], const int starts[],
                    void *received)
{
    CHECK_MPI(MPI_Gatherv(mine, count, MPI_INT32_T, received, counts, starts, MPI_INT32_T, 0, grid->replica_comm));
}

/* The pieces of the replicas, cut up and put into the order of prompt and sample. */
static void order(const Generator *g, int64_t answers, const Packed *all, const int starts[], Samples *s)
{
    const int replicas = g->grid->replicas;
    int64_t at[replicas], used = 0, n = 0;
    for (int d = 0; d < replicas; d++) at[d] = starts[d];
    for (int64_t i = 0; i < answers; i++) {
        int length = all->length[i];
        if (length < 0) continue;
        int64_t *from = &at[i / g->limits.samples % replicas];
        s->prompt[n] = (int32_t)(i / g->limits.samples);
        s->sample[n] = (int32_t)(i % g->limits.samples);
        s->finish[n] = all->finish[i];
        memcpy(s->token + used, all->token + *from, sizeof *s->token * (size_t)length);
        memcpy(s->logp + used, all->logp + *from, sizeof *s->logp * (size_t)length);
        memcpy(s->entropy + used, all->entropy + *from, sizeof *s->entropy * (size_t)length);
        *from += length;
        used += length;
        s->offset[++n] = used;
    }
}

/* ---- texts ------------------------------------------------------------------------------------------------------- */

/* Texts of `count` pieces of `token` one behind the other: into *text, each beginning at at[i]. */
static bool write_texts(const Vocabulary *v, const int32_t *token, const int64_t *offset, int64_t count, char **text,
                        int64_t *at)
{
    size_t room = 1, used = 0;
    for (int64_t i = 0; i < count; i++) room += vocabulary_room(v, token + offset[i], (int)(offset[i + 1] - offset[i]));
    *text = malloc(room);
    for (int64_t i = 0; *text && i < count; i++) {
        at[i] = (int64_t)used;
        used += vocabulary_text(v, token + offset[i], (int)(offset[i + 1] - offset[i]), *text + used) + 1;
    }
    return *text != NULL;
}

static bool add_texts(Gathered *x, const Prompts *prompts, const Vocabulary *v, Error *err)
{
    Samples *s = &x->samples;
    int64_t *at = take(x, TEXT_AT, s->count + prompts->count, sizeof *at);
    char *text = NULL, *prompt_text;
    bool ok = at && write_texts(v, s->token, s->offset, s->count, &text, at);
    x->memory[TEXT] = text;
    int64_t bytes = prompts->text_offsets[prompts->count];
    x->memory[PROMPT_TEXT] = prompt_text = calloc((size_t)(bytes + prompts->count) + 1, 1);
    for (int64_t i = 0; ok && prompt_text && i < prompts->count; i++) { /* a NUL behind each */
        int64_t begin = prompts->text_offsets[i], length = prompts->text_offsets[i + 1] - begin;
        at[s->count + i] = begin + i;
        memcpy(prompt_text + begin + i, prompts->text + begin, (size_t)length);
    }
    s->text = text, s->text_at = at;
    s->prompt_text = prompt_text, s->prompt_text_at = at + s->count;
    return (ok && prompt_text) || error_fault(err, "out of memory for the texts of %lld answers", (long long)s->count);
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

/* Arrays of rank 0 for n answers of so many tokens. */
static bool make_room(Gathered *x, int64_t n, int64_t tokens)
{
    Samples *s = &x->samples;
    s->prompt = take(x, PROMPT, n, sizeof *s->prompt);
    s->sample = take(x, SAMPLE, n, sizeof *s->sample);
    s->offset = take(x, OFFSET, n + 1, sizeof *s->offset);
    s->finish = take(x, FINISH, n, 1);
    s->token = take(x, TOKEN, tokens, sizeof *s->token);
    s->logp = take(x, LOGP, tokens, sizeof *s->logp);
    s->entropy = take(x, ENTROPY, tokens, sizeof *s->entropy);
    return s->prompt && s->sample && s->offset && s->finish && s->token && s->logp && s->entropy;
}

/* On the ranks that speak for a replica. Collective over replica_comm. */
static bool gather(const Generator *g, int64_t answers, Packed *mine, const Vocabulary *vocabulary, Gathered *x,
                   Error *err)
{
    const Grid *grid = g->grid;
    const int replicas = grid->replicas;
    bool first = grid->replica == 0;
    int counts[replicas], starts[replicas + 1], count = (int)mine->tokens;
    CHECK_MPI(MPI_Allgather(&count, 1, MPI_INT, counts, 1, MPI_INT, grid->replica_comm));
    starts[0] = 0;
    for (int d = 0; d < replicas; d++) starts[d + 1] = starts[d] + counts[d];
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, mine->length, (int)answers, MPI_INT32_T, MPI_MAX, grid->replica_comm));
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, mine->finish, (int)answers, MPI_UINT8_T, MPI_MAX, grid->replica_comm));
    for (int64_t i = 0; i < answers; i++) x->samples.count += mine->length[i] >= 0;
    x->samples.tokens = starts[replicas];
    Packed all = { .length = mine->length, .finish = mine->finish };
    size_t room = first ? (size_t)starts[replicas] + 1 : 1;
    all.token = malloc(sizeof *all.token * room);
    all.logp = malloc(sizeof *all.logp * room);
    all.entropy = malloc(sizeof *all.entropy * room);
    bool ok = (all.token && all.logp && all.entropy && (!first || make_room(x, x->samples.count, starts[replicas]))) ||
              error_fault(err, "out of memory for %lld answers", (long long)x->samples.count);
    if (error_agree(grid->replica_comm, ok, err)) {
        collect(grid, mine->token, count, counts, starts, all.token);
        collect(grid, mine->logp, count, counts, starts, all.logp);
        collect(grid, mine->entropy, count, counts, starts, all.entropy);
        if (first) order(g, answers, &all, starts, &x->samples);
        ok = !first || !vocabulary || add_texts(x, g->prompts, vocabulary, err);
    } else
        ok = false;
    free(all.token);
    free(all.logp);
    free(all.entropy);
    return ok;
}

bool gather_answers(const Generator *g, const Vocabulary *vocabulary, Gathered *x, Error *err)
{
    const Grid *grid = g->grid;
    const Prompts *p = g->prompts;
    int64_t answers = p->count * g->limits.samples;
    Packed mine;
    *x = (Gathered){ .samples = { .samples = g->limits.samples,
                                  .has_text = vocabulary != NULL,
                                  .total = answers,
                                  .prompt_count = p->count,
                                  .category_count = p->category_count,
                                  .category_name = p->category_name,
                                  .prompt_offset = p->offsets,
                                  .prompt_token = p->tokens,
                                  .prompt_row = p->source_row,
                                  .benign = p->benign,
                                  .category_mask = p->category_mask } };
    bool ok = pack(g, answers, &mine, err);
    if (error_agree(grid->world, ok, err)) {
        bool speaks = grid->row == 0 && grid->column == 0;
        ok = !speaks || gather(g, answers, &mine, vocabulary, x, err);
        ok = error_agree(grid->world, ok, err);
        int64_t sizes[] = { x->samples.count, x->samples.tokens };
        CHECK_MPI(MPI_Bcast(sizes, 2, MPI_INT64_T, 0, grid->world));
        x->samples.count = sizes[0], x->samples.tokens = sizes[1];
    }
    packed_free(&mine);
    return ok;
}
