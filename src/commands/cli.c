/* Parsing of the command line and its help, driven by the tables of commands and options. */
#include "catdpo/commands/cli.h"

#include "catdpo/core/nearest.h"
#include "catdpo/core/path.h"
#include "version.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_NAMES = 32 };

static const CommandOption no_options[] = { { 0 } };

static const char *const help_forms[] = { "text", "markdown", "cfg", NULL }; /* in the order of ConfigHelpForm */

/* Options that every command and catdpo itself know. --set is among them only behind a command. */
static const char *const common_names[] = { "--set", "--help", "--help-config", "--version", NULL };

const char *command_option(const CommandLine *line, const char *name)
{
    const CommandOption *options = line->command->options;
    int k = 0;
    while (options && options[k].name && strcmp(options[k].name, name) != 0) k++;
    CHECK(options && options[k].name);
    return line->values[k];
}

/* The first of these variables that is set, or `otherwise`. */
static int launcher_says(const char *const names[], int otherwise)
{
    for (; *names; names++) {
        const char *value = getenv(*names);
        if (value && *value) return atoi(value);
    }
    return otherwise;
}

int cli_launch_rank(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_RANK", "PMIX_RANK",    "PMI_RANK", "MV2_COMM_WORLD_RANK",
                                         "PALS_RANKID",          "SLURM_PROCID", NULL };
    return launcher_says(names, 0);
}

int cli_launch_size(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE",
                                         "SLURM_STEP_NUM_TASKS", NULL };
    return launcher_says(names, 1);
}

/* ---- parsing ---- */

static bool takes_config(const Command *command) { return !command->files && !command->folder; }
static const char *operand(const Command *command)
{
    return command->files ? "FILE..." : command->folder ? "FOLDER" : "CONFIG";
}

/* "; did you mean 'x'?" if a name is near, else `otherwise`. */
static const char *suggestion(const char *given, const char *const names[], int count, const char *otherwise,
                              char text[128])
{
    int nearest = nearest_name(given, names, count);
    if (nearest >= 0 && is_likely_meant(given, names[nearest]))
        snprintf(text, 128, "; did you mean '%s'?", names[nearest]);
    else
        snprintf(text, 128, "; %s", otherwise);
    return text;
}

/* True if `argument` is --name or --name=value; *value is NULL for the first. */
static bool is_option(const char *argument, const char *name, const char **value)
{
    size_t length = strlen(name);
    if (strncmp(argument, name, length) != 0 || (argument[length] && argument[length] != '=')) return false;
    *value = argument[length] ? argument + length + 1 : NULL;
    return true;
}

/* The value behind an option: after its '=' or the next argument. */
static bool take_value(const char *name, const char *what, const char *given, int argc, char *const argv[], int *at,
                       const char **value, Error *err)
{
    *value = given ? given : *at + 1 < argc ? argv[++*at] : NULL;
    return *value || error_usage(err, "%s needs a value: %s %s", name, name, what);
}

static bool check_choice(const char *name, const char *value, const char *const choices[], int *index, Error *err)
{
    char list[256] = "";
    for (int k = 0; choices[k]; k++) {
        if (strcmp(value, choices[k]) == 0) {
            if (index) *index = k;
            return true;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", k == 0 ? "" : choices[k + 1] ? ", " : " or ", choices[k]);
    }
    return error_usage(err, "%s must be %s, not '%.60s'", name, list, value);
}

/* --help-config, --help-config=FORM, --help-config=TOPIC or --help-config TOPIC. */
static void take_config_question(Cli *cli, const char *value, const char *next, Error *err)
{
    if (!value && next && *next != '-') value = next;
    cli->action = CLI_CONFIG_HELP;
    for (int k = 0; value && help_forms[k]; k++)
        if (strcmp(value, help_forms[k]) == 0) {
            cli->form = (ConfigHelpForm)k;
            return;
        }
    cli->topic = value;
    if (value) config_has_topic(value, err);
}

/* --help and the like, which end the parsing wherever they stand. Returns true if the argument was one of them. */
static bool take_question(Cli *cli, const char *argument, const char *next, Error *err)
{
    const char *value;
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0)
        cli->action = cli->line.command ? CLI_COMMAND_HELP : CLI_HELP;
    else if (strcmp(argument, "--version") == 0 || strcmp(argument, "-V") == 0)
        cli->action = CLI_VERSION;
    else if (is_option(argument, "--help-config", &value))
        take_config_question(cli, value, next, err);
    else
        return false;
    return true;
}

static bool refuse_option(const Command *command, const char *argument, Error *err)
{
    const char *names[MOST_NAMES];
    int count = 0;
    if (command)
        for (const CommandOption *o = command->options ? command->options : no_options; o->name; o++)
            names[count++] = o->name;
    for (int k = command && takes_config(command) ? 0 : 1; common_names[k]; k++) names[count++] = common_names[k];

    char name[64], hint[128], otherwise[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(argument, "="), argument);
    snprintf(otherwise, sizeof otherwise, "see catdpo %s%s--help", command ? command->name : "", command ? " " : "");
    return error_usage(err, "unknown option '%s'%s", name, suggestion(name, names, count, otherwise, hint));
}

/* Commands of the other program, which one may look for here. */
static const char *const analysis_commands[] = { "ask",     "import", "prepare",    "report", "watch",
                                                 "compare", "judge",  "pairs-from", "rounds", "behaviour",
                                                 "plot",    "track",  "export",     NULL };

static bool refuse_command(const char *argument, const Command commands[], Error *err)
{
    for (int k = 0; analysis_commands[k]; k++)
        if (strcmp(argument, analysis_commands[k]) == 0)
            return error_usage(err, "'%s' is a command of catdpo-analysis: catdpo-analysis %s --help", argument,
                               argument);
    const char *names[MOST_NAMES];
    char list[128] = "the commands are", hint[128];
    int count = 0;
    for (; commands[count].name; count++) {
        names[count] = commands[count].name;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s %s", count == 0 ? "" : ",", names[count]);
    }
    if (count > 0 && access(argument, F_OK) == 0)
        return error_usage(err, "no command before '%.200s'; did you mean 'catdpo %s %.200s'?", argument, names[0],
                           argument);
    return error_usage(err, "unknown command '%.60s'%s", argument, suggestion(argument, names, count, list, hint));
}

/* A file's name as a shell would have given it, for --out=~/x and what stands in quotes; a file of the very name goes
 * before. NULL with an error. */
static const char *take_path(CommandLine *line, const char *argument, Error *err)
{
    char path[PATH_MAX];
    if (path_is_plain(argument) || access(argument, F_OK) == 0) return argument;
    if (!path_expand(argument, path, sizeof path, argument, err)) return NULL;
    char *own = strdup(path);
    if (!own) error_fault(err, "no memory left for the command line");
    line->owned[line->owned_count++] = own;
    return own;
}

/* One argument behind the command. */
static bool take_argument(CommandLine *line, int argc, char *const argv[], int *at, bool *options_end, Error *err)
{
    const char *argument = argv[*at], *given, *value;
    if (*options_end || argument[0] != '-' || !argument[1]) {
        if (line->command->files) {
            const char *file = take_path(line, argument, err);
            line->files[line->file_count++] = file;
            return file != NULL;
        }
        if (line->config)
            return error_usage(err, "catdpo %s takes one %s; '%.100s' is one too many", line->command->name,
                               line->command->folder ? "folder" : "config file", argument);
        /* as most programs have it */
        line->config =
            strcmp(argument, "-") == 0 && !line->command->folder ? "/dev/stdin" : take_path(line, argument, err);
        return line->config != NULL;
    }
    if (strcmp(argument, "--") == 0) {
        *options_end = true;
        return true;
    }
    if (takes_config(line->command) && is_option(argument, "--set", &given)) {
        if (!take_value("--set", "GROUP.KEY=VALUE", given, argc, argv, at, &value, err)) return false;
        line->sets[line->set_count++] = (char *)value;
        return true;
    }
    const CommandOption *options = line->command->options ? line->command->options : no_options;
    for (int k = 0; options[k].name; k++) {
        CHECK(k < COMMAND_OPTIONS);
        if (!is_option(argument, options[k].name, &given)) continue;
        if (line->values[k]) return error_usage(err, "%s is given twice", options[k].name);
        if (!options[k].argument) {
            line->values[k] = "";
            return !given || error_usage(err, "%s takes no value", options[k].name);
        }
        if (options[k].optional && !given && (!line->config || *at + 1 >= argc || argv[*at + 1][0] == '-')) {
            line->values[k] = "";
            return true;
        }
        if (!take_value(options[k].name, options[k].argument, given, argc, argv, at, &line->values[k], err))
            return false;
        if (strcmp(options[k].argument, "FILE") == 0 && !(line->values[k] = take_path(line, line->values[k], err)))
            return false;
        return !options[k].choices || check_choice(options[k].name, line->values[k], options[k].choices, NULL, err);
    }
    return refuse_option(line->command, argument, err);
}

static const Command *find_command(const char *name, const Command commands[])
{
    for (; commands->name; commands++)
        if (strcmp(commands->name, name) == 0) return commands;
    return NULL;
}

bool cli_parse(Cli *cli, int argc, char *const argv[], const Command commands[], Error *err)
{
    *cli = (Cli){ .action = CLI_RUN };
    if (argc < 2) return error_usage(err, "no command; catdpo --help lists them");
    if (take_question(cli, argv[1], argc > 2 ? argv[2] : NULL, err)) return err->exit_status == EXIT_DONE;
    if (argv[1][0] == '-') return refuse_option(NULL, argv[1], err);
    if (strcmp(argv[1], "help") == 0) { /* catdpo help [COMMAND] */
        cli->action = argc > 2 ? CLI_COMMAND_HELP : CLI_HELP;
        cli->line.command = argc > 2 ? find_command(argv[2], commands) : NULL;
        return argc == 2 || cli->line.command || refuse_command(argv[2], commands, err);
    }
    const Command *command = find_command(argv[1], commands);
    if (!command) return refuse_command(argv[1], commands, err);
    cli->line.command = command;
    cli->line.sets = calloc((size_t)argc, sizeof *cli->line.sets);
    cli->line.files = calloc((size_t)argc, sizeof *cli->line.files);
    cli->line.owned = calloc((size_t)argc, sizeof *cli->line.owned);
    if (!cli->line.sets || !cli->line.files || !cli->line.owned)
        return error_fault(err, "no memory left for the command line");

    bool options_end = false;
    for (int at = 2; at < argc; at++) {
        if (!options_end && take_question(cli, argv[at], at + 1 < argc ? argv[at + 1] : NULL, err))
            return err->exit_status == EXIT_DONE;
        if (!take_argument(&cli->line, argc, argv, &at, &options_end, err)) return false;
    }
    if (command->files && cli->line.file_count == 0)
        return error_usage(err, "catdpo %s needs a file: catdpo %s FILE... (catdpo %s --help)", command->name,
                           command->name, command->name);
    if (!command->files && !cli->line.config)
        return error_usage(err, "catdpo %s needs a %s: catdpo %s %s (catdpo %s --help)", command->name,
                           command->folder ? "folder" : "config file", command->name, operand(command), command->name);
    return true;
}

void cli_free(Cli *cli)
{
    for (int k = 0; k < cli->line.owned_count; k++) free(cli->line.owned[k]);
    free(cli->line.owned);
    free(cli->line.sets);
    free(cli->line.files);
    *cli = (Cli){ 0 };
}

/* ---- help ---- */

#define CONFIG_HELP                                                                                                    \
    "  --set GROUP.KEY=VALUE  goes before the setting in CONFIG; may be given several times\n"                         \
    "  --help-config[=FORM]   all settings with types, defaults and bounds; FORM: text, markdown or cfg\n"             \
    "  --help-config GROUP    those of one group or one key, such as margin or margin.eta\n"

static const char common_help[] = "  --help, -h             this text\n"
                                  "  --version, -V          version of catdpo\n";

static const char exit_help[] =
    "exit status, the same on every rank:\n"
    "  0  done\n"
    "  1  something failed while running: files, numbers or memory; the message says what\n"
    "  2  command line, config or input files are wrong; mend them before trying again\n"
    "  85 stopped by a signal or the time limit, after saving: submit the same again with --resume\n"
    "  86 stopped by the file \"stop\" in run.dir, after saving: --resume goes on, when somebody wants it\n";

static void help(FILE *out, const Command commands[])
{
    fputs("catdpo trains language models to be safe with Cat-DPO: preference optimisation with a safety margin for\n"
          "each harm category that grows while the model still prefers unsafe responses there. It runs under MPI on\n"
          "any number of ranks; all its products are ScaLAPACK's on a process grid.\n"
          "\nusage: catdpo COMMAND CONFIG [--set GROUP.KEY=VALUE]... [option]...\n"
          "       catdpo check FILE...\n       catdpo selfcheck FOLDER\n\ncommands:\n",
          out);
    for (const Command *c = commands; c->name; c++) fprintf(out, "  %-8s %s\n", c->name, c->summary);
    fprintf(out, "\n  catdpo COMMAND --help explains one of them\n\noptions:\n%s%s\nexamples:\n", CONFIG_HELP,
            common_help);
    for (const Command *c = commands; c->name; c++) fputs(c->examples, out);
    fprintf(out, "\n%s", exit_help);
}

/* The usage, in lines of at most USAGE_COLUMNS. */
static void print_usage(FILE *out, const Command *command, const CommandOption *options)
{
    enum { USAGE_COLUMNS = 100 };
    const char *first = takes_config(command) ? "CONFIG [--set GROUP.KEY=VALUE]..." : operand(command);
    int column = fprintf(out, "usage: catdpo %s %s", command->name, first);
    for (const CommandOption *o = options; o->name; o++) {
        char word[96];
        snprintf(word, sizeof word,
                 !o->argument  ? "[%s]"
                 : o->optional ? "[%s [%s]]"
                               : "[%s %s]",
                 o->name, o->argument);
        if (column + 1 + (int)strlen(word) > USAGE_COLUMNS) column = fprintf(out, "\n       ") - 1;
        column += fprintf(out, " %s", word);
    }
}

static void command_help(FILE *out, const Command *command)
{
    const CommandOption *options = command->options ? command->options : no_options;
    print_usage(out, command, options);
    fprintf(out, "\n\n%s\noptions:\n", command->help);
    for (const CommandOption *o = options; o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, o->optional ? "%s [%s]" : "%s %s", o->name, o->argument ? o->argument : "");
        fprintf(out, "  %-22s %s", left, o->help);
        for (int k = 0; o->choices && o->choices[k]; k++)
            fprintf(out, "%s%s", k == 0 ? ": " : o->choices[k + 1] ? ", " : " or ", o->choices[k]);
        fputc('\n', out);
    }
    fprintf(out, "%s%s\nexamples:\n%s\n%s", takes_config(command) ? CONFIG_HELP : "", common_help, command->examples,
            exit_help);
}

bool cli_answer(const Cli *cli, const Command commands[], FILE *out, Error *err)
{
    switch (cli->action) {
    case CLI_RUN: return true;
    case CLI_HELP: help(out, commands); break;
    case CLI_COMMAND_HELP: command_help(out, cli->line.command); break;
    case CLI_CONFIG_HELP:
        if (!cli->topic)
            config_help(out, cli->form);
        else if (!config_help_topic(out, cli->topic, err))
            return false;
        break;
    case CLI_VERSION: fprintf(out, "catdpo %s\n", CATDPO_VERSION); break;
    }
    if (fflush(out) != 0 || ferror(out)) return error_fault(err, "cannot write the answer: %s", strerror(errno));
    return true;
}
