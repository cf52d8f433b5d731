/* Promises: a step is one whole line of valid JSON whatever the categories are called; numbers that are not finite are
 * null; opening again after step s drops later lines and a torn one. */
#include "catdpo/rundir/steplog.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static const char categories[3][CATEGORY_NAME] = { "violence", "a \"quoted\\\" \n\t\001name", "\xc3\xa9t\xc3\xa9" };

static void write_step(StepLog *log, int64_t step)
{
    const double margins[3] = { 0.5, NAN, -1e300 }, rates[3] = { 0, INFINITY, 0.25 };
    StepMetrics row = { .step = step,
                        .epoch = 0.1,
                        .loss = NAN,
                        .grad_norm = 1e-9,
                        .learning_rate = 5e-7,
                        .rewards_margins = 2,
                        .rewards_accuracies = 0.75,
                        .margin = margins,
                        .violation_rate = rates,
                        .step_seconds = 1.5 };
    Error err = { 0 };
    CHECK(steplog_write(log, &row, 123.5, 100, NULL, &err));
}

static char *read_file(const char *path)
{
    FILE *in = fopen(path, "rb");
    CHECK(in);
    char *text = calloc(1, 1 << 16);
    CHECK(text);
    size_t size = fread(text, 1, (1 << 16) - 1, in);
    (void)size;
    fclose(in);
    return text;
}

static int count_lines(const char *path)
{
    char *text = read_file(path);
    int lines = 0;
    for (char *c = text; *c; c++) lines += *c == '\n';
    CHECK(!*text || text[strlen(text) - 1] == '\n');
    free(text);
    return lines;
}

static void test_line(const char *path)
{
    static const char *const expected = "{\"step\":1,\"total_steps\":100,\"epoch\":0.1,\"loss\":null,\"grad_norm\":1e-"
                                        "09,\"learning_rate\":5e-07,\"tokens_per_second\":123.5,"
                                        "\"rewards/margins\":2,\"rewards/accuracies\":0.75,\"seconds\":1.5,"
                                        "\"margins\":{\"violence\":0.5,\"a \\\"quoted\\\\\\\" "
                                        "\\u000a\\u0009\\u0001name\":null,\"\xc3\xa9t\xc3\xa9\":-1e+300},"
                                        "\"violation_rate\":{\"violence\":0,\"a \\\"quoted\\\\\\\" "
                                        "\\u000a\\u0009\\u0001name\":null,\"\xc3\xa9t\xc3\xa9\":0.25}}\n";
    Error err = { 0 };
    StepLog *log = steplog_open(path, NULL, 0, 3, categories, &err);
    CHECK(log);
    write_step(log, 1);
    char *text = read_file(path); /* before the log is closed: nothing is held back */
    CHECK(strcmp(text, expected) == 0);
    free(text);
    steplog_close(log);
}

static void test_keep(const char *path)
{
    Error err = { 0 };
    StepLog *log = steplog_open(path, NULL, 0, 3, categories, &err);
    for (int step = 1; step <= 12; step++) write_step(log, step);
    steplog_close(log);
    FILE *torn = fopen(path, "a");
    fputs("{\"step\":13,\"to", torn);
    fclose(torn);

    log = steplog_open(path, NULL, 13, 3, categories, &err); /* the torn line goes */
    CHECK(log && count_lines(path) == 12);
    steplog_close(log);
    log = steplog_open(path, NULL, 9, 3, categories, &err); /* and what the next run does again */
    CHECK(log && count_lines(path) == 9);
    write_step(log, 10);
    CHECK(count_lines(path) == 10);
    steplog_close(log);
    log = steplog_open(path, NULL, 0, 3, categories, &err); /* a new run */
    CHECK(log && count_lines(path) == 0);
    steplog_close(log);
    CHECK(remove(path) == 0);
    log = steplog_open(path, NULL, 5, 3, categories, &err); /* no log yet */
    CHECK(log);
    steplog_close(log);
}

static void test_failure(const char *path)
{
    Error err = { 0 };
    CHECK(!steplog_open("/proc/no/such/folder/log.jsonl", NULL, 0, 3, categories, &err));
    CHECK(err.exit_status == EXIT_FAULT && strstr(err.message, "cannot write"));
    err = (Error){ 0 };
    StepLog *log = steplog_open(path, NULL, 0, 3, categories, &err);
    CHECK(log);
    struct rlimit unlimited, none = { 0 };
    CHECK(getrlimit(RLIMIT_FSIZE, &unlimited) == 0);
    none.rlim_max = unlimited.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &none) == 0); /* as if a quota were reached */
    StepMetrics row = { .margin = (double[3]){ 0 }, .violation_rate = (double[3]){ 0 } };
    CHECK(!steplog_write(log, &row, 0, 0, NULL, &err) && strstr(err.message, "cannot write"));
    CHECK(setrlimit(RLIMIT_FSIZE, &unlimited) == 0);
    steplog_close(log);
}

int main(void)
{
    char folder[256], path[300];
    const char *root = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/catdpo-test-XXXXXX", root ? root : P_tmpdir);
    CHECK(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/log.jsonl", folder);
    test_line(path);
    test_keep(path);
    test_failure(path);
    remove(path);
    CHECK(rmdir(folder) == 0);
    return 0;
}
