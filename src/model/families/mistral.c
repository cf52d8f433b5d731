/* Mistral. */
#include "catdpo/model/family.h"

const Family family_mistral = { "mistral", llama_layer };
