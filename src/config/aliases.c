/* Names that people know from transformers, TRL and the like: they are no second way to write a setting, but the
 * message that refuses one names the right key. */
#include "catdpo/config/options.h"

#include <string.h>
#include <strings.h>

const OptionAlias option_aliases[] = {
    { "lr", "optimizer.learning_rate", NULL },
    { "learning_rate", "optimizer.learning_rate", NULL },
    { "adam_beta1", "optimizer.beta1", NULL },
    { "adam_beta2", "optimizer.beta2", NULL },
    { "adam_epsilon", "optimizer.epsilon", NULL },
    { "eps", "optimizer.epsilon", NULL },
    { "weight_decay", "optimizer.weight_decay", NULL },
    { "max_grad_norm", "optimizer.max_grad_norm", NULL },
    { "gradient_clipping", "optimizer.max_grad_norm", NULL },
    { "clip_grad", "optimizer.max_grad_norm", NULL },
    { "per_device_train_batch_size", "batch.pairs", "pairs of a whole step, over all ranks" },
    { "train_batch_size", "batch.pairs", "pairs of a whole step, over all ranks" },
    { "batch_size", "batch.pairs", "pairs of a whole step, over all ranks" },
    { "micro_batch_size", "batch.max_tokens", "tokens of a pass" },
    { "gradient_accumulation_steps", "batch.accumulation", "passes that the batch.pairs of a step are cut into" },
    { "num_train_epochs", "schedule.epochs", NULL },
    { "num_epochs", "schedule.epochs", NULL },
    { "max_steps", "schedule.steps", NULL },
    { "warmup_ratio", "schedule.warmup", NULL },
    { "warmup_steps", "schedule.warmup", "as a part of the steps" },
    { "lr_scheduler_type", "schedule.type", NULL },
    { "lr_scheduler", "schedule.type", NULL },
    { "loss_type", "objective.type", "sigmoid is dpo" },
    { "rpo_alpha", "objective.sft_weight", NULL },
    { "simpo_gamma", "objective.simpo_gamma", NULL },
    { "gamma_beta_ratio", "objective.simpo_gamma", "times objective.beta" },
    { "cpo_alpha", "objective.sft_weight", NULL },
    { "model_name_or_path", "model.path", "a model.h5, made by catdpo-analysis import" },
    { "ref_model", "reference.model", NULL },
    { "dataset_name", "data.path", "a pairs.h5, made by catdpo-analysis prepare" },
    { "train_file", "data.path", "a pairs.h5, made by catdpo-analysis prepare" },
    { "output_dir", "run.dir", NULL },
    { "save_steps", "checkpoint.steps", NULL },
    { "save_total_limit", "checkpoint.keep", NULL },
    { "logging_steps", "metrics.flush_steps", "of metrics.h5; log.jsonl has every step" },
    { "gradient_checkpointing", "engine.recompute", NULL },
    { "tensor_parallel_size", "parallel.grid", "[rows, columns]" },
    { "resume_from_checkpoint", NULL, "catdpo train CONFIG --resume goes on from the newest checkpoint" },
    { "max_length", NULL, "sequences are cut by catdpo-analysis prepare --max-length" },
    { "max_seq_length", NULL, "sequences are cut by catdpo-analysis prepare --max-length" },
    { "max_prompt_length", NULL, "sequences are cut by catdpo-analysis prepare --max-length" },
    { "lora_r", "lora.rank", NULL },
    { "r", "lora.rank", NULL },
    { "lora_alpha", "lora.alpha", NULL },
    { "target_modules", "lora.target_modules", "names in one string, with commas between" },
    { "lora_target_modules", "lora.target_modules", "names in one string, with commas between" },
    { "layers_to_transform", "lora.layers", "numbers and ranges in one string" },
    { "use_peft", "lora.rank", "above 0" },
    { "lora_dropout", NULL, "adapters have no dropout" },
    { "use_rslora", "lora.alpha", "times the root of the rank" },
    { "bf16", NULL, "everything is computed in float32" },
    { "fp16", NULL, "everything is computed in float32" },
    { 0 },
};

const OptionAlias *option_alias(const char *key)
{
    const char *point = strrchr(key, '.'), *name = point ? point + 1 : key;
    for (const OptionAlias *a = option_aliases; a->name; a++)
        if (strcasecmp(a->name, key) == 0 || strcasecmp(a->name, name) == 0) return a;
    return NULL;
}
