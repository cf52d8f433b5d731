#include "catdpo/model/family.h"

#include <stdio.h>
#include <string.h>

static const Family *const families[] = { &family_llama, &family_mistral, &family_qwen2,
                                          &family_qwen3, &family_gemma3,  &family_olmo2 };
enum { FAMILIES = sizeof families / sizeof *families };

const Family *family_find(const char *name)
{
    for (int i = 0; i < FAMILIES; i++)
        if (strcmp(families[i]->name, name) == 0) return families[i];
    return NULL;
}

char *family_names(char *text, size_t size)
{
    size_t used = 0;
    for (int i = 0; i < FAMILIES && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i > 0 ? ", " : "", families[i]->name);
    return text;
}
