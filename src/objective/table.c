/* The table of objectives and their settings. A new objective is a file in losses/ and a row here. */
#include "losses/losses.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const Objective *const table[] = {
    &objective_catdpo, &objective_safedpo, &objective_dpo,   &objective_ipo,   &objective_hinge,
    &objective_cdpo,   &objective_robust,  &objective_simpo, &objective_orpo,  &objective_kto,
    &objective_bfpo,   &objective_modpo,   &objective_grdpo, &objective_awdpo, &objective_moodpo,
};
enum { OBJECTIVES = sizeof table / sizeof *table };

#define AT(field) offsetof(ObjectiveSettings, field)

static const OptionChoices types = { .row = objective_choice };

static const OptionChoices score_forms = { .names = (const char *const[]){ "scalarised", "terms", NULL } };
static const OptionChoices segment_forms = { .names = (const char *const[]){ "outside", "inside", NULL } };

static const Option options[] = {
    { "objective.type", OPTION_CHOICE, AT(type), "\"catdpo\"", NULL, &types, "" },
    { "objective.beta", OPTION_FLOAT_OR_AUTO, AT(beta), "\"auto\"", "(0, inf)", NULL,
      "Strength of the pull towards the reference, per nat; auto: what is usual for the objective, 0.1 for most, "
      "2.0 for simpo, 0.01 for bfpo." },
    { "objective.margins", OPTION_BOOL, AT(margins), "false", NULL, NULL,
      "the loss carries the margins of the group margin, as it always does with catdpo and safedpo." },
    { "objective.sft_weight", OPTION_FLOAT, AT(sft_weight), "0.0", "[0, inf)", NULL,
      "Adds this times the chosen completion's negative log-probability, mean over its tokens, to any objective." },
    { "objective.label_smoothing", OPTION_FLOAT, AT(label_smoothing), "0.1", "[0, 0.5)", NULL,
      "share of pairs whose label is taken to be wrong." },
    { "objective.length_average", OPTION_BOOL, AT(length_average), "true", NULL, NULL,
      "divide each side's log-ratio by its tokens, as TRL does; false: sums, as in the paper's formula." },
    { "objective.simpo_gamma", OPTION_FLOAT, AT(simpo_gamma), "0.5", "[0, inf)", NULL,
      "target margin of the reward, in units of beta times nats a token." },
    { "objective.desirable_weight", OPTION_FLOAT, AT(desirable_weight), "1.0", "[0, inf)", NULL,
      "weight of the chosen responses' losses." },
    { "objective.undesirable_weight", OPTION_FLOAT, AT(undesirable_weight), "1.0", "[0, inf)", NULL,
      "weight of the rejected responses' losses." },
    { "objective.bfpo_alpha", OPTION_FLOAT, AT(bfpo_alpha), "0.5", "[0, inf)", NULL,
      "what is taken off every target." },
    { "objective.bfpo_ratio", OPTION_FLOAT, AT(bfpo_ratio), "3.0", "(1, inf)", NULL,
      "how much more the chosen response's safety counts for the target than the rejected one's." },
    { "objective.modpo_model", OPTION_TEXT, AT(modpo_model), "\"\"", NULL, NULL,
      "model (model.h5 or a checkpoint) that was trained on the other objective. Required by modpo." },
    { "objective.modpo_weight", OPTION_FLOAT, AT(modpo_weight), "0.5", "(0, 1]", NULL,
      "weight of the pairs' own objective; the other one has the rest." },
    { "objective.modpo_beta", OPTION_FLOAT, AT(modpo_beta), "0.1", "(0, inf)", NULL,
      "beta that objective.modpo_model was trained with." },
    { "objective.group_step", OPTION_FLOAT, AT(group_step), "0.01", "[0, inf)", NULL,
      "what a category's mean loss in a step adds to the logarithm of its weight, times this." },
    { "objective.segment_form", OPTION_CHOICE, AT(segment_form), "\"outside\"", NULL, &segment_forms,
      "where the segments' weights stand: outside of a loss each, as published, or inside of one." },
    { "objective.score_form", OPTION_CHOICE, AT(score_form), "\"scalarised\"", NULL, &score_forms,
      "how several scores make a loss: one term on the response with the larger weighted sum, or a term for each "
      "score, "
      "whose dissent bounds the margin." },
};
enum { OPTIONS = sizeof options / sizeof *options };

const Objective *objective_of(const ObjectiveSettings *settings) { return table[settings->type]; }

MarginUse objective_margins(const ObjectiveSettings *settings)
{
    MarginUse use = objective_of(settings)->margins;
    return use != MARGINS_OPTIONAL ? use : settings->margins ? MARGINS_ADAPTIVE : MARGINS_NONE;
}

int objective_find(const char *name)
{
    for (int i = 0; i < OBJECTIVES; i++)
        if (strcmp(table[i]->name, name) == 0) return i;
    return -1;
}

OptionChoice objective_choice(int index)
{
    return index < OBJECTIVES ? (OptionChoice){ table[index]->name, table[index]->help } : (OptionChoice){ NULL, NULL };
}

const Option *objective_option(int index) { return index < OPTIONS ? &options[index] : NULL; }

bool objective_reads(int index, const char *key)
{
    static const char *const all[] = { "objective.type", "objective.beta", "objective.sft_weight", NULL };
    const Objective *row = table[index];
    if (strcmp(key, "objective.margins") == 0) return row->margins != MARGINS_NONE && row->margins != MARGINS_GROUPS;
    for (int i = 0; all[i]; i++)
        if (strcmp(key, all[i]) == 0) return true;
    for (int i = 0; row->settings && row->settings[i]; i++)
        if (strcmp(key, row->settings[i]) == 0) return true;
    return false;
}

void objective_resolve(ObjectiveSettings *settings)
{
    if (isnan(settings->beta)) settings->beta = objective_of(settings)->beta;
}
