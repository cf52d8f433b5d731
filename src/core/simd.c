#include "catdpo/core/simd.h"

#include <math.h>

enum { PIECE = 4096 }; /* floats summed in single precision before double takes over */

SIMD_CLONES
double simd_sum(const float *x, int64_t n)
{
    double total = 0;
    for (int64_t start = 0; start < n; start += PIECE) {
        int64_t end = start + PIECE < n ? start + PIECE : n;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = start; i < end; i++) sum += x[i];
        total += sum;
    }
    return total;
}

SIMD_CLONES
double simd_square_sum(const float *x, int64_t n)
{
    double total = 0;
    for (int64_t start = 0; start < n; start += PIECE) {
        int64_t end = start + PIECE < n ? start + PIECE : n;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = start; i < end; i++) sum += x[i] * x[i];
        total += sum;
    }
    return total;
}

SIMD_CLONES
float simd_max(const float *x, int n)
{
    float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
    for (int i = 0; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

SIMD_CLONES
float simd_dot(const float *x, const float *y, int n)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}
