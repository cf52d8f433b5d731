/* SwiGLU: act = silu(gate) * up. Gate and up lie in one matrix whose row blocks are [gate; up] (parameters.h), so it is
 * local. */
#ifndef CATDPO_OPS_MLP_H
#define CATDPO_OPS_MLP_H

#include "catdpo/parallel/matrix.h"

/* act[m x n] from gate_up[2m x n]; `mlp` is the axis of act's rows. Local. */
void swiglu_forward(const Axis *mlp, int n, const float *gate_up, float *act);
/* Given act's gradient in act[m x n]: gate_up becomes its own gradient, and act what the forward made, for the gradient
 * of the weight that it was multiplied with. Local. */
void swiglu_backward(const Axis *mlp, int n, float *gate_up, float *act);

#endif
