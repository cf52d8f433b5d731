/* The table of objectives, and the settings that they share. A new objective is a file in losses/ and a row here. */
#include "losses/losses.h"

#include <math.h>
#include <string.h>

static const Objective *const table[] = { &objective_catdpo, &objective_safedpo, &objective_dpo };
enum { OBJECTIVES = sizeof table / sizeof *table };

#define AT(field) offsetof(ObjectiveSettings, field)

static const OptionChoices types = { .row = objective_choice };

static const Option options[] = {
    { "objective.type", OPTION_CHOICE, AT(type), "\"catdpo\"", NULL, &types, "" },
    { "objective.beta", OPTION_FLOAT, AT(beta), "0.1", "(0, inf)", NULL,
      "Strength of the pull towards the reference, per nat." },
};
enum { OPTIONS = sizeof options / sizeof *options };

const Objective *objective_of(const ObjectiveSettings *settings) { return table[settings->type]; }

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

double softplus(double t) { return fmax(t, 0) + log1p(exp(-fabs(t))); }

double sigmoid(double t)
{
    double e = exp(-fabs(t));
    return t < 0 ? e / (1 + e) : 1 / (1 + e);
}
