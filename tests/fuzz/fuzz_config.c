/* The input up to its first NUL is a config file; the texts between NULs behind it are --set options. Promises: refused
 * with one message, or accepted and then printed as a config that gives the same settings. */
#include "fuzz.h"

#include "catdpo/config/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SETS_MOST = 8 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_start();
    return 0;
}

static void check_printed(const Config *config, const char *path)
{
    Error err = { 0 };
    Config *again = malloc(sizeof *again);
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    CHECK(again && out);
    config_print(config, out);
    CHECK(fclose(out) == 0);
    fuzz_write(path, text, size);
    fuzz_must(config_load(again, path, 0, NULL, &err), &err);
    CHECK(memcmp(config, again, sizeof *again) == 0);
    free(text);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[FILE_PATH], *sets[SETS_MOST];
    char *text = malloc(size + 1);
    Config *config = malloc(sizeof *config);
    CHECK(text && config);
    memcpy(text, data, size);
    text[size] = '\0';
    size_t length = strlen(text);
    int count = 0;
    for (size_t at = length + 1; at < size && count < SETS_MOST; at += strlen(text + at) + 1) sets[count++] = text + at;
    fuzz_write(fuzz_path(path, "spoilt.cfg"), text, length);
    Error err = { 0 };
    bool ok = config_load(config, path, count, sets, &err);
    fuzz_verdict(ok, &err);
    if (ok) check_printed(config, path);
    free(config);
    free(text);
    return 0;
}
