/* The loss of a pair: softplus(offset - beta h), with h = (L_w - R_w) - (L_l - R_l).
 *
 * L are the policy's and R the reference's summed log-probabilities of a completion (nats), w the chosen and l the
 * rejected one. The offset is the pair's safety margin in units of beta h: 0 is DPO, a constant on safe-against-unsafe
 * pairs is SafeDPO, a margin for each category is Cat-DPO. There is no other difference between the objectives.
 *
 * Plain arithmetic: nothing here is collective or fails; a NaN or an infinity in gives one out.
 */
#ifndef CATDPO_OBJECTIVE_OBJECTIVE_H
#define CATDPO_OBJECTIVE_OBJECTIVE_H

/* What the objective needs to know of a pair. */
typedef struct PairLogProbs {
    double chosen, rejected;                     /* L_w, L_l: summed over the completion's tokens, nats */
    double reference_chosen, reference_rejected; /* R_w, R_l */
    int chosen_tokens, rejected_tokens;          /* of the completions, >= 1 */
} PairLogProbs;

typedef struct PairLoss {
    double loss;        /* nats; the step's loss is the mean over all its pairs */
    double coefficient; /* d loss / d L_w = -beta sigmoid(offset - beta h), in [-beta, 0]; d loss / d L_l is its
                           negative */
    double h;           /* nats; beta h is the pair's reward margin */
} PairLoss;

PairLoss pair_loss(double beta, double offset, const PairLogProbs *pair);

/* log(1 + e^t) and 1 / (1 + e^-t), without overflow or loss of digits for any t. */
double softplus(double t);
double sigmoid(double t);

#endif
