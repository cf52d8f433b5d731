#include "catdpo/ops/sample.h"

#include "catdpo/core/rng.h"
#include "catdpo/core/simd.h"

#include <math.h>
#include <string.h>

enum { TOKEN_BITS = 24 }; /* of a counter: more tokens than any vocabulary has */

uint64_t sample_stream(int64_t seed, uint64_t prompt, uint64_t sample)
{
    return rng_at((uint64_t)seed, prompt, sample);
}

/* The best token so far; MPI_MAXLOC's layout, which takes the lower number among equal keys. */
typedef struct Choice {
    double key; /* s + G */
    int token;
} Choice;

/* ---- the repetition penalty -------------------------------------------------------------------------------------- */

static float penalised(float logit, double penalty) { return (float)(logit > 0 ? logit / penalty : logit * penalty); }
static float unpenalised(float logit, double penalty) { return (float)(logit > 0 ? logit * penalty : logit / penalty); }

/* Once for each token of the text, however often it stands there. used: a bit a token of the vocabulary. */
static void penalise(float *x, const Axis *vocab, const SampleText *text, double penalty, uint8_t *used)
{
    memset(used, 0, (size_t)vocab->length / 8 + 1);
    for (int i = 0; i < text->known; i++) {
        int token = text->token[i];
        if (used[token / 8] >> token % 8 & 1 || axis_owner(vocab, token) != vocab->mine) continue;
        used[token / 8] |= (uint8_t)(1 << token % 8);
        float *logit = &x[axis_local(vocab, token)];
        *logit = penalised(*logit, penalty);
    }
}

static bool in_text(const SampleText *text, int token)
{
    for (int i = 0; i < text->known; i++)
        if (text->token[i] == token) return true;
    return false;
}

/* ---- thresholds -------------------------------------------------------------------------------------------------- */

/* An integer that is ordered as the number is: thresholds are found by halving intervals of integers, to the last bit,
 * however the logits are spread. */
static uint32_t ordered(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
static float number(uint32_t order)
{
    uint32_t bits = order & 0x80000000u ? order & 0x7fffffffu : ~order;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Numbers of x that are at least `least`. */
SIMD_CLONES
static double count_from(const float *x, int n, float least, float top, float over_temperature)
{
    int count = 0;
#pragma omp simd reduction(+ : count)
    for (int i = 0; i < n; i++) count += x[i] >= least;
    (void)top, (void)over_temperature;
    return count;
}

/* sum of exp((x - top) / temperature) over them */
SIMD_CLONES
static double mass_from(const float *x, int n, float least, float top, float over_temperature)
{
    enum { PIECE = 1024 };
    double mass = 0;
    for (int start = 0; start < n; start += PIECE) {
        int end = start + PIECE < n ? start + PIECE : n;
        float piece = 0;
#pragma omp simd reduction(+ : piece)
        for (int i = start; i < end; i++) piece += x[i] >= least ? simd_exp((x[i] - top) * over_temperature) : 0.0f;
        mass += piece;
    }
    return mass;
}

typedef double Amount(const float *x, int n, float least, float top, float over_temperature);

/* What there is of each target while its token is found; arrays lie in the caller's memory. */
typedef struct Work {
    float *top;            /* largest logit over the whole vocabulary */
    float *least;          /* tokens below it are left out */
    uint32_t *low, *high;  /* the threshold looked for lies in [low, high] */
    double *amount, *goal; /* tokens or mass from the middle on, and how much there has to be */
    Choice *choice;
    float (*chosen)[2]; /* log-prob and entropy, on the rank that has the token */
    uint8_t *used;      /* [V / 8 + 1] */
} Work;

int64_t sample_work(int count, int vocab)
{
    return count * (int64_t)(4 * sizeof(float) + 2 * sizeof(uint32_t) + 2 * sizeof(double) + sizeof(Choice)) +
           vocab / 8 + 1;
}

/* The next `bytes` of memory. */
static void *cut(char **memory, size_t bytes)
{
    void *piece = *memory;
    *memory += bytes;
    return piece;
}

static Work work_in(void *memory, int count)
{
    char *rest = memory;
    size_t n = (size_t)count;
    Work w;
    w.choice = cut(&rest, n * sizeof *w.choice);
    w.amount = cut(&rest, n * sizeof *w.amount);
    w.goal = cut(&rest, n * sizeof *w.goal);
    w.top = cut(&rest, n * sizeof *w.top);
    w.least = cut(&rest, n * sizeof *w.least);
    w.low = cut(&rest, n * sizeof *w.low);
    w.high = cut(&rest, n * sizeof *w.high);
    w.chosen = cut(&rest, n * sizeof *w.chosen);
    w.used = (uint8_t *)rest;
    return w;
}

static uint32_t middle_of(const Work *w, int j)
{
    uint32_t width = w->high[j] - w->low[j];
    return w->low[j] + width / 2 + width % 2;
}

/* least = the largest threshold from which on there is `goal`. Collective over comm. */
static void raise_thresholds(const ChunkLogits *l, Work *w, Amount *amount, float over_temperature, MPI_Comm comm)
{
    int v = l->vocab->local;
    for (int j = 0; j < l->count; j++) w->low[j] = ordered(w->least[j]), w->high[j] = ordered(w->top[j]);
    for (int bit = 0; bit < 32; bit++) { /* of 2^32 numbers one is left */
        for (int j = 0; j < l->count; j++)
            w->amount[j] = amount(l->logits + (int64_t)j * v, v, number(middle_of(w, j)), w->top[j], over_temperature);
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, w->amount, l->count, MPI_DOUBLE, MPI_SUM, comm));
        for (int j = 0; j < l->count; j++) {
            if (w->amount[j] >= w->goal[j])
                w->low[j] = middle_of(w, j);
            else if (w->high[j] > w->low[j])
                w->high[j] = middle_of(w, j) - 1;
        }
    }
    for (int j = 0; j < l->count; j++) w->least[j] = number(w->low[j]);
}

static void find_thresholds(const SampleSettings *set, const ChunkLogits *l, Work *w, MPI_Comm comm)
{
    int v = l->vocab->local;
    float over = (float)(1 / set->temperature);
    for (int j = 0; j < l->count; j++) w->least[j] = -INFINITY;
    if (set->top_k > 0 && set->top_k < l->vocab->length) {
        for (int j = 0; j < l->count; j++) w->goal[j] = (double)set->top_k;
        raise_thresholds(l, w, count_from, over, comm);
    }
    if (set->top_p < 1) {
        for (int j = 0; j < l->count; j++)
            w->goal[j] = mass_from(l->logits + (int64_t)j * v, v, w->least[j], w->top[j], over);
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, w->goal, l->count, MPI_DOUBLE, MPI_SUM, comm));
        for (int j = 0; j < l->count; j++) w->goal[j] *= set->top_p;
        raise_thresholds(l, w, mass_from, over, comm);
    }
    for (int j = 0; j < l->count && set->min_p > 0; j++)
        w->least[j] = fmaxf(w->least[j], w->top[j] + (float)(set->temperature * log(set->min_p)));
}

/* ---- the choice -------------------------------------------------------------------------------------------------- */

/* A vocabulary's length stands for no token. */
static Choice no_choice(const Axis *vocab) { return (Choice){ -INFINITY, vocab->length }; }

static Choice largest(const float *x, const Axis *vocab)
{
    Choice best = no_choice(vocab);
    for (int i = 0; i < vocab->local; i++)
        if (x[i] > best.key) best = (Choice){ x[i], i };
    if (best.token < vocab->length) best.token = axis_global(vocab, best.token);
    return best;
}

/* The random bits of a token: four tokens share a block of the generator. */
static uint64_t bits_of(Rng *rng, uint64_t position, int token)
{
    uint64_t index = position << TOKEN_BITS | (uint64_t)token;
    if (index != rng->index || index % 4 == 0) {
        rng->index = index / 4 * 4;
        rng_next(rng); /* makes the block */
    }
    rng->index = index + 1;
    return rng->block[index % 4];
}

/* argmax of s + G over the tokens that are kept, s = x / temperature. With u uniform in [0, 1), E = -log u, G = -log E:
 * a token beats the key b if E < exp(s - b). As E >= 1 - u and exp(-d) <= 1 / (1 + d + d^2 / 2), most tokens are out
 * before any logarithm. */
static Choice draw(const SampleSettings *set, const float *x, const Axis *vocab, float least, const SampleText *text)
{
    Choice best = no_choice(vocab);
    Rng rng = { .seed = (uint64_t)set->seed, .stream = text->stream, .index = UINT64_MAX };
    for (int i = 0; i < vocab->local; i++) {
        if (!(x[i] >= least)) continue;
        int token = axis_global(vocab, i);
        double rest = (double)((bits_of(&rng, text->position, token) >> 11) + 1) * 0x1p-53; /* 1 - u */
        double s = x[i] / set->temperature, behind = best.key - s;
        if (behind > 0 && rest * (1 + behind + behind * behind / 2) > 1.000001) continue;
        double key = s - log(-log1p(-rest));
        if (key > best.key || best.token == vocab->length) best = (Choice){ key, token };
    }
    return best;
}

void sample_tokens(const SampleSettings *set, const ChunkLogits *l, MPI_Comm column_comm, const SampleText *text,
                   SampledToken *chosen, void *memory)
{
    if (l->count == 0) return;
    int v = l->vocab->local;
    double penalty = set->repetition_penalty;
    Work w = work_in(memory, l->count);
    for (int j = 0; j < l->count && penalty != 1; j++)
        penalise(l->logits + (int64_t)j * v, l->vocab, &text[j], penalty, w.used);
    if (set->temperature > 0) {
        for (int j = 0; j < l->count; j++) w.top[j] = simd_max(l->logits + (int64_t)j * v, v);
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, w.top, l->count, MPI_FLOAT, MPI_MAX, column_comm));
        find_thresholds(set, l, &w, column_comm);
    }
    for (int j = 0; j < l->count; j++) {
        const float *x = l->logits + (int64_t)j * v;
        w.choice[j] = set->temperature > 0 ? draw(set, x, l->vocab, w.least[j], &text[j]) : largest(x, l->vocab);
    }
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, w.choice, l->count, MPI_DOUBLE_INT, MPI_MAXLOC, column_comm));
    for (int j = 0; j < l->count; j++) {
        int token = w.choice[j].token;
        w.chosen[j][0] = w.chosen[j][1] = 0;
        if (token >= l->vocab->length || axis_owner(l->vocab, token) != l->vocab->mine) continue;
        float logit = l->logits[(int64_t)j * v + axis_local(l->vocab, token)];
        if (penalty != 1 && in_text(&text[j], token)) logit = unpenalised(logit, penalty);
        w.chosen[j][0] = (float)(logit - l->lse[j]);
        w.chosen[j][1] = (float)l->entropy[j];
    }
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, w.chosen, 2 * l->count, MPI_FLOAT, MPI_SUM, column_comm));
    for (int j = 0; j < l->count; j++) {
        bool found = w.choice[j].token < l->vocab->length;
        chosen[j] = (SampledToken){ found ? w.choice[j].token : -1, w.chosen[j][0], w.chosen[j][1] };
    }
}
