/* Promises: a setting reaches Config from the default, the file or --set, in that precedence; the resolved config reads
 * back to the same bytes; configs/default.cfg and the help name every key and cannot drift from the table; each
 * malformed config gives exactly one message that names file and line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "catdpo/core/log.h"
#include "catdpo/config/config.h"
#include "catdpo/config/options.h"

/* Read by AddressSanitizer's leak checker: libconfig 1.5 loses a string that stands where none may. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libconfig"; }

static char folder[] = "test-config-XXXXXX";

/* A file of that name in the test's own folder; the path is valid until the next call with the same name's buffer. */
static const char *write_file(const char *name, const char *text)
{
    static char paths[8][128];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

static Config load(const char *text, int set_count, char *const sets[])
{
    Config config;
    Error err = { 0 };
    bool ok = config_load(&config, text ? write_file("run.cfg", text) : NULL, set_count, sets, &err);
    if (!ok) fail_msg("refused: %s", err.message);
    assert_int_equal(err.exit_status, EXIT_DONE);
    return config;
}

/* The message of a config that must be refused as the user's mistake, a line for each of them. */
static const char *refusals(const char *text, const char *set)
{
    static Error err;
    err = (Error){ 0 };
    Config config;
    char *sets[] = { (char *)set };
    bool ok = config_load(&config, text ? write_file("run.cfg", text) : NULL, set ? 1 : 0, sets, &err);
    if (ok) fail_msg("accepted: %s %s", text ? text : "", set ? set : "");
    assert_int_equal(err.exit_status, EXIT_USAGE);
    return err.message;
}

/* Of one mistake. */
static const char *refusal(const char *text, const char *set)
{
    const char *message = refusals(text, set);
    if (strchr(message, '\n')) fail_msg("more than one line: %s", message);
    return message;
}

static void assert_says(const char *message, const char *words)
{
    if (!strstr(message, words)) fail_msg("'%s' does not say '%s'", message, words);
}

static void defaults_hold_without_a_file(void **state)
{
    (void)state;
    Config c = load(NULL, 0, NULL);
    assert_true(c.objective.type == objective_find("catdpo") && c.objective.beta == 0.1);
    assert_true(c.optimizer.learning_rate == 1e-6 && c.optimizer.beta2 == 0.999 && c.optimizer.epsilon == 1e-8);
    assert_true(c.margin.max == 10 && c.margin.target == 0.2 && c.margin.averaging == 0.02 && c.margin.tie == 1e-3);
    assert_true(c.margin.signal == SIGNAL_LIKELIHOOD && !c.margin.soft && c.margin.interval == 1);
    assert_true(c.batch.pairs == 8 && c.batch.max_tokens == 4096 && c.batch.share_prompt);
    assert_true(c.schedule.type == SCHEDULE_LINEAR && c.schedule.warmup == 0.1 && c.schedule.epochs == 1 &&
                c.schedule.steps == 0);
    assert_true(c.parallel.grid[0] == 0 && c.parallel.grid[1] == 0 && c.parallel.replicas == 0 &&
                c.parallel.block == 256);
    assert_true(c.checkpoint.final && c.metrics.flush_steps == 50 && !c.engine.recompute);
    assert_string_equal(c.data.heldout, "heldout");
    assert_string_equal(c.run.dir, "");
}

static void every_field_has_exactly_one_option(void **state)
{
    (void)state;
    Config config;
    for (int a = 0; a < option_count(); a++) {
        const Option *option = option_at(a);
        int groups = 0;
        for (int g = 0; g < option_group_count; g++) groups += option_in_group(option, &option_groups[g]);
        assert_int_equal(groups, 1);
        bool number = option->type == OPTION_INT || option->type == OPTION_FLOAT ||
                      option->type == OPTION_FLOAT_OR_AUTO || option->type == OPTION_MINUTES ||
                      option->type == OPTION_GRID || option->type == OPTION_COUNT_OR_AUTO;
        assert_true(number == (option->bounds != NULL));
        assert_true((option->type == OPTION_CHOICE) == (option->choices != NULL));
        for (int b = 0; b < a; b++) {
            assert_ptr_not_equal(option_value(option, &config), option_value(option_at(b), &config));
            assert_string_not_equal(option->key, option_at(b)->key);
        }
    }
}

static void choices_follow_the_enums(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        size_t offset;
        int value;
    } cases[] = {
        { "margin.scope=global", offsetof(Config, margin.scope), SCOPE_GLOBAL },
        { "margin.scope=fixed", offsetof(Config, margin.scope), SCOPE_FIXED },
        { "margin.aggregation=mean", offsetof(Config, margin.aggregation), AGGREGATE_MEAN },
        { "margin.aggregation=sum", offsetof(Config, margin.aggregation), AGGREGATE_SUM },
        { "margin.signal=reward", offsetof(Config, margin.signal), SIGNAL_REWARD },
        { "margin.signal=margin", offsetof(Config, margin.signal), SIGNAL_MARGIN },
        { "batch.sampling=balanced", offsetof(Config, batch.sampling), SAMPLING_BALANCED },
        { "batch.sampling=sequential", offsetof(Config, batch.sampling), SAMPLING_SEQUENTIAL },
        { "schedule.type=constant", offsetof(Config, schedule.type), SCHEDULE_CONSTANT },
        { "schedule.type=cosine", offsetof(Config, schedule.type), SCHEDULE_COSINE },
        { "run.progress=bar", offsetof(Config, run.progress), PROGRESS_BAR },
        { "run.progress=plain", offsetof(Config, run.progress), PROGRESS_PLAIN },
        { "run.progress=off", offsetof(Config, run.progress), PROGRESS_OFF },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char *sets[] = { (char *)cases[k].set };
        Config c = load(NULL, 1, sets);
        assert_int_equal(*(int *)((char *)&c + cases[k].offset), cases[k].value);
    }
}

static void time_is_minutes_or_a_clock(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        double minutes;
    } right[] = { { "run.time_limit=90", 90 },
                  { "run.time_limit=0.5", 0.5 },
                  { "run.time_limit=12:00:00", 720 },
                  { "run.time_limit=\"0:01:30\"", 1.5 },
                  { "run.time_limit=1-12:30:00", 2190 } };
    for (size_t k = 0; k < sizeof right / sizeof *right; k++) {
        char *sets[] = { (char *)right[k].set };
        assert_true(load(NULL, 1, sets).run.time_limit == right[k].minutes);
    }
    assert_true(load("run: { time_limit = \"01:00:00\"; };\n", 0, NULL).run.time_limit == 60);
    static const char *const wrong[] = { "run.time_limit=12:00",    "run.time_limit=1:60:00",  "run.time_limit=1:00:61",
                                         "run.time_limit=1:00:00h", "run.time_limit=-1:00:00", "run.time_limit=soon",
                                         "run.time_limit=1-12",     "run.time_limit=\"\"" };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++)
        assert_says(refusal(NULL, wrong[k]), "\"hours:minutes:seconds\"");
}

static void set_goes_before_file_and_file_before_default(void **state)
{
    (void)state;
    char *sets[] = { "margin.eta=0.5", " batch.pairs = 16", "margin.eta=0.25" };
    Config c = load("margin: { eta = 1; target = 0.3; };\nbatch: { pairs = 4; };\n", 3, sets);
    assert_true(c.margin.eta == 0.25 && c.margin.target == 0.3 && c.margin.max == 10);
    assert_int_equal(c.batch.pairs, 16);
}

static void values_of_every_type_are_read(void **state)
{
    (void)state;
    char *sets[] = { "run.dir=runs/a b",
                     "run.seed=9007199254740993",
                     "parallel.grid=[2,3]",
                     "parallel.replicas=4",
                     "engine.recompute=true",
                     "model.path=2024",
                     "data.path=\"quoted # \\\"name\\\"\"",
                     "optimizer.learning_rate=5e-7",
                     "margin.max=20",
                     "reference.model=true",
                     "data.heldout=" };
    Config c = load(NULL, (int)(sizeof sets / sizeof *sets), sets);
    assert_string_equal(c.run.dir, "runs/a b");
    assert_true(c.run.seed == INT64_C(9007199254740993)); /* beyond both int and double */
    assert_true(c.parallel.grid[0] == 2 && c.parallel.grid[1] == 3 && c.parallel.replicas == 4);
    assert_true(c.engine.recompute);
    assert_string_equal(c.model.path, "2024");
    assert_string_equal(c.data.path, "quoted # \"name\"");
    assert_true(c.optimizer.learning_rate == 5e-7 && c.margin.max == 20);
    assert_string_equal(c.reference.model, "true");
    assert_string_equal(c.data.heldout, "");

    c = load(
        "parallel: { grid = (1, 2); replicas = \"auto\"; };\r\nrun: { seed = 3000000000; # @include \"nothing\"\r\n"
        "dir = \"@include\"; /* 99999999999999999999 \n */ };\n",
        0, NULL);
    assert_true(c.parallel.grid[0] == 1 && c.parallel.grid[1] == 2 && c.parallel.replicas == 0);
    assert_true(c.run.seed == INT64_C(3000000000)); /* libconfig 1.5 by itself reads a negative number */
    assert_string_equal(c.run.dir, "@include");
}

static void included_file_is_overridden_below_its_line(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/sub", folder);
    assert_int_equal(system((snprintf(path, sizeof path, "mkdir -p %s/sub", folder), path)), 0);
    write_file("sub/base.cfg", "@include \"deep.cfg\"\nmargin: { eta = 0.7; target = 0.4; };\n");
    write_file("sub/deep.cfg", "margin: { min = 1; initial = 2; eta = 3; };");
    Config c = load("batch: { pairs = 2; };\n@include \"sub/base.cfg\"\nmargin: { eta = 0.9; };\n", 0, NULL);
    assert_true(c.margin.eta == 0.9 && c.margin.target == 0.4 && c.margin.min == 1 && c.margin.initial == 2 &&
                c.batch.pairs == 2);

    write_file("sub/base.cfg", "\n\nmargin: {\n eta = \"x\"; };\n");
    const char *message = refusal("@include \"sub/base.cfg\"\n", NULL);
    assert_says(message, "sub/base.cfg:4: margin.eta must be a number, not the string \"x\"");
    message = refusals("\n@include \"sub/base.cfg\"\nmargin: { et = 1; };", NULL);
    assert_says(message, "base.cfg:4:");
    assert_says(message, "run.cfg:3: unknown key 'margin.et'");
    write_file("sub/base.cfg", "margin: { eta = 1; };\n");
    assert_says(refusal("\n@include \"sub/base.cfg\"\n\nmargin: { et = 1; };", NULL),
                "run.cfg:4: unknown key 'margin.et'");
}

static void written_config_reads_back_to_the_same_bytes(void **state)
{
    (void)state;
    char *sets[] = { "run.dir=a \"quote\" \\ and \ttab",
                     "run.seed=9223372036854775807",
                     "objective.beta=0.30000000000000004",
                     "optimizer.learning_rate=1e-300",
                     "margin.max=100",
                     "parallel.grid=[65536, 1]",
                     "schedule.type=cosine",
                     "margin.scope=global",
                     "margin.soft=TRUE",
                     "engine.logits_mb=3",
                     "run.progress=off",
                     "parallel.replicas=2",
                     "model.path=mod\303\250le.h5" };
    Config first = load(NULL, (int)(sizeof sets / sizeof *sets), sets);
    char path[128];
    snprintf(path, sizeof path, "%s/resolved.cfg", folder);
    FILE *file = fopen(path, "w");
    config_print(&first, file);
    fclose(file);
    Config second;
    Error err = { 0 };
    if (!config_load(&second, path, 0, NULL, &err)) fail_msg("%s", err.message);
    assert_memory_equal(&first, &second, sizeof first);
}

/* All that config_help prints in a form; to be freed. */
static char *help(ConfigHelpForm form)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    config_help(out, form);
    fclose(out);
    return text;
}

static void default_cfg_is_up_to_date(void **state)
{
    (void)state;
    char *expected = help(CONFIG_HELP_CFG);
    FILE *file = fopen(SOURCE_ROOT "/configs/default.cfg", "r");
    assert_non_null(file);
    char *found = calloc(1, 1 << 20);
    assert_true(fread(found, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    if (strcmp(expected, found) != 0)
        fail_msg("make configs/default.cfg again: catdpo --help-config=cfg > configs/default.cfg");
    free(found);
    free(expected);

    Config from_file, defaults = load(NULL, 0, NULL);
    Error err = { 0 };
    if (!config_load(&from_file, SOURCE_ROOT "/configs/default.cfg", 0, NULL, &err)) fail_msg("%s", err.message);
    assert_memory_equal(&from_file, &defaults, sizeof defaults);
}

static void help_names_every_key(void **state)
{
    (void)state;
    for (int form = CONFIG_HELP_TEXT; form <= CONFIG_HELP_MARKDOWN; form++) {
        char *text = help((ConfigHelpForm)form);
        for (int k = 0; k < option_count(); k++) {
            assert_says(text, option_at(k)->key);
            assert_says(text, option_at(k)->preset);
        }
        free(text);
    }
}

/* Each is refused with one message that begins with file and line. */
static const struct {
    int line;
    const char *text, *words;
} malformed[] = {
    { 2, "margin:\n{ etaa = 1; };", "unknown key 'margin.etaa'; the nearest known one is 'margin.eta'" },
    { 1, "optimizer: { warmup = 0.1; };", "nearest known one is 'schedule.warmup'" },
    { 1, "optimiser: { beta1 = 0.9; };", "unknown group 'optimiser'; the nearest known one is 'optimizer'" },
    { 1, "optimizer: { lr = 1e-5; };", "unknown key 'optimizer.lr'; here it is 'optimizer.learning_rate'" },
    { 1, "training: { Num_Train_Epochs = 3; };", "unknown group 'training'; the groups are run, model" },
    { 1, "schedule: { num_train_epochs = 3; };", "here it is 'schedule.epochs'" },
    { 1, "batch: { per_device_train_batch_size = 3; };",
      "here it is 'batch.pairs': pairs of a whole step, over all ranks" },
    { 1, "data: { max_length = 512; };", "catdpo-analysis prepare --max-length" },
    { 1, "per_device_train_batch_size = 3;", "here it is 'batch.pairs'" },
    { 1, "margin: { zzzzzzzzzzzz = 3; };", "unknown key 'margin.zzzzzzzzzzzz'; margin has scope, initial, min" },
    { 3, "\n\nbeta = 0.1;", "unknown key 'beta'; the nearest known one is 'objective.beta'" },
    { 1, "margin = 3;", "margin must be a group" },
    { 1, "margin: { eta = { a = 1; }; };", "margin.eta must be a number, not a group" },
    { 1, "margin: { eta = [0.1]; };", "margin.eta must be a number, not a list of 1" },
    { 1, "margin: { eta = \"0.1\"; };", "margin.eta must be a number, not the string \"0.1\"" },
    { 1, "margin: { eta = true; };", "not true" },
    { 1, "margin: { soft = 1; };", "margin.soft must be true or false, not the integer 1" },
    { 1, "margin: { soft = \"true\"; };", "margin.soft must be true or false" },
    { 1, "margin: { interval = 2.0; };", "margin.interval must be an integer, not the number 2" },
    { 1, "margin: { interval = 0; };", "margin.interval = 0 is outside [1, inf)" },
    { 1, "margin: { interval = -5000000000; };", "margin.interval = -5000000000 is outside" },
    { 1, "margin: { target = 1.5; };", "margin.target = 1.5 is outside [0, 1]" },
    { 1, "margin: { averaging = 0; };", "outside (0, 1]" },
    { 1, "margin: { averaging = 0.0; };", "outside (0, 1]" },
    { 1, "optimizer: { beta1 = 1; };", "outside [0, 1)" },
    { 1, "optimizer: { learning_rate = 1.0e999; };", "optimizer.learning_rate = inf is outside" },
    { 1, "optimizer: { learning_rate = nan; };", "syntax error" },
    { 1, "margin: { scope = \"categroy\"; };", "did you mean \"category\"" },
    { 1, "margin: { scope = \"none at all\"; };",
      "must be \"category\", \"global\" or \"fixed\", not the string \"none at all\"" },
    { 1, "margin: { scope = 1; };", "must be \"category\"" },
    { 1, "run: { dir = 5; };", "run.dir must be a string in quotes, not the integer 5" },
    { 1, "run: { dir = (\"a\"); };", "run.dir must be a string in quotes" },
    { 1, "parallel: { grid = [2]; };", "must be \"auto\" or [rows, columns], not a list of 1" },
    { 1, "parallel: { grid = [2, 2, 2]; };", "not a list of 3" },
    { 1, "parallel: { grid = [2.0, 2.0]; };", "parallel.grid must be two integers, not the number 2" },
    { 1, "parallel: { grid = [0, 2]; };", "parallel.grid = 0 is outside" },
    { 1, "parallel: { grid = \"2x2\"; };", "parallel.grid must be \"auto\"" },
    { 1, "parallel: { grid = 4; };", "not the integer 4" },
    { 1, "parallel: { replicas = \"many\"; };", "parallel.replicas must be an integer or \"auto\"" },
    { 1, "parallel: { replicas = 0; };", "parallel.replicas = 0 is outside" },
    { 1, "run: { seed = 99999999999999999999; };", "does not fit 64 bits" },
    { 1, "run: { seed = 9223372036854775808; };", "does not fit 64 bits" },
    { 1, "run: { seed = 0x8000000000000000; };", "does not fit 64 bits" },
    { 1, "run: { seed = -1; };", "run.seed = -1 is outside [0, inf)" },
    { 2, "run: { seed = 1;\nseed = 2; };", "duplicate" },
    { 2, "run: { seed = 1; };\nrun: { dir = \"x\"; };", "duplicate" },
    { 3, "margin:\n{\n  eta 0.1;\n};", "syntax error" },
    { 1, "margin: { eta = ; };", "syntax error" },
    { 1, "margin: { eta = 0.1;", "syntax error" },
    { 1, "margin { eta = 0.1; };", "syntax error" },
    { 1, "margin: { eta = 0.1; }; };", "syntax error" },
    { 1, "run: { dir = \"no end; };\n\n", "string that begins here has no end" },
    { 2, "\n/* no end\n", "has no end" },
    { 1, "{\"margin\": {\"eta\": 0.1}}", "syntax error" },
    { 2, "margin:\n  eta: 0.1\n", "syntax error" },
    { 1, "[margin]\neta = 0.1\n", "syntax error" },
    { 1, "margin.eta = 0.1;", "; write it in its group: margin: { eta = ...; };" },
    { 1, "margin.eta: 0.1", "; write it in its group: margin: { eta = ...; };" },
    { 2, "margin:\n  eta: 0.1\n", "; settings are written so: margin: {" },
    { 1, "margin: { eta = [1, 2.0]; };", "" },
    { 1, "\001", "syntax error" },
    { 1, "@include \"absent.cfg\"", "cannot read the config" },
    { 1, "@include absent", "in quotes" },
    { 1, "@include \"no end\n", "in quotes" },
    { 2, "margin: {\n@include \"run.cfg\"\n};", "inside a group" },
    { 1, "@include \".\"", "Is a directory" },
    { 1, "@include \"run.cfg\"", "include itself" },
    { 1, "margin: { initial = 11; };", "margin.initial = 11 is outside margin.min = 0 to margin.max = 10" },
    { 2, "\nmargin: { min = 11; };", "margin.min = 11 is above margin.max = 10" },
    { 1, "margin: { min = 1; };", "outside margin.min = 1" },
    { 2, "objective: { type = \"dpo\"; };\nmargin: { initial = 2.0; };",
      "margin.initial = 2, but objective.type = \"dpo\"" },
    { 2, "\nobjective: { type = \"safedpo\"; };", "margin.initial, which is 0" },
    { 1, "batch: { pairs = 4; accumulation = 5; };", "batch.accumulation = 5" },
    { 1, "schedule: { type = \"constant\"; floor = 0.1; };", "schedule.floor = 0.1" },
};

static void malformed_config_gives_one_message_with_file_and_line(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof malformed / sizeof *malformed; k++) {
        const char *message = refusal(malformed[k].text, NULL);
        char place[160];
        snprintf(place, sizeof place, "%s/run.cfg:%d: ", folder, malformed[k].line);
        if (strncmp(message, place, strlen(place)) != 0)
            fail_msg("%s\ngives '%s'\nwithout '%s'", malformed[k].text, message, place);
        assert_says(message, malformed[k].words);
    }
}

static void all_mistakes_are_told_at_once(void **state)
{
    (void)state;
    const char *message =
        refusals("margin: { etaa = 1; target = 2; };\noptimiser: { x = 1; };\nrun: { seed = \"a\"; };\n"
                 "batch: { pairs = 4; };\n",
                 "margin.eta=fast");
    static const char *const words[] = { "run.cfg:1: unknown key 'margin.etaa'",
                                         "run.cfg:1: margin.target = 2 is outside",
                                         "run.cfg:2: unknown group 'optimiser'",
                                         "run.cfg:3: run.seed must be an integer",
                                         "--set margin.eta=fast: margin.eta must be a number" };
    for (int k = 0; k < 5; k++) {
        assert_says(message, words[k]);
        if (k > 0)
            assert_true(strstr(message, words[k - 1]) < strstr(message, words[k])); /* in the order of the text */
    }
    char many[4096] = "schedule: {\n";
    for (int k = 0; k < 25; k++) snprintf(many + strlen(many), sizeof many - strlen(many), "x%02d = 1;\n", k);
    message = refusals(strcat(many, "};\n"), NULL);
    assert_says(message, "run.cfg:2: ");
    assert_says(message, "run.cfg:21: ");
    assert_null(strstr(message, "run.cfg:22: "));
    assert_says(message, "\n... and 5 more");
    memcpy(many, "  margin", 8); /* its lines are longer: fewer have room, none is cut */
    message = refusals(many, NULL);
    assert_says(message, "run.cfg:18: ");
    assert_says(message, " more");
    message = refusals("margin: { eta = ; };\nbatch: { pars = 2; };\n", "run.sed=1"); /* libconfig reads no further */
    assert_says(message, "run.cfg:1: syntax error");
    assert_says(message, "--set run.sed=1: unknown key");
}

static void names_of_other_trainers_lead_to_settings_that_exist(void **state)
{
    (void)state;
    for (const OptionAlias *a = option_aliases; a->name; a++) {
        assert_true(a->key ? option_find(a->key) >= 0 : a->note != NULL);
        for (int k = 0; option_at(k); k++) assert_string_not_equal(a->name, option_at(k)->key);
        for (const OptionAlias *b = option_aliases; b != a; b++) assert_string_not_equal(a->name, b->name);
    }
    assert_null(option_alias("margin.eta"));
    assert_non_null(option_alias("optimizer.LR"));
}

/* Cutting, doubling and replacing characters of a good config: whatever comes of it is accepted or refused with one
 * line. */
static void damaged_config_never_crashes(void **state)
{
    (void)state;
    char *good = help(CONFIG_HELP_CFG), *text = calloc(2, strlen(good) + 16);
    size_t length = strlen(good);
    uint64_t random = 12345;
    int refused = 0;
    for (int trial = 0; trial < 1500; trial++) {
        strcpy(text, good);
        for (int change = 0; change < 1 + trial % 3; change++) {
            random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            size_t at = (size_t)(random >> 33) % length;
            static const char odd[] = "{}[]():;=,\"#/*@\\.-+eELx019 \n\t\200";
            int kind = (int)(random >> 20) % 3;
            if (kind == 0)
                text[at] = '\0';
            else if (kind == 1)
                text[at] = odd[(random >> 8) % (sizeof odd - 1)];
            else if (strlen(text) == length)
                memmove(text + at, good, length - at);
        }
        Config config;
        Error err = { 0 };
        bool ok = config_load(&config, write_file("damaged.cfg", text), 0, NULL, &err);
        assert_true(ok == (err.exit_status == EXIT_DONE));
        assert_true(ok || (err.exit_status == EXIT_USAGE && err.message[0] && strstr(err.message, "damaged.cfg:")));
        refused += !ok;
    }
    assert_true(refused > 250);
    free(text);
    free(good);
}

static void bad_set_names_itself(void **state)
{
    (void)state;
    assert_says(refusal(NULL, "margin.eta"), "--set margin.eta: needs group.key=value");
    assert_says(refusal(NULL, "margin.etta=1"),
                "--set margin.etta=1: unknown key 'margin.etta'; the nearest known one is 'margin.eta'");
    assert_says(refusal(NULL, "margin.eta=fast"),
                "--set margin.eta=fast: margin.eta must be a number, not the string \"fast\"");
    assert_says(refusal(NULL, "margin.eta="), "must be a number, not the string \"\"");
    assert_says(refusal(NULL, "margin.eta=1; target=2"), "must be a number");
    assert_says(refusal(NULL, "parallel.grid=[2,"), "\"auto\" or [rows, columns]");
    assert_says(refusal(NULL, "=1"), "unknown key ''");
    assert_says(refusal(NULL, "margin.initial=12"), "--set margin.initial=12: margin.initial = 12 is outside");
    assert_says(refusal(NULL, "run.seed=99999999999999999999"), "does not fit 64 bits");
    assert_says(refusal("margin: { initial = 3; };", "objective.type=dpo"),
                "run.cfg:1: margin.initial = 3, but objective.type = \"dpo\"");

    char long_set[1024] = "run.dir=";
    memset(long_set + 8, 'x', sizeof long_set - 9);
    long_set[sizeof long_set - 1] = '\0';
    assert_says(refusal(NULL, long_set), "run.dir is longer than 511 bytes");
}

static void files_that_are_no_config_are_refused(void **state)
{
    (void)state;
    Config config;
    static const struct {
        const char *path, *words;
    } cases[] = {
        { "absent/run.cfg", "cannot read the config 'absent/run.cfg': No such file" },
        { ".", "Is a directory" },
        { "/dev/zero", "no text file" },
    };
    for (int k = 0; k < 3; k++) {
        Error err = { 0 };
        assert_false(config_load(&config, cases[k].path, 0, NULL, &err));
        assert_int_equal(err.exit_status, EXIT_USAGE);
        assert_says(err.message, cases[k].words);
    }
    Error err = { 0 };
    const char *path = write_file("model.h5", "\211HDF\r\n\032\n");
    assert_false(config_load(&config, path, 0, NULL, &err));
    assert_says(err.message, "model.h5:1: ");
}

static void fixed_objectives_agree_with_their_margin(void **state)
{
    (void)state;
    char *safedpo[] = { "objective.type=safedpo", "margin.initial=50" }; /* beyond margin.max, which has no say in it */
    assert_true(load(NULL, 2, safedpo).margin.initial == 50);
    char *fixed[] = { "margin.scope=fixed", "margin.initial=50" };
    assert_true(load(NULL, 2, fixed).margin.initial == 50);
    char *dpo[] = { "objective.type=dpo" };
    assert_true(load(NULL, 1, dpo).objective.type == objective_find("dpo"));
}

static void required_keys_are_asked_for_by_name(void **state)
{
    (void)state;
    char *sets[] = { "run.dir=x" };
    Config config = load(NULL, 1, sets);
    Error err = { 0 };
    const char *const enough[] = { "run.dir", NULL }, *const more[] = { "run.dir", "model.path", "data.path", NULL };
    assert_true(config_require(&config, enough, &err));
    assert_false(config_require(&config, more, &err));
    assert_int_equal(err.exit_status, EXIT_USAGE);
    assert_says(err.message, "model.path, data.path are not set");
    char *most[] = { "run.dir=x", "data.path=y" };
    config = load(NULL, 2, most);
    err = (Error){ 0 };
    assert_false(config_require(&config, more, &err));
    assert_says(err.message, "model.path is not set; set it in the config or with --set model.path=...");
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_hold_without_a_file),
        cmocka_unit_test(every_field_has_exactly_one_option),
        cmocka_unit_test(choices_follow_the_enums),
        cmocka_unit_test(time_is_minutes_or_a_clock),
        cmocka_unit_test(set_goes_before_file_and_file_before_default),
        cmocka_unit_test(values_of_every_type_are_read),
        cmocka_unit_test(included_file_is_overridden_below_its_line),
        cmocka_unit_test(written_config_reads_back_to_the_same_bytes),
        cmocka_unit_test(default_cfg_is_up_to_date),
        cmocka_unit_test(help_names_every_key),
        cmocka_unit_test(malformed_config_gives_one_message_with_file_and_line),
        cmocka_unit_test(all_mistakes_are_told_at_once),
        cmocka_unit_test(names_of_other_trainers_lead_to_settings_that_exist),
        cmocka_unit_test(damaged_config_never_crashes),
        cmocka_unit_test(bad_set_names_itself),
        cmocka_unit_test(files_that_are_no_config_are_refused),
        cmocka_unit_test(fixed_objectives_agree_with_their_margin),
        cmocka_unit_test(required_keys_are_asked_for_by_name),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
