#include "sample_files.h"

#include <string.h>

/* Rows of a table for one group; without `first` only those that lie in the group itself. */
static bool write_group(H5File *file, const Format *format, const char *group, bool first, unsigned tags,
                        const void *values, const int64_t lengths[], Error *err)
{
    GroupFormat rows;
    int kept = 0;
    format_of_group(&rows, format, group, tags);
    for (const Field *f = rows.field; f->kind != FIELD_END; f++)
        if (first || strncmp(f->object, rows.group, strlen(rows.group)) == 0) rows.field[kept++] = *f;
    rows.field[kept] = (Field){ .kind = FIELD_END };
    return fields_write(file, &rows.format, values, lengths, err);
}

bool sample_pairs(H5File *file, const char *group, bool first, const Pairs *pairs, const PairsShape *shape, Error *err)
{
    int64_t lengths[PAIRS_AXES];
    unsigned tags = 1u << PAIRS_HEAD | 1u << PAIRS_ARRAYS | (shape->has_segments ? 1u << PAIRS_SEGMENTED : 0) |
                    (shape->score_count > 0 ? 1u << PAIRS_SCORED : 0);
    pairs_lengths(shape, lengths);
    return write_group(file, &pairs_format, group, first, tags, pairs, lengths, err);
}

bool sample_prompts(H5File *file, const char *group, bool first, const Prompts *prompts, const SampleShape *shape,
                    Error *err)
{
    const int64_t lengths[PROMPTS_AXES] = { [PROMPTS_CATEGORY] = shape->categories,
                                            [PROMPTS_PROMPT] = shape->rows,
                                            [PROMPTS_BOUND] = shape->rows + 1,
                                            [PROMPTS_TOKEN] = shape->tokens,
                                            [PROMPTS_BYTE] = shape->bytes };
    return write_group(file, &prompts_format, group, first, ~0u, prompts, lengths, err);
}

MetricsInfo sample_metrics(int categories, const char (*name)[CATEGORY_NAME], const uint8_t *harm, int64_t pairs_a_step,
                           int phases, const char *const *phase)
{
    return (MetricsInfo){ .run = "r",
                          .grid = "1x1x1",
                          .version = "v",
                          .mpi = "m",
                          .blas = "b",
                          .hosts = "h",
                          .started = "s",
                          .data_digest = "d",
                          .weights_digest = "w",
                          .tokenizer_digest = "t",
                          .settings = "s",
                          .config = "a = 1;\n",
                          .category_count = categories,
                          .category_name = name,
                          .category_harm = harm,
                          .pairs_per_step = pairs_a_step,
                          .phase_count = phases,
                          .phase_name = phase,
                          .partial_unit = 0.5 };
}

StepMetrics sample_step(int64_t step, const double *reals, const int64_t *counts)
{
    return (StepMetrics){ .step = step,
                          .margin = reals,
                          .violation_rate = reals,
                          .n = counts,
                          .violations = reals,
                          .pairs = counts,
                          .category_rewards_margins = reals,
                          .category_accuracy = reals,
                          .category_loss = reals,
                          .coefficient_share = reals,
                          .saturation = reals,
                          .standard_error = reals,
                          .clean_violations = reals,
                          .attacked_violations = reals,
                          .partial_n = counts,
                          .partial_violations = counts,
                          .pair_index = counts,
                          .pair_logps = { reals, reals },
                          .pair_ref_logps = { reals, reals },
                          .phase_seconds = reals };
}
