/* The tiny random model that the checks compute with: the same numbers on every layout. */
#ifndef CATDPO_SELFCHECK_TINY_H
#define CATDPO_SELFCHECK_TINY_H

#include "catdpo/data/pair_batch.h"
#include "catdpo/model/transformer.h"
#include "catdpo/optim/adamw.h"
#include "catdpo/selfcheck/selfcheck.h"

typedef struct Tiny {
    Grid grid;
    Timer *timer;
    Pairs pairs;
    PairBatcher batcher;
    Transformer model;
    Optimizer optimizer;
    double sum; /* of the pass under way: see tiny_run */
} Tiny;

/* Key/value heads that all of these layouts can share out. */
int tiny_groups(const Shape shapes[], int count);

/* A model with `groups` key/value heads and its pairs on this layout of `world`, weights filled. Collective over world,
 * errors agreed; tiny_close in any case. */
bool tiny_open(Tiny *t, MPI_Comm world, Shape shape, int groups, Error *err);
void tiny_close(Tiny *t);

/* A random number in [-1, 1) of each element of all tensors, the same on every layout, into values[local_floats]. Not
 * collective. */
void tiny_random(const Tiny *t, uint64_t seed, float *values);

/* The sum over all sequences of c times its log-prob, c = 1 or -0.5 in turn, and its gradient into model.gradients,
 * complete on every rank, if `backward`. Collective over world. */
double tiny_run(Tiny *t, bool backward);

/* Sum over the model's elements of kind `kind` (TINY_KINDS of them) of a b, arrays of the weights' shape. Collective
 * over world. */
enum { TINY_KINDS = 6 };
const char *tiny_kind(int kind);
double tiny_dot(const Tiny *t, int kind, const float *a, const float *b);
/* a += factor b over the elements of that kind. Not collective. */
void tiny_add(const Tiny *t, int kind, float *a, double factor, const float *b);

#endif
