/* The table that make_rules.py makes of analysis/catdpo_analysis/judge/refusal.json. */
#ifndef CATDPO_JUDGE_RULES_H
#define CATDPO_JUDGE_RULES_H

#include <stddef.h>

typedef struct Phrases {
    const char *const *phrase;
    size_t count;
} Phrases;

typedef struct RefusalRules {
    const char *digest; /* SHA-256 of the data file */
    size_t window;      /* bytes of the normalised text in which a refusal has to stand */
    Phrases refusal;
    Phrases not_refusal;      /* taken out before a refusal is looked for */
    size_t degenerate_window; /* bytes of the normalised text that are looked at */
    size_t gram;              /* words of a group */
    size_t least_words;       /* of a text that can be told to repeat its words */
    double distinct_share;    /* of groups, below which a text repeats itself */
    size_t run;               /* times one byte, from which on a text is degenerate */
} RefusalRules;

extern const RefusalRules refusal_rules;

#endif
