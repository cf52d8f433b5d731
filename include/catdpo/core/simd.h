/* Vectors on any processor: loops are compiled for several instruction sets, and the one that fits is chosen when the
 * program starts. */
#ifndef CATDPO_CORE_SIMD_H
#define CATDPO_CORE_SIMD_H

#include <stdint.h>
#include <string.h>

/* Sanitizers run before the loader's choice can be made. */
#if defined __x86_64__ && defined __GNUC__ && !defined __clang__ && !defined __SANITIZE_ADDRESS__
#define SIMD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SIMD_CLONES
#endif

/* exp(x) in float within 2 units in the last place; x below -87 gives about 1e-38, above 88 about 1e38. 2^n * e^r with
 * |r| <= ln 2 / 2: Taylor's polynomial for e^r, n put straight into the exponent bits. */
static inline __attribute__((always_inline)) float simd_exp(float x)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + round, n = shifted - round;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts */
    float p =
        1.0f + r * (1.0f + r * (1.0f / 2 + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
    int32_t bits, power;
    memcpy(&bits, &shifted, sizeof bits);
    power = (int32_t)((uint32_t)bits << 23) + (127 << 23);
    float scale;
    memcpy(&scale, &power, sizeof scale);
    return p * scale;
}

/* sum x[i] */
double simd_sum(const float *x, int64_t n);
/* sum x[i]^2; pieces in float, their sum in double */
double simd_square_sum(const float *x, int64_t n);
/* largest x[i]; -inf if n = 0 */
float simd_max(const float *x, int n);
/* sum x[i] y[i] */
float simd_dot(const float *x, const float *y, int n);

#endif
