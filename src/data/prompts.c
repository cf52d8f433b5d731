/* What must hold of prompts. */
#include "catdpo/data/prompts.h"

#include <inttypes.h>
#include <string.h>

#define REMEDY "; prepare it again with catdpo-analysis prepare"

/* Offsets into `total` elements of `what`, of rows that have at least `least` of them. */
static bool check_offsets(const int64_t *offsets, int64_t count, int64_t total, int64_t least, const char *where,
                          const char *what, Error *err)
{
    if (offsets[0] != 0 || offsets[count] != total) {
        return error_usage(err, "%s/%s: goes from %" PRId64 " to %" PRId64 " of %" PRId64 REMEDY, where, what,
                           offsets[0], offsets[count], total);
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t begin = offsets[i], end = offsets[i + 1];
        if (end < begin || end > total || end - begin < least || end - begin > INT32_MAX)
            return error_usage(err, "%s/%s: entry %" PRId64 " is %" PRId64 ", after %" PRId64 " of %" PRId64 REMEDY,
                               where, what, i + 1, end, begin, total);
    }
    return true;
}

static bool check_tokens(const Prompts *prompts, int64_t token_count, const char *where, Error *err)
{
    for (int64_t i = 0; i < token_count; i++) {
        if (prompts->tokens[i] < 0 || prompts->tokens[i] >= prompts->vocab_size)
            return error_usage(err,
                               "%s/tokens: entry %" PRId64 " is %d, outside the vocabulary of %" PRId64
                               " tokens" REMEDY,
                               where, i, prompts->tokens[i], prompts->vocab_size);
    }
    return true;
}

static bool check_flags(const Prompts *prompts, const char *where, Error *err)
{
    for (int64_t i = 0; i < prompts->count; i++) {
        const uint8_t *row = prompts_categories(prompts, i);
        if (!memchr(row, 1, (size_t)prompts->category_count))
            return error_usage(err, "%s/category_mask: prompt %" PRId64 " has no category" REMEDY, where, i);
        uint8_t benign = prompts->benign[i];
        if (benign != PROMPT_BENIGN && benign != PROMPT_HARMFUL && benign != PROMPT_UNKNOWN)
            return error_usage(err, "%s/benign: entry %" PRId64 " is %d, not 0, 1 or 255" REMEDY, where, i, benign);
    }
    return true;
}

bool prompts_check(Prompts *prompts, int64_t token_count, int64_t text_bytes, const char *where, Error *err)
{
    const uint8_t *nul = text_bytes > 0 ? memchr(prompts->text, 0, (size_t)text_bytes) : NULL;
    if (!check_offsets(prompts->offsets, prompts->count, token_count, 1, where, "offsets", err) ||
        !check_offsets(prompts->text_offsets, prompts->count, text_bytes, 0, where, "text_offsets", err) ||
        !check_tokens(prompts, token_count, where, err) || !check_flags(prompts, where, err))
        return false;
    if (nul) return error_usage(err, "%s/text: byte %" PRId64 " is NUL" REMEDY, where, (int64_t)(nul - prompts->text));
    prompts->longest = 0;
    for (int64_t i = 0; i < prompts->count; i++)
        if (prompts_length(prompts, i) > prompts->longest) prompts->longest = prompts_length(prompts, i);
    return true;
}

/* Rows [offsets[i], offsets[i + 1]) of `width` bytes an element move up to `to`; returns where the next ones go. */
static int64_t move_up(void *elements, size_t width, int64_t to, const int64_t *offsets, int64_t i)
{
    char *base = elements;
    int64_t length = offsets[i + 1] - offsets[i];
    memmove(base + (size_t)to * width, base + (size_t)offsets[i] * width, (size_t)length * width);
    return to + length;
}

void prompts_keep(Prompts *p, const uint8_t *keep)
{
    int64_t kept = 0, tokens = 0, bytes = 0;
    size_t k = (size_t)p->category_count;
    p->longest = 0;
    for (int64_t i = 0; i < p->count; i++) {
        if (!keep[i]) continue;
        int64_t next_token = move_up(p->tokens, sizeof *p->tokens, tokens, p->offsets, i);
        int64_t next_byte = move_up(p->text, 1, bytes, p->text_offsets, i);
        memmove(p->category_mask + (size_t)kept * k, p->category_mask + (size_t)i * k, k);
        p->benign[kept] = p->benign[i];
        p->source_file[kept] = p->source_file[i];
        p->source_row[kept] = p->source_row[i];
        /* the ends of kept prompts lie before those of the prompts that are still to come */
        if (next_token - tokens > p->longest) p->longest = next_token - tokens;
        p->offsets[kept] = tokens;
        p->text_offsets[kept] = bytes;
        tokens = next_token, bytes = next_byte, kept++;
    }
    p->offsets[kept] = tokens;
    p->text_offsets[kept] = bytes;
    p->count = kept;
}
