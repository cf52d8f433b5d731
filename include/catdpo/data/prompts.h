/* Prompts to generate answers to: token sequences, harm categories, whether they ask for something harmful.
 *
 * P prompts, K categories. A prompt is what stands before an answer, as the chat template renders it. Each sequence
 * occurs once. Prompts are few beside pairs: every rank has all of them. */
#ifndef CATDPO_DATA_PROMPTS_H
#define CATDPO_DATA_PROMPTS_H

#include "catdpo/data/pairs.h"

enum { PROMPT_HARMFUL = 0, PROMPT_BENIGN = 1, PROMPT_UNKNOWN = 255 };

typedef struct Prompts {
    int64_t count;                        /* P >= 0 */
    int category_count;                   /* K >= 1 */
    char (*category_name)[CATEGORY_NAME]; /* [K] */
    uint8_t *category_harm;               /* [K]: the margin applies to some pair that has it */
    int64_t *offsets;                     /* [P + 1]; prompt i is tokens[offsets[i] .. offsets[i + 1]) */
    int32_t *tokens;                      /* [offsets[P]], in [0, vocab_size) */
    uint8_t *category_mask;               /* [P, K], 0 or 1, at least one 1 a row */
    uint8_t *benign;                      /* [P]: PROMPT_BENIGN, PROMPT_HARMFUL or PROMPT_UNKNOWN */
    int32_t *source_file;                 /* [P]: index into the inputs that they were prepared from */
    int64_t *source_row;                  /* [P]: 0-based row there */
    int64_t *text_offsets;                /* [P + 1]; text i is text[text_offsets[i] .. text_offsets[i + 1]) */
    uint8_t *text;                        /* UTF-8 without NULs: what is asked, without the template's marks */
    int64_t vocab_size;                   /* of the tokenizer: its largest token id + 1 */
    int64_t longest;                      /* tokens of the longest prompt; 0 if P = 0 */
    char data_digest[PAIRS_DIGEST], tokenizer_digest[PAIRS_DIGEST], template_digest[PAIRS_DIGEST];
} Prompts;

/* Checks every promise of the comments above, for arrays with the extents there, token_count tokens and text_bytes
 * bytes of text, and fills longest. An EXIT_USAGE error names `where` (file and group), array, index and remedy. Not
 * collective. */
bool prompts_check(Prompts *prompts, int64_t token_count, int64_t text_bytes, const char *where, Error *err);

/* Leaves out the prompts with keep[i] = 0; the others move up. Not collective. */
void prompts_keep(Prompts *prompts, const uint8_t *keep);

static inline const int32_t *prompts_tokens(const Prompts *prompts, int64_t i)
{
    return prompts->tokens + prompts->offsets[i];
}
static inline int prompts_length(const Prompts *prompts, int64_t i)
{
    return (int)(prompts->offsets[i + 1] - prompts->offsets[i]);
}
/* Row of the category mask, [K]. */
static inline const uint8_t *prompts_categories(const Prompts *prompts, int64_t i)
{
    return prompts->category_mask + i * prompts->category_count;
}

#endif
