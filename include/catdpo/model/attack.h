/* Attacks: perturbations of the embeddings of prompts that make a model prefer the rejected responses.
 *
 *     delta* = argmin  A(x + delta)   over  || delta_j || <= radius  for each token j of the prompt
 *
 *     targeted      A = -L_l           the rejected response becomes likely
 *     contrastive   A = L_w - L_l      and the chosen one unlikely
 *     random        no A: a direction that is drawn, at the full radius; what the others have to be better than
 *
 * by `steps` projected steps from 0, of which the last iterate counts. A step of a token in norm l2 is
 * step * g_j / max(|| g_j ||, 1e-3 max_i || g_i ||), i over the pair's prompt: all tokens go alike fast, but for those
 * that nearly nothing depends on. This is smooth, so that grids agree up to rounding. In norm linf it is step *
 * sign(g), the ball is |delta_jf| <= radius / sqrt(H) (its corners are where the l2 ball ends), and grids may differ
 * where a gradient is zero up to rounding. A loss of the pair has no say in this: of any loss the gradient is a
 * positive multiple of that of A, and the steps ignore the multiple.
 *
 * One delta is of the tokens that both prompts of a pair begin with, run once for both (Batch groups that are whole and
 * share their prompt): the completions' own tokens stay as they are. It lives as long as its pass. Of the batch's other
 * pairs it does not depend. Nothing is allocated here.
 */
#ifndef CATDPO_MODEL_ATTACK_H
#define CATDPO_MODEL_ATTACK_H

#include "catdpo/config/config.h"
#include "catdpo/model/transformer.h"

typedef struct Attack {
    AttackType type;
    AttackNorm norm;
    double radius; /* of a token's perturbation, in the units of the embeddings */
    double step;   /* likewise */
    int64_t steps;
    uint64_t seed, draw; /* of random directions: another draw, other directions */
} Attack;

/* The attack that the settings mean for these weights, with `radius` in their unit. Collective over grid->comm. */
Attack attack_make(Transformer *t, const AttackSettings *settings, double radius);

/* Attacks a batch of pairs (pair_batch.h): t->shift is the perturbation for the passes of this batch that follow, until
 * attack_end; t->attack.clean has the results without it. Collective over grid->comm. */
void attack_batch(Transformer *t, const Batch *batch, const Attack *attack);
void attack_end(Transformer *t);

/* Mean L2 norm of the embeddings of all tokens, as they enter the first layer. Overwrites the buffers of passes.
 * Collective over grid->comm. */
double attack_embedding_norm(Transformer *t);

#endif
