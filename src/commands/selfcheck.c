/* catdpo selfcheck FOLDER: runs the checks and prints what they found. */
#include "catdpo/commands/cli.h"
#include "catdpo/core/json.h"
#include "catdpo/selfcheck/selfcheck.h"

#include "version.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *verdict_name(CheckVerdict verdict)
{
    static const char *const names[] = { "ok", "slow", "WRONG", "skipped" };
    return names[verdict];
}

static int count(const SelfCheck *s, CheckVerdict verdict)
{
    int n = 0;
    for (int i = 0; i < s->count; i++) n += s->finding[i].verdict == verdict;
    return n;
}

/* The options of `catdpo plan` that say what was measured. */
static void print_plan_options(const SelfCheck *s, FILE *out)
{
    const MeasuredRates *r = &s->rates;
    fprintf(out, "--gflops %.4g --memory-bandwidth-gb %.3g", r->sgemm_gflops, r->memory_bandwidth / 1e9);
    if (s->nodes > 1) fprintf(out, " --bandwidth-gb %.3g --latency-us %.3g", r->bandwidth / 1e9, 1e6 * r->latency);
}

static void print_table(const SelfCheck *s, const char *folder, FILE *out)
{
    fprintf(out, "catdpo %s on %d rank%s of %d node%s, in %s\n\n", CATDPO_VERSION, s->ranks, s->ranks > 1 ? "s" : "",
            s->nodes, s->nodes > 1 ? "s" : "", folder);
    for (int i = 0; i < s->count; i++) {
        const Finding *f = &s->finding[i];
        fprintf(out, "%-8s %-16s %s\n", verdict_name(f->verdict), f->name, f->found);
        if (*f->remedy) fprintf(out, "%26s-> %s\n", "", f->remedy);
    }
    int wrong = count(s, CHECK_WRONG), slow = count(s, CHECK_SLOW);
    fprintf(out, "\n%s%d wrong, %d slow\n", wrong + slow == 0 ? "all ok: " : "", wrong, slow);
    fputs("for planning: catdpo plan CONFIG ", out);
    print_plan_options(s, out);
    fputc('\n', out);
}

static void print_json(const SelfCheck *s, const char *folder, FILE *out)
{
    const MeasuredRates *r = &s->rates;
    Json j = json_begin(out);
    json_object(&j, NULL);
    json_text(&j, "version", CATDPO_VERSION);
    json_integer(&j, "ranks", s->ranks);
    json_integer(&j, "nodes", s->nodes);
    json_text(&j, "folder", folder);
    json_bool(&j, "ok", count(s, CHECK_WRONG) == 0);
    json_array(&j, "checks");
    for (int i = 0; i < s->count; i++) {
        const Finding *f = &s->finding[i];
        json_break(&j);
        json_object(&j, NULL);
        json_text(&j, "name", f->name);
        json_text(&j, "verdict", verdict_name(f->verdict));
        json_text(&j, "found", f->found);
        json_text(&j, "remedy", f->remedy);
        json_close(&j);
    }
    json_close(&j);
    json_object(&j, "rates");
    json_number(&j, "sgemm_gflops", r->sgemm_gflops);
    json_number(&j, "psgemm_gflops", r->psgemm_gflops);
    json_number(&j, "memory_bandwidth_gb", r->memory_bandwidth / 1e9);
    json_number(&j, "latency_us", 1e6 * r->latency);
    json_number(&j, "bandwidth_gb", r->bandwidth / 1e9);
    json_number(&j, "allreduce_us", 1e6 * r->allreduce);
    json_number(&j, "write_mb", r->write / 1e6);
    json_close(&j);
    json_close(&j);
    fputc('\n', out);
}

int command_selfcheck(const CommandLine *line, MPI_Comm comm)
{
    SelfCheck *s = malloc(sizeof *s);
    Config *defaults = malloc(sizeof *defaults);
    Error err = { 0 };
    const char *asked = command_option(line, "--threads");
    char *end = "";
    long threads = asked ? strtol(asked, &end, 10) : 1;
    if (!s || !defaults) error_fault(&err, "out of memory for the table of a self-check");
    if (defaults) config_load(defaults, NULL, 0, NULL, &err);
    if (threads < 1 || threads > 1024 || *end)
        error_usage(&err, "--threads must be a number from 1 to 1024, not '%.40s'", asked);
    if (!error_agree(comm, err.exit_status == EXIT_DONE, &err)) {
        int rank;
        CHECK_MPI(MPI_Comm_rank(comm, &rank));
        if (rank == 0) fprintf(stderr, "catdpo: %s\n", err.message);
        free(s);
        free(defaults);
        return err.exit_status;
    }
    selfcheck_begin(s, comm);
    selfcheck_rates(s, (int)threads, (int)defaults->parallel.block);
    free(defaults);
    selfcheck_products(s);
    selfcheck_model(s);
    selfcheck_storage(s, line->config);
    if (s->rank == 0 && command_option(line, "--json")) print_json(s, line->config, stdout);
    if (s->rank == 0 && !command_option(line, "--json")) print_table(s, line->config, stdout);
    int status = count(s, CHECK_WRONG) > 0 ? EXIT_FAULT : EXIT_DONE;
    free(s);
    return status;
}
