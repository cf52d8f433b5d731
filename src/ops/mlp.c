#include "catdpo/ops/mlp.h"

#include "catdpo/core/simd.h"

SIMD_CLONES
static void silu_forward(int rows, const float *restrict gate, const float *restrict up, float *restrict act)
{
    for (int i = 0; i < rows; i++) act[i] = gate[i] / (1.0f + simd_exp(-gate[i])) * up[i];
}

SIMD_CLONES
static void silu_backward(int rows, float *restrict gate, float *restrict up, float *restrict act)
{
    for (int i = 0; i < rows; i++) {
        float g = gate[i], u = up[i], dact = act[i], sigmoid = 1.0f / (1.0f + simd_exp(-g)), silu = g * sigmoid;
        gate[i] = dact * u * (sigmoid + silu * (1.0f - sigmoid));
        up[i] = dact * silu;
        act[i] = silu * u;
    }
}

/* The sigmoid that GELU multiplies x with; *slope = d(its argument)/dx. */
static inline __attribute__((always_inline)) float gelu_sigmoid(float x, float *slope)
{
    const float a = 1.5957691216f, b = 0.044715f; /* a = 2 sqrt(2 / pi) */
    *slope = a * (1.0f + 3.0f * b * x * x);
    return 1.0f / (1.0f + simd_exp(-a * x * (1.0f + b * x * x)));
}

SIMD_CLONES
static void gelu_forward(int rows, const float *restrict gate, const float *restrict up, float *restrict act)
{
    float slope;
    for (int i = 0; i < rows; i++) act[i] = gate[i] * gelu_sigmoid(gate[i], &slope) * up[i];
}

SIMD_CLONES
static void gelu_backward(int rows, float *restrict gate, float *restrict up, float *restrict act)
{
    for (int i = 0; i < rows; i++) {
        float g = gate[i], u = up[i], dact = act[i], slope, sigmoid = gelu_sigmoid(g, &slope), gelu = g * sigmoid;
        gate[i] = dact * u * (sigmoid + gelu * (1.0f - sigmoid) * slope);
        up[i] = dact * gelu;
        act[i] = gelu * u;
    }
}

void glu_forward(Activation activation, const Axis *mlp, int n, const float *gate_up, float *act)
{
    for (int t = 0; t < n; t++)
        for (int start = 0; start < mlp->local; start += mlp->block) {
            int rows = mlp->local - start < mlp->block ? mlp->local - start : mlp->block;
            const float *gate = gate_up + 2 * ((int64_t)t * mlp->local + start);
            float *out = act + (int64_t)t * mlp->local + start;
            switch (activation) {
            case ACTIVATION_SILU: silu_forward(rows, gate, gate + rows, out); break;
            case ACTIVATION_GELU_TANH: gelu_forward(rows, gate, gate + rows, out); break;
            }
        }
}

void glu_backward(Activation activation, const Axis *mlp, int n, float *gate_up, float *act)
{
    for (int t = 0; t < n; t++)
        for (int start = 0; start < mlp->local; start += mlp->block) {
            int rows = mlp->local - start < mlp->block ? mlp->local - start : mlp->block;
            float *gate = gate_up + 2 * ((int64_t)t * mlp->local + start);
            float *out = act + (int64_t)t * mlp->local + start;
            switch (activation) {
            case ACTIVATION_SILU: silu_backward(rows, gate, gate + rows, out); break;
            case ACTIVATION_GELU_TANH: gelu_backward(rows, gate, gate + rows, out); break;
            }
        }
}
