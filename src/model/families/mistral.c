/* Mistral. */
#include "catdpo/model/family.h"

const Family family_mistral = { .name = "mistral", .layer = llama_layer, .model = llama_model };
