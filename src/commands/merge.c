/* catdpo merge */
#include "catdpo/commands/cli.h"
#include "catdpo/core/file.h"
#include "catdpo/core/stop.h"
#include "catdpo/files/foreign.h"
#include "catdpo/files/merge_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "0.3,0.7"; without a text all are equal. */
static bool read_weights(MergeSources *from, const char *text, Error *err)
{
    int count = 0;
    double sum = 0;
    for (int i = 0; !text && i < from->count; i++) from->weight[i] = 1.0 / from->count;
    if (!text) return true;
    for (const char *at = text; at; count++) {
        char *end;
        double weight = strtod(at, &end);
        if (end == at || (*end && *end != ',') || !isfinite(weight))
            return error_usage(err, "--weights %.100s is not a list of numbers such as 0.3,0.7", text);
        if (count < from->count) from->weight[count] = weight;
        sum += weight;
        at = *end ? end + 1 : NULL;
    }
    if (count != from->count)
        return error_usage(err, "--weights has %d numbers for %d models: one each, in their order", count, from->count);
    return fabs(sum - 1) <= 1e-9 ||
           error_usage(err, "the numbers of --weights %.100s add up to %.10g, not to 1", text, sum);
}

static bool read_task(MergeSources *from, const char **out, const CommandLine *line, int rank, Error *err)
{
    *out = command_option(line, "--out");
    from->count = line->file_count;
    if (from->count < 2 || from->count > MERGE_MODELS)
        return error_usage(err, "merge takes 2 to %d models, not %d: catdpo merge A.h5 B.h5 --out C.h5", MERGE_MODELS,
                           from->count);
    if (!*out) return error_usage(err, "where does the merged model go? Name a file with --out");
    for (int i = 0; i < from->count; i++) {
        int length = snprintf(from->model[i], sizeof from->model[i], "%s", line->files[i]);
        if (length >= (int)sizeof from->model[i])
            return error_usage(err, "the name %.100s... is too long", line->files[i]);
        if (rank == 0 && !foreign_refuse(from->model[i], FOREIGN_MODEL, err)) return false;
    }
    if (rank == 0 && access(*out, F_OK) == 0 && !command_option(line, "--overwrite"))
        return error_usage(err, "%s is there already: choose another name, or say --overwrite", *out);
    return read_weights(from, command_option(line, "--weights"), err) && (rank > 0 || file_check_target(*out, err));
}

int command_merge(const CommandLine *line, MPI_Comm world)
{
    Error err = { 0 };
    Log log;
    MergeSources *from = calloc(1, sizeof *from);
    const char *out = NULL;
    char digest[WEIGHTS_DIGEST];
    int rank;
    CHECK_MPI(MPI_Comm_rank(world, &rank));
    log_open(&log, stderr, rank);
    stop_catch();
    bool ok = from ? read_task(from, &out, line, rank, &err) : error_fault(&err, "out of memory at the start");
    if (error_agree(world, ok, &err) &&
        models_merge(out, from, command_option(line, "--unrelated") != NULL, &log, digest, world, &err)) {
        for (int i = 0; i < from->count; i++)
            log_info(&log, "%-8s %g of %s, weights %s", i == 0 ? "merged" : "", from->weight[i], from->model[i],
                     from->digest[i]);
        log_info(&log, "model    %s, weights %s", out, digest);
    } else {
        log_error(&log, &err);
    }
    log_close(&log);
    free(from);
    return err.exit_status;
}
