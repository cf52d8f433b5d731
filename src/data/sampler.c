#include "catdpo/data/sampler.h"

#include "catdpo/core/rng.h"

#include <stdlib.h>

/* Indices of pairs in the order of one epoch of their own. */
typedef struct SampleList {
    int64_t count;
    int64_t *member; /* [count] */
    int64_t *order;  /* [count] permutation of 0..count-1 for `epoch` */
    int64_t epoch;   /* -1: none yet */
} SampleList;

/* One stream of random numbers for each list and epoch, and one for each round's order of the categories. */
static uint64_t stream_of(int list, int64_t epoch) { return (uint64_t)epoch * 4096 + (uint64_t)list + 1; }
static uint64_t stream_of_round(int64_t round) { return (uint64_t)round * 4096; }

static bool list_fill(SampleList *list, const Pairs *pairs, int category)
{
    for (int64_t i = 0; i < pairs->count; i++) list->count += category < 0 || pairs_categories(pairs, i)[category];
    list->member = malloc(sizeof(int64_t) * (size_t)(list->count + 1));
    list->order = malloc(sizeof(int64_t) * (size_t)(list->count + 1));
    list->epoch = -1;
    if (!list->member || !list->order) return false;
    for (int64_t i = 0, at = 0; i < pairs->count; i++)
        if (category < 0 || pairs_categories(pairs, i)[category]) list->member[at++] = i;
    return true;
}

static void list_free(SampleList *list)
{
    free(list->member);
    free(list->order);
}

static bool make_lists(Sampler *s)
{
    int most = s->kind == SAMPLING_BALANCED ? s->pairs->category_count : 1;
    s->list = calloc((size_t)most, sizeof *s->list);
    s->order = calloc((size_t)most, sizeof *s->order);
    if (!s->list || !s->order) return false;
    for (int k = 0; k < most; k++) {
        SampleList *list = &s->list[s->list_count++];
        if (!list_fill(list, s->pairs, s->kind == SAMPLING_BALANCED ? k : -1)) return false;
        if (list->count == 0) { /* a category without pairs has no turn */
            list_free(list);
            *list = (SampleList){ 0 };
            s->list_count--;
        }
    }
    return true;
}

bool sampler_create(Sampler *s, const Pairs *pairs, Sampling kind, uint64_t seed, int per_step, Error *err)
{
    *s = (Sampler){ .pairs = pairs, .kind = kind, .seed = seed, .per_step = per_step, .order_round = -1 };
    if (pairs->count == 0) return error_usage(err, "there are no training pairs: prepare a file with some");
    s->steps_per_epoch = (pairs->count + per_step - 1) / per_step;
    if (!make_lists(s)) {
        sampler_free(s);
        return error_fault(err, "out of memory for the order of %lld pairs", (long long)pairs->count);
    }
    return true;
}

void sampler_free(Sampler *s)
{
    for (int i = 0; s->list && i < s->list_count; i++) list_free(&s->list[i]);
    free(s->list);
    free(s->order);
    *s = (Sampler){ 0 };
}

/* The draw-th pair of a list, counted over all epochs. */
static int64_t list_draw(Sampler *s, int index, int64_t draw)
{
    SampleList *list = &s->list[index];
    int64_t epoch = draw / list->count, at = draw % list->count;
    if (s->kind == SAMPLING_SEQUENTIAL) return list->member[at];
    if (list->epoch != epoch) {
        rng_permutation(s->seed, stream_of(index, epoch), list->count, list->order);
        list->epoch = epoch;
    }
    return list->member[list->order[at]];
}

/* Every category once a round. */
static int64_t balanced_draw(Sampler *s, int64_t draw)
{
    int64_t round = draw / s->list_count;
    if (s->order_round != round) {
        Rng rng = rng_stream(s->seed, stream_of_round(round));
        for (int i = 0; i < s->list_count; i++) { /* Fisher-Yates from the inside out */
            int j = (int)rng_below(&rng, (uint64_t)i + 1);
            s->order[i] = s->order[j];
            s->order[j] = i;
        }
        s->order_round = round;
    }
    return list_draw(s, s->order[draw % s->list_count], round);
}

int sampler_step(Sampler *s, int64_t step, int64_t *pair)
{
    int64_t epoch = (step - 1) / s->steps_per_epoch, first = (step - 1) % s->steps_per_epoch * s->per_step;
    int64_t rest = s->pairs->count - first;
    int count = rest < s->per_step ? (int)rest : s->per_step;
    for (int i = 0; i < count; i++) {
        int64_t draw = epoch * s->pairs->count + first + i;
        pair[i] = s->kind == SAMPLING_BALANCED ? balanced_draw(s, draw) : list_draw(s, 0, draw);
    }
    return count;
}
