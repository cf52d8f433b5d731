/* Rotary position embedding: pairs (i, i + d/2) of a head of size d are turned by position * frequency_i (Hugging
 * Face's layout), with the frequency scalings "linear" and "llama3". */
#ifndef CATDPO_OPS_ROTARY_H
#define CATDPO_OPS_ROTARY_H

#include "catdpo/core/error.h"

typedef enum { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 } RopeType;

typedef struct RopeSettings {
    double theta, factor, low_frequency_factor, high_frequency_factor;
    RopeType type;
    int original_max_positions;
} RopeSettings;

typedef struct Rotary {
    int half; /* head size / 2 */
    int positions;
    float *cosine; /* positions x half, row-major */
    float *sine;
} Rotary;

/* Tables for positions 0..positions-1. */
bool rotary_create(Rotary *r, const RopeSettings *rope, int head_dim, int positions, Error *err);
void rotary_free(Rotary *r);

/* Turns one head x[2*half] in place. Local. */
void rotary_forward(const Rotary *r, int position, float *x);
/* The gradient of the same: turns back. */
void rotary_backward(const Rotary *r, int position, float *dx);

#endif
