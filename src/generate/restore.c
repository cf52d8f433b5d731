/* Answers of an unfinished samples.h5. What is in it was written by somebody: it is looked at before it is used. */
#include "catdpo/generate/run.h"

#include <inttypes.h>

/* An answer of tokens of the vocabulary that ends where, and because, the generator would have ended it. */
static bool is_possible(const Generator *g, int64_t prompt, const int32_t *token, int64_t length, Finish finish)
{
    if (length > g->limits.max_tokens) return false;
    for (int i = 0; i < length; i++)
        if (token[i] < 0 || token[i] >= g->model->architecture.vocab ||
            generator_finish(g, prompt, token, i) != FINISH_NONE)
            return false;
    return finish != FINISH_NONE && generator_finish(g, prompt, token, (int)length) == finish;
}

bool restore_answers(Generator *g, const Samples *s, const char *path, Error *err)
{
    const Grid *grid = g->grid;
    if (s->prompt_count != g->prompts->count || s->samples != g->limits.samples)
        return error_usage(err,
                           "%s holds %" PRId64 " answers to each of %" PRId64 " prompts, which its settings deny: "
                           "damaged; replace it with --overwrite",
                           path, s->samples, s->prompt_count);
    for (int64_t i = 0; i < s->count; i++) {
        int64_t at = s->offset[i], length = s->offset[i + 1] - at, prompt = s->prompt[i];
        if (!is_possible(g, prompt, s->token + at, length, (Finish)s->finish[i]))
            return error_usage(err,
                               "%s: answer %d to prompt %" PRId64 " is none of this model with these settings (%" PRId64
                               " tokens): damaged; replace it with --overwrite",
                               path, s->sample[i], prompt, length);
        if (prompt % grid->replicas == grid->replica &&
            !generator_restore(g, prompt, s->sample[i], (int)length, (Finish)s->finish[i], s->token + at, s->logp + at,
                               s->entropy + at, err))
            return false;
    }
    return true;
}
