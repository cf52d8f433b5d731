#include "catdpo/core/phase.h"

const char *const phase_name[PHASES] = {
    [PHASE_BATCH] = "batch",     [PHASE_EMBEDDING] = "embedding", [PHASE_NORM] = "norm",
    [PHASE_MATMUL] = "matmul",   [PHASE_ATTENTION] = "attention", [PHASE_MLP] = "mlp",
    [PHASE_HEAD] = "head",       [PHASE_REDUCE] = "reduce",       [PHASE_OPTIMIZER] = "optimizer",
    [PHASE_MARGINS] = "margins", [PHASE_OUTPUT] = "output",       [PHASE_CHECKPOINT] = "checkpoint",
    [PHASE_PROBE] = "probe",     [PHASE_JUDGE] = "judge",         [PHASE_OTHER] = "other",
};
