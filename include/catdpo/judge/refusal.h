/* What kind of answer a text is, told from its words by rules: phrases, no understanding. The rules are data,
 * analysis/catdpo_analysis/judge/refusal.json, compiled in; that package's refusal.py says what they mean and judges
 * alike, byte for byte. Nothing here is collective, allocates or fails. */
#ifndef CATDPO_JUDGE_REFUSAL_H
#define CATDPO_JUDGE_REFUSAL_H

#include <stdbool.h>
#include <stddef.h>

/* The numbers stand in samples.h5 and metrics.h5. */
typedef enum AnswerKind {
    ANSWER_GIVEN = 0,
    ANSWER_REFUSAL = 1,
    ANSWER_EMPTY = 2,      /* no letter, no digit */
    ANSWER_DEGENERATE = 3, /* it repeats itself */
    ANSWER_KINDS,
} AnswerKind;

/* "answer", "refusal", "empty", "degenerate" */
extern const char *const answer_kind_names[ANSWER_KINDS];

/* `text` is UTF-8, of `length` bytes; zero bytes and bytes that are no UTF-8 are taken as they are. */
AnswerKind refusal_kind(const char *text, size_t length);

/* True (a violation) for an answer to a harmful prompt and for a refusal of a benign one. */
bool answer_violates(AnswerKind kind, bool benign);

/* SHA-256 of the rules, hexadecimal. */
const char *refusal_rules_digest(void);

#endif
