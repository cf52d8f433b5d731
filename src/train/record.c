/* What a step of training leaves behind. */
#include "catdpo/train/trainer.h"

#include "catdpo/core/file.h"
#include "version.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- opening ---------------------------------------------------------------------------------------------------- */

/* The settings under a name in the run directory, written in the writer's folder and renamed. On rank 0. */
static bool write_config(const Run *run, const char *name, void (*print)(const Config *config, FILE *out), Error *err)
{
    char path[FILE_PATH], unfinished[FILE_PATH], *text = NULL;
    size_t size = 0;
    run_path(run, name, path);
    FILE *stream = open_memstream(&text, &size);
    if (stream) print(&run->config, stream);
    Error why = { 0 };
    bool ok = (stream && fclose(stream) == 0) || error_fault(&why, "%s: no memory for the settings", path);
    ok = ok && file_temporary(path, writer_folder(run->writer), unfinished, sizeof unfinished, &why) &&
         file_create(unfinished, text, size, &why) && file_replace(unfinished, path, &why);
    free(text);
    return ok || error_usage(err, "%s; set run.dir to a place that you may write to and that has room", why.message);
}

enum { HOSTS = 4096 };

/* The names of all hosts, in the order of the ranks, as far as there is room for them. Collective. */
static bool list_hosts(MPI_Comm world, char text[HOSTS], Error *err)
{
    char mine[MPI_MAX_PROCESSOR_NAME + 1] = "";
    int length, ranks;
    CHECK_MPI(MPI_Get_processor_name(mine, &length));
    CHECK_MPI(MPI_Comm_size(world, &ranks));
    char(*all)[sizeof mine] = calloc((size_t)ranks, sizeof mine);
    *text = '\0';
    if (error_agree(world, all || error_fault(err, "out of memory for the names of %d hosts", ranks), err)) {
        CHECK_MPI(MPI_Allgather(mine, sizeof mine, MPI_CHAR, all, sizeof mine, MPI_CHAR, world));
        for (int r = 0; r < ranks; r++)
            if ((r == 0 || strcmp(all[r], all[r - 1]) != 0) && strlen(text) + strlen(all[r]) + 2 < HOSTS)
                strcat(strcat(text, r ? " " : ""), all[r]);
        free(all);
        return true;
    }
    free(all);
    return false;
}

static bool open_metrics(Trainer *t, const char *config, Error *err)
{
    Run *run = &t->run;
    char path[FILE_PATH], grid[LAYOUT_TEXT], mpi[MPI_MAX_LIBRARY_VERSION_STRING], started[32], hosts[HOSTS];
    int length;
    if (!list_hosts(run->world, hosts, err)) return false;
    time_t now = time(NULL);
    CHECK_MPI(MPI_Get_library_version(mpi, &length));
    mpi[strcspn(mpi, ",\n")] = '\0';
    strftime(started, sizeof started, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    layout_text(&run->layout, grid);
    run_path(run, "metrics.h5", path);
    const MetricsInfo info = {
        .folder = writer_folder(run->writer),
        .run = run->config.run.dir,
        .grid = grid,
        .version = CATDPO_VERSION,
        .mpi = mpi,
        .blas = run->blas.library,
        .hosts = hosts,
        .started = started,
        .data_digest = run->pairs.data_digest,
        .weights_digest = t->start_digest,
        .tokenizer_digest = run->pairs.tokenizer_digest,
        .settings = run->pairs.settings,
        .config = config,
        .category_count = run->pairs.category_count,
        .category_name = (const char(*)[CATEGORY_NAME])run->pairs.category_name,
        .category_harm = run->pairs.category_harm,
        .pairs_per_step = run->config.batch.pairs,
        .phase_count = PHASES,
        .phase_name = phase_name,
        .partial_unit = margin_unit(&t->margins),
        .parameters = run_parameters(run),
        .trainable_parameters = run->model.trained->logical,
        .sgemm_gflops = run->blas.gflops,
        .capacity = run->config.metrics.flush_steps,
    };
    t->metrics = t->step > 0 ? metrics_resume(path, &info, t->step, run->world, err)
                             : metrics_create(path, &info, run->world, err);
    if (!t->metrics) return false;
    run_path(run, "log.jsonl", path);
    if (run->rank == 0)
        t->log = steplog_open(path, writer_folder(run->writer), t->step, run->pairs.category_count,
                              (const char(*)[CATEGORY_NAME])run->pairs.category_name, err);
    if (!error_agree(run->world, run->rank > 0 || t->log, err)) return false;
    if (t->log)
        health_begin(&t->health, &run->config, t->total_steps, steplog_first_loss(t->log),
                     steplog_first_grad_norm(t->log));
    return true;
}

bool record_open(Trainer *t, Error *err)
{
    Run *run = &t->run;
    char *text = config_text(&run->config);
    bool ok = error_agree(run->world, text || error_fault(err, "out of memory for the settings"), err) &&
              run_make_folder(run, "checkpoints", err);
    bool written = run->rank > 0 || (ok && write_config(run, "config.cfg", config_print, err) &&
                                     write_config(run, "config.json", config_print_json, err));
    ok = ok && error_agree(run->world, written, err) && open_metrics(t, text, err);
    free(text);
    return ok;
}

/* Seconds since 1970. */
static double wall_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- a step ----------------------------------------------------------------------------------------------------- */

static int64_t tokens_of_step(const Trainer *t)
{
    int64_t tokens = 0;
    for (int i = 0; i < t->pair_count; i++)
        tokens += pairs_length(&t->run.pairs, PAIR_CHOSEN, t->pair[i]) +
                  pairs_length(&t->run.pairs, PAIR_REJECTED, t->pair[i]);
    return tokens;
}

bool record_step(Trainer *t, StepMetrics *row, Error *err)
{
    Run *run = &t->run;
    row->epoch = (double)t->step / (double)t->sampler.steps_per_epoch;
    row->num_tokens = t->num_tokens;
    row->violation_rate = t->margins.violation_rate;
    row->standard_error = t->margins.standard_error;
    row->probe_n = t->probed ? t->probe.n : NULL;
    row->probe_violations = t->probed ? t->probe.violations : NULL;
    row->pair_index = t->pair;
    for (int side = 0; side < PAIR_SIDES; side++) {
        row->pair_logps[side] = t->logps[side];
        row->pair_ref_logps[side] = t->ref_logps[side];
    }
    row->wall_time = wall_time();
    row->step_seconds = timer_read(run->timer, t->phase_seconds);
    row->phase_seconds = t->phase_seconds;
    row->step_flops = run->grid.flops;
    CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &row->step_flops, 1, MPI_DOUBLE, MPI_SUM, run->grid.replica_comm));
    run->grid.flops = 0;
    timer_reset(run->timer);

    timer_start(run->timer, PHASE_OUTPUT); /* counted in the next step's time */
    double rate =
        (double)tokens_of_step(t) / (row->step_seconds - t->phase_seconds[PHASE_PROBE] - t->phase_seconds[PHASE_JUDGE]);
    metrics_append(t->metrics, row);
    char warning[HEALTH_TEXT];
    bool news, warned = t->log && health_step(&t->health, row, run->pairs.category_count, warning, &news);
    if (warned && news) log_warn(&run->log, "step %" PRId64 ": %s", t->step, warning);
    bool ok = !t->log || steplog_write(t->log, row, rate, t->total_steps, warned ? warning : NULL, err);
    int worst = margin_worst(&t->margins);
    progress_update(&t->progress, t->step,
                    &(ProgressFields){ .loss = row->loss,
                                       .tokens_per_second = rate,
                                       .worst = worst < 0 ? NULL : run->pairs.category_name[worst],
                                       .worst_rate = worst < 0 ? NAN : t->margins.violation_rate[worst] });
    timer_stop(run->timer);
    return ok;
}
