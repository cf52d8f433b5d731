/* Where the weights that a run trains come from: the model's own, or adapters of a frozen one. */
#include "catdpo/train/trainer.h"

#include <string.h>

static bool trains_adapters(const Trainer *t) { return t->run.config.lora.rank > 0; }

bool weights_identify(Trainer *t, Error *err)
{
    Run *run = &t->run;
    const Config *config = &run->config;
    memcpy(t->base_digest, run->model_info.weights_digest, WEIGHTS_DIGEST);
    memcpy(t->start_digest, t->base_digest, WEIGHTS_DIGEST);
    if (!trains_adapters(t)) return true;
    const AdapterInfo *adapter = &run->model_info.adapter;
    if (adapter->settings.rank > 0)
        return error_usage(err,
                           "%s holds an adapter itself: to go on training it set model.path to its base, %s, and "
                           "lora.adapter to the file; for a new one on top of it export it merged and import that",
                           config->model.path, adapter->base);
    if (!*config->lora.adapter) return true;
    H5File file;
    ModelInfo info;
    if (!model_file_open(&file, config->lora.adapter, &info, run->world, err)) return false;
    h5_close(&file);
    memcpy(t->start_digest, info.weights_digest, WEIGHTS_DIGEST);
    return true;
}

/* The frozen model, unless it is the one that has just computed the reference. */
static bool load_base(Trainer *t, Error *err)
{
    Run *run = &t->run;
    return strcmp(run->loaded_digest, t->base_digest) == 0 || run_load_model(run, run->config.model.path, err);
}

bool weights_start(Trainer *t, Error *err)
{
    Run *run = &t->run;
    const Config *config = &run->config;
    if (!trains_adapters(t)) return run_load_model(run, config->model.path, err);
    if (!load_base(t, err)) return false;
    if (!*config->lora.adapter)
        adapters_start(&run->model.adapters, (uint64_t)config->run.seed, run->model.trained_weights);
    else if (!run_load_adapter(run, config->lora.adapter, t->base_digest, err))
        return false;
    transformer_use_adapters(&run->model, true);
    return true;
}

bool weights_resume(Trainer *t, const char *checkpoint, Error *err)
{
    Run *run = &t->run;
    if (!trains_adapters(t)) return run_load_model(run, checkpoint, err);
    if (!load_base(t, err) || !run_load_adapter(run, checkpoint, t->base_digest, err)) return false;
    transformer_use_adapters(&run->model, true);
    return true;
}
