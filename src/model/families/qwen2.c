/* Qwen2 and Qwen2.5: Llama with biases on q, k and v (attention_bias). */
#include "catdpo/model/family.h"

const Family family_qwen2 = { .name = "qwen2", .layer = llama_layer, .model = llama_model, .attention_bias = true };
