#include "catdpo/ops/mlp.h"

#include "catdpo/core/simd.h"

SIMD_CLONES
static void forward_block(int rows, const float *restrict gate, const float *restrict up, float *restrict act)
{
    for (int i = 0; i < rows; i++) act[i] = gate[i] / (1.0f + simd_exp(-gate[i])) * up[i];
}

SIMD_CLONES
static void backward_block(int rows, float *restrict gate, float *restrict up, float *restrict act)
{
    for (int i = 0; i < rows; i++) {
        float g = gate[i], u = up[i], dact = act[i], sigmoid = 1.0f / (1.0f + simd_exp(-g)), silu = g * sigmoid;
        gate[i] = dact * u * (sigmoid + silu * (1.0f - sigmoid));
        up[i] = dact * silu;
        act[i] = silu * u;
    }
}

void swiglu_forward(const Axis *mlp, int n, const float *gate_up, float *act)
{
    for (int t = 0; t < n; t++)
        for (int start = 0; start < mlp->local; start += mlp->block) {
            int rows = mlp->local - start < mlp->block ? mlp->local - start : mlp->block;
            const float *gate = gate_up + 2 * ((int64_t)t * mlp->local + start);
            forward_block(rows, gate, gate + rows, act + (int64_t)t * mlp->local + start);
        }
}

void swiglu_backward(const Axis *mlp, int n, float *gate_up, float *act)
{
    for (int t = 0; t < n; t++)
        for (int start = 0; start < mlp->local; start += mlp->block) {
            int rows = mlp->local - start < mlp->block ? mlp->local - start : mlp->block;
            float *gate = gate_up + 2 * ((int64_t)t * mlp->local + start);
            backward_block(rows, gate, gate + rows, act + (int64_t)t * mlp->local + start);
        }
}
