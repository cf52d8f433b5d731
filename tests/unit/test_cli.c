/* Promise: the command line says what to run; whatever is wrong with it gives one line with the nearest known name and
 * exit status 2; help names every command and option. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "catdpo/commands/cli.h"

static int nothing(const CommandLine *line, MPI_Comm comm)
{
    (void)line;
    (void)comm;
    return 0;
}

static const char *const splits[] = { "heldout", "train", NULL };
static const CommandOption options[] = { { "--model", "FILE", NULL, "the model", false },
                                         { "--split", "NAME", splits, "the pairs", false },
                                         { "--quick", NULL, NULL, "a flag", false },
                                         { 0 } };
static const Command commands[] = {
    { "train", "trains", "Trains a model.\n", "  catdpo train run.cfg\n", NULL, nothing, false, false },
    { "eval", "evaluates", "Evaluates a model.\n", "  catdpo eval run.cfg\n", options, nothing, false, false },
    { "look", "looks", "Looks at files.\n", "  catdpo look a.h5\n", NULL, nothing, true, false },
    { 0 },
};

/* argv of a line with words between single blanks. */
static int split(char *line, char *argv[32])
{
    int argc = 0;
    for (char *word = strtok(line, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    argv[argc] = NULL;
    return argc;
}

static bool parse(Cli *cli, const char *text, Error *err)
{
    static char line[512];
    static char *argv[32];
    strcpy(line, text);
    int argc = split(line, argv);
    *err = (Error){ 0 };
    return cli_parse(cli, argc, argv, commands, err);
}

static Cli accept(const char *text)
{
    Cli cli;
    Error err;
    if (!parse(&cli, text, &err)) fail_msg("'%s' is refused: %s", text, err.message);
    return cli;
}

static void lines_are_understood(void **state)
{
    (void)state;
    Cli cli = accept("catdpo train run.cfg");
    assert_int_equal(cli.action, CLI_RUN);
    assert_string_equal(cli.line.command->name, "train");
    assert_string_equal(cli.line.config, "run.cfg");
    assert_int_equal(cli.line.set_count, 0);
    cli_free(&cli);

    cli = accept("catdpo eval --set a.b=1 --model=m.h5 --set=c.d=x=y run.cfg --split train --quick");
    assert_string_equal(cli.line.config, "run.cfg");
    assert_int_equal(cli.line.set_count, 2);
    assert_string_equal(cli.line.sets[0], "a.b=1");
    assert_string_equal(cli.line.sets[1], "c.d=x=y");
    assert_string_equal(command_option(&cli.line, "--model"), "m.h5");
    assert_string_equal(command_option(&cli.line, "--split"), "train");
    assert_non_null(command_option(&cli.line, "--quick"));
    cli_free(&cli);

    cli = accept("catdpo look a.h5 b.h5 -- --c.h5");
    assert_int_equal(cli.line.file_count, 3);
    assert_string_equal(cli.line.files[1], "b.h5");
    assert_string_equal(cli.line.files[2], "--c.h5");
    assert_null(cli.line.config);
    cli_free(&cli);

    cli = accept("catdpo eval -- --odd.cfg");
    assert_string_equal(cli.line.config, "--odd.cfg");
    assert_null(command_option(&cli.line, "--model"));
    cli_free(&cli);
}

static void questions_are_answered_anywhere(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        CliAction action;
        ConfigHelpForm form;
    } cases[] = {
        { "catdpo --help", CLI_HELP, 0 },
        { "catdpo -h", CLI_HELP, 0 },
        { "catdpo --version", CLI_VERSION, 0 },
        { "catdpo -V", CLI_VERSION, 0 },
        { "catdpo --man", CLI_MAN, 0 },
        { "catdpo --completion=zsh", CLI_COMPLETION, 0 },
        { "catdpo help", CLI_HELP, 0 },
        { "catdpo help train", CLI_COMMAND_HELP, 0 },
        { "catdpo --help-config margin", CLI_CONFIG_HELP, CONFIG_HELP_TEXT },
        { "catdpo train --help", CLI_COMMAND_HELP, 0 },
        { "catdpo train run.cfg --set a.b=1 -h", CLI_COMMAND_HELP, 0 },
        { "catdpo --help-config", CLI_CONFIG_HELP, CONFIG_HELP_TEXT },
        { "catdpo --help-config=cfg", CLI_CONFIG_HELP, CONFIG_HELP_CFG },
        { "catdpo eval --help-config=markdown", CLI_CONFIG_HELP, CONFIG_HELP_MARKDOWN },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        Cli cli = accept(cases[k].line);
        assert_int_equal(cli.action, cases[k].action);
        assert_int_equal(cli.form, cases[k].form);
        cli_free(&cli);
    }
}

static void wrong_lines_are_refused_in_one_line(void **state)
{
    (void)state;
    static const struct {
        const char *line, *words;
    } cases[] = {
        { "catdpo", "catdpo --help" },
        { "catdpo tarin run.cfg", "unknown command 'tarin'; did you mean 'train'?" },
        { "catdpo something run.cfg", "the commands are train, eval" },
        { "catdpo " SOURCE_ROOT "/configs/default.cfg", "did you mean 'catdpo train " },
        { "catdpo --hepl", "unknown option '--hepl'; did you mean '--help'?" },
        { "catdpo --set a.b=1", "unknown option '--set'" },
        { "catdpo --help-config=html", "there is no group of settings 'html'; the groups are run, model" },
        { "catdpo train --help-config margin.etta", "no setting 'margin.etta'; the nearest one is 'margin.eta'" },
        { "catdpo --help-config lr", "here it is 'optimizer.learning_rate'" },
        { "catdpo report runs/first", "'report' is a command of catdpo-analysis: catdpo-analysis report --help" },
        { "catdpo help tarin", "unknown command 'tarin'; did you mean 'train'?" },
        { "catdpo train", "needs a config file: catdpo train CONFIG" },
        { "catdpo train --set a.b=1", "needs a config file" },
        { "catdpo train a.cfg b.cfg", "'b.cfg' is one too many" },
        { "catdpo train a.cfg --set", "--set needs a value: --set GROUP.KEY=VALUE" },
        { "catdpo train a.cfg --model x", "unknown option '--model'; see catdpo train --help" },
        { "catdpo eval a.cfg --modle=x", "unknown option '--modle'; did you mean '--model'?" },
        { "catdpo eval a.cfg --st a.b=1", "did you mean '--set'?" },
        { "catdpo eval a.cfg -m x", "unknown option '-m'" },
        { "catdpo eval a.cfg --model", "--model needs a value: --model FILE" },
        { "catdpo eval a.cfg --model x --model y", "--model is given twice" },
        { "catdpo eval a.cfg --split test", "--split must be heldout or train, not 'test'" },
        { "catdpo --completion", "--completion needs a shell" },
        { "catdpo --completion=fish", "--completion must be bash or zsh, not 'fish'" },
        { "catdpo train a.cfg --man", "unknown option '--man'" },
        { "catdpo look", "needs a file: catdpo look FILE..." },
        { "catdpo look a.h5 --set a.b=1", "unknown option '--set'" },
        { "catdpo eval a.cfg --quick=1", "--quick takes no value" },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        Cli cli;
        Error err;
        if (parse(&cli, cases[k].line, &err)) fail_msg("'%s' is accepted", cases[k].line);
        assert_int_equal(err.exit_status, EXIT_USAGE);
        if (!strstr(err.message, cases[k].words)) fail_msg("'%s' gives '%s'", cases[k].line, err.message);
        cli_free(&cli);
    }
}

static void help_names_everything(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        const char *words[8];
    } cases[] = {
        { "catdpo --help",
          { "train    trains", "eval     evaluates", "catdpo train run.cfg", "catdpo eval run.cfg", "--set",
            "exit status" } },
        { "catdpo eval --help",
          { "usage: catdpo eval CONFIG", "Evaluates a model.", "--model FILE", "the pairs: heldout or train", "--quick",
            "--set", "exit status" } },
        { "catdpo look --help", { "usage: catdpo look FILE...\n", "Looks at files.", "--help", "exit status" } },
        { "catdpo --help-config", { "margin.eta" } },
        { "catdpo help eval", { "usage: catdpo eval CONFIG" } },
        { "catdpo --help-config margin", { "margin: the safety margin", "margin.eta = ", "margin.tie = " } },
        { "catdpo --help-config=margin.eta", { "margin.eta = 0.1" } },
        { "catdpo --version", { "catdpo " } },
        { "catdpo --man",
          { ".TH CATDPO 1", ".SS catdpo eval", "\\-\\-split NAME", "heldout or train", ".SH EXIT STATUS" } },
        { "catdpo --help-config=man", { ".TH CATDPO.CFG 5", "margin.eta" } },
        { "catdpo --completion=bash", { "complete -F _catdpo catdpo", "eval:--split) _catdpo_words 'heldout train'" } },
        { "catdpo --completion zsh", { "#compdef catdpo", "--split=[the pairs]:NAME:(heldout train)" } },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        Cli cli = accept(cases[k].line);
        char *text;
        size_t size;
        Error err = { 0 };
        FILE *out = open_memstream(&text, &size);
        assert_true(cli_answer(&cli, commands, out, &err));
        fclose(out);
        for (int w = 0; cases[k].words[w]; w++)
            if (!strstr(text, cases[k].words[w])) fail_msg("'%s' does not say '%s'", cases[k].line, cases[k].words[w]);
        free(text);
        cli_free(&cli);
    }
}

static void answer_that_cannot_be_written_is_an_error(void **state)
{
    (void)state;
    FILE *full = fopen("/dev/full", "w");
    if (!full) skip();
    Cli cli = accept("catdpo --help");
    Error err = { 0 };
    assert_false(cli_answer(&cli, commands, full, &err));
    assert_int_equal(err.exit_status, EXIT_FAULT);
    cli_free(&cli);
    fclose(full);
}

static void launcher_tells_the_rank(void **state)
{
    (void)state;
    static const char *const names[] = { "OMPI_COMM_WORLD_RANK", "PMIX_RANK",   "PMI_RANK",
                                         "MV2_COMM_WORLD_RANK",  "PALS_RANKID", "SLURM_PROCID" };
    for (int k = 0; k < 6; k++) unsetenv(names[k]);
    assert_int_equal(cli_launch_rank(), 0);
    setenv("SLURM_PROCID", "0", 1); /* mpirun in a batch script: its own variable counts */
    setenv("OMPI_COMM_WORLD_RANK", "3", 1);
    assert_int_equal(cli_launch_rank(), 3);
}

static void launcher_tells_the_size(void **state)
{
    (void)state;
    static const char *const names[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE",
                                         "SLURM_STEP_NUM_TASKS" };
    for (int k = 0; k < 4; k++) unsetenv(names[k]);
    assert_int_equal(cli_launch_size(), 1);
    setenv("SLURM_STEP_NUM_TASKS", "2", 1); /* of the step of Open MPI's daemons, one a node: its own variable counts */
    assert_int_equal(cli_launch_size(), 2);
    setenv("OMPI_COMM_WORLD_SIZE", "8", 1);
    assert_int_equal(cli_launch_size(), 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_understood),
        cmocka_unit_test(questions_are_answered_anywhere),
        cmocka_unit_test(wrong_lines_are_refused_in_one_line),
        cmocka_unit_test(help_names_everything),
        cmocka_unit_test(answer_that_cannot_be_written_is_an_error),
        cmocka_unit_test(launcher_tells_the_rank),
        cmocka_unit_test(launcher_tells_the_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
