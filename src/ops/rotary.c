#include "catdpo/ops/rotary.h"

#include "catdpo/core/simd.h"

#include <math.h>
#include <stdlib.h>

static const double TWO_PI = 6.283185307179586;

/* Llama 3's scaling: long wavelengths are stretched by factor, short ones kept, those between interpolated. */
static double llama3_frequency(const RopeSettings *rope, double frequency)
{
    double wavelength = TWO_PI / frequency, context = rope->original_max_positions;
    double low = rope->low_frequency_factor, high = rope->high_frequency_factor;
    if (wavelength < context / high) return frequency;
    if (wavelength > context / low) return frequency / rope->factor;
    double smooth = (context / wavelength - low) / (high - low);
    return (1 - smooth) * frequency / rope->factor + smooth * frequency;
}

static double frequency_of(const RopeSettings *rope, int head_dim, int i)
{
    double frequency = pow(rope->theta, -2.0 * i / head_dim);
    switch (rope->type) {
    case ROPE_LINEAR: return frequency / rope->factor;
    case ROPE_LLAMA3: return llama3_frequency(rope, frequency);
    case ROPE_DEFAULT: break;
    }
    return frequency;
}

bool rotary_create(Rotary *r, const RopeSettings *rope, int head_dim, int positions, Error *err)
{
    *r = (Rotary){ .half = head_dim / 2, .positions = positions };
    size_t count = (size_t)positions * (size_t)r->half;
    r->cosine = malloc(sizeof(float) * count);
    r->sine = malloc(sizeof(float) * count);
    if (!r->cosine || !r->sine) {
        rotary_free(r);
        return error_fault(err, "out of memory for the rotary tables of %d positions", positions);
    }
    for (int i = 0; i < r->half; i++) {
        double frequency = frequency_of(rope, head_dim, i);
        for (int p = 0; p < positions; p++) {
            r->cosine[(size_t)p * (size_t)r->half + (size_t)i] = (float)cos(p * frequency);
            r->sine[(size_t)p * (size_t)r->half + (size_t)i] = (float)sin(p * frequency);
        }
    }
    return true;
}

void rotary_free(Rotary *r)
{
    free(r->cosine);
    free(r->sine);
    r->cosine = r->sine = NULL;
}

SIMD_CLONES
static void turn(int half, const float *cosine, const float *sine, float sign, float *x)
{
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half], s = sign * sine[i];
        x[i] = a * cosine[i] - b * s;
        x[i + half] = b * cosine[i] + a * s;
    }
}

void rotary_forward(const Rotary *r, int position, float *x)
{
    CHECK(position < r->positions);
    turn(r->half, r->cosine + (size_t)position * (size_t)r->half, r->sine + (size_t)position * (size_t)r->half, 1, x);
}

void rotary_backward(const Rotary *r, int position, float *dx)
{
    turn(r->half, r->cosine + (size_t)position * (size_t)r->half, r->sine + (size_t)position * (size_t)r->half, -1, dx);
}
