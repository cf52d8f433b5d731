/* Rotary position embedding: pairs (i, i + d/2) of a head of size d are turned by position * frequency_i (Hugging
 * Face's layout), with the frequency scalings "linear" and "llama3". */
#ifndef CATDPO_ROTARY_H
#define CATDPO_ROTARY_H

#include "catdpo/architecture.h"

typedef struct Rotary {
    int half; /* head size / 2 */
    int positions;
    float *cosine; /* positions x half, row-major */
    float *sine;
} Rotary;

/* Tables for positions 0..positions-1. */
bool rotary_create(Rotary *r, const Architecture *a, int positions, Error *err);
void rotary_free(Rotary *r);

/* Turns one head x[2*half] in place. Local. */
void rotary_forward(const Rotary *r, int position, float *x);
/* The gradient of the same: turns back. */
void rotary_backward(const Rotary *r, int position, float *dx);

#endif
