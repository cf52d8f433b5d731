/* What a step's time is spent on: the phases of the program's Timer, in the order of the data flow. */
#ifndef CATDPO_CORE_PHASE_H
#define CATDPO_CORE_PHASE_H

typedef enum {
    PHASE_BATCH,      /* choosing, sharing out and laying out pairs */
    PHASE_EMBEDDING,  /* look-up, its gradient and their exchange; perturbations */
    PHASE_NORM,       /* RMSNorm */
    PHASE_MATMUL,     /* the layers' products, with the communication in them */
    PHASE_ATTENTION,  /* biases, rotation, scores, softmax */
    PHASE_MLP,        /* SwiGLU */
    PHASE_HEAD,       /* logits, log-probs, loss and both gradients */
    PHASE_REDUCE,     /* sums of gradients, sending weights */
    PHASE_OPTIMIZER,  /* norm, clipping, AdamW */
    PHASE_MARGINS,    /* counts, their Allreduce, the margin update, metric sums */
    PHASE_OUTPUT,     /* metrics, log, progress */
    PHASE_CHECKPOINT, /* reading and writing weights and moments */
    PHASE_PROBE,      /* answers to the probe group's prompts, or passes over its pairs */
    PHASE_JUDGE,      /* who says which of the answers are unsafe */
    PHASE_OTHER,
    PHASES
} Phase;

/* Lower-case names for files and reports. */
extern const char *const phase_name[PHASES];

#endif
