/* catdpo generate */
#include "catdpo/generate/run.h"

#include "catdpo/commands/cli.h"

#include <stdio.h>
#include <string.h>

/* The options, and what may be left out with them. */
static bool read_task(Run *run, Generation *x, char out[FILE_PATH], const CommandLine *line, Error *err)
{
    static const char *const data[] = { "data.path", NULL }, *const model[] = { "model.path", NULL };
    const Config *config = &run->config;
    const char *prompts = command_option(line, "--prompts"), *split = command_option(line, "--split");
    const char *named = command_option(line, "--out");
    x->model_path = command_option(line, "--model");
    if ((!prompts && !config_require(config, data, err)) || (!x->model_path && !config_require(config, model, err)))
        return false;
    if (!x->model_path) x->model_path = config->model.path;
    x->prompts_path = prompts ? prompts : config->data.path;
    x->group = split;
    if (!named && !*config->run.dir)
        return error_usage(err, "where do the answers go? Name a file with --out, or set run.dir");
    if (named)
        snprintf(out, FILE_PATH, "%s", named);
    else
        run_path(run, "samples.h5", out);
    x->out = out;
    return named || run_make_folder(run, NULL, err);
}

static bool generate(Run *run, Generation *x, const CommandLine *line, MPI_Comm world, Error *err)
{
    static const char *const nothing[] = { NULL };
    char out[FILE_PATH];
    if (!run_begin(run, line->config, line->set_count, line->sets, nothing, world, err) ||
        !read_task(run, x, out, line, err) ||
        !generation_open(x, run, command_option(line, "--overwrite") != NULL, err) || !run_watch(run, err) ||
        !generation_run(x, run, err))
        return false;
    log_info(&run->log, "answers  %s", x->out);
    return true;
}

int command_generate(const CommandLine *line, MPI_Comm world)
{
    Error err = { 0 };
    Run run = { 0 };
    Generation x = { 0 };
    int rank;
    CHECK_MPI(MPI_Comm_rank(world, &rank));
    log_open(&run.log, stderr, rank);
    if (!generate(&run, &x, line, world, &err)) log_error(&run.log, &err);
    generation_close(&x);
    run_close(&run);
    return err.exit_status;
}
