/* The gated MLP: act = activation(gate) * up. Gate and up lie in one matrix whose row blocks are [gate; up]
 * (parameters.h), so it is local. */
#ifndef CATDPO_OPS_MLP_H
#define CATDPO_OPS_MLP_H

#include "catdpo/parallel/matrix.h"

typedef enum Activation {
    ACTIVATION_SILU,      /* SwiGLU: x sigmoid(x) */
    ACTIVATION_GELU_TANH, /* GeGLU: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), which is x sigmoid of twice that
                           */
} Activation;

/* act[m x n] from gate_up[2m x n]; `mlp` is the axis of act's rows. Local. */
void glu_forward(Activation activation, const Axis *mlp, int n, const float *gate_up, float *act);
/* Given act's gradient in act[m x n]: gate_up becomes its own gradient, and act what the forward made, for the gradient
 * of the weight that it was multiplied with. Local. */
void glu_backward(Activation activation, const Axis *mlp, int n, float *gate_up, float *act);

#endif
