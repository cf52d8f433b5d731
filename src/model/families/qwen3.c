/* Qwen3 (dense): Llama with norms of the query and key heads (qk_norm). */
#include "catdpo/model/family.h"

const Family family_qwen3 = { .name = "qwen3", .layer = llama_layer, .model = llama_model, .qk_norm = true };
