/* Parsing of the command line, driven by the tables of commands and options. */
#include "cli_private.h"

#include "catdpo/core/nearest.h"
#include "catdpo/core/path.h"
#include "version.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_NAMES = 32 };

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
    for (int k = 0; value && config_help_forms[k]; k++)
        if (strcmp(value, config_help_forms[k]) == 0) {
            cli->form = (ConfigHelpForm)k;
            return;
        }
    cli->topic = value;
    if (value) config_has_topic(value, err);
}

static void take_completion_question(Cli *cli, const char *shell, Error *err)
{
    int index = 0;
    cli->action = CLI_COMPLETION;
    if (!shell)
        error_usage(err, "--completion needs a shell: --completion=bash or --completion=zsh");
    else if (check_choice("--completion", shell, completion_shells, &index, err))
        cli->shell = (CompletionShell)index;
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
    else if (!cli->line.command && strcmp(argument, "--man") == 0)
        cli->action = CLI_MAN;
    else if (!cli->line.command && is_option(argument, "--completion", &value))
        take_completion_question(cli, value ? value : next, err);
    else
        return false;
    return true;
}

static bool refuse_option(const Command *command, const char *argument, Error *err)
{
    const char *names[MOST_NAMES];
    int count = 0;
    if (command)
        for (const CommandOption *o = command_options(command); o->name; o++) names[count++] = o->name;
    for (const CommonOption *o = common_options; o->name; o++)
        if (command ? o->where == KNOWN_EVERYWHERE || (o->where == KNOWN_WITH_CONFIG && command_takes_config(command))
                    : strcmp(o->name, "--set") != 0)
            names[count++] = o->name;

    char name[64], hint[128], otherwise[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(argument, "="), argument);
    snprintf(otherwise, sizeof otherwise, "see catdpo %s%s--help", command ? command->name : "", command ? " " : "");
    return error_usage(err, "unknown option '%s'%s", name, suggestion(name, names, count, otherwise, hint));
}

/* Commands of the other program, which one may look for here. */
static const char *const analysis_commands[] = { "ask",      "import", "prepare",    "report", "watch",
                                                 "compare",  "judge",  "pairs-from", "rounds", "behaviour",
                                                 "evidence", "plot",   "track",      "export", NULL };

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
    if (command_takes_config(line->command) && is_option(argument, "--set", &given)) {
        if (!take_value("--set", "GROUP.KEY=VALUE", given, argc, argv, at, &value, err)) return false;
        line->sets[line->set_count++] = (char *)value;
        return true;
    }
    const CommandOption *options = command_options(line->command);
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
                           command->folder ? "folder" : "config file", command->name, command_operand(command),
                           command->name);
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

/* ---- answers ---- */

bool cli_answer(const Cli *cli, const Command commands[], FILE *out, Error *err)
{
    switch (cli->action) {
    case CLI_RUN: return true;
    case CLI_HELP: cli_print_help(out, commands); break;
    case CLI_COMMAND_HELP: cli_print_command_help(out, cli->line.command); break;
    case CLI_CONFIG_HELP:
        if (!cli->topic)
            config_help(out, cli->form);
        else if (!config_help_topic(out, cli->topic, err))
            return false;
        break;
    case CLI_VERSION: fprintf(out, "catdpo %s\n", CATDPO_VERSION); break;
    case CLI_MAN: cli_print_man(out, commands); break;
    case CLI_COMPLETION: cli_print_completion(out, commands, cli->shell); break;
    }
    if (fflush(out) != 0 || ferror(out)) return error_fault(err, "cannot write the answer: %s", strerror(errno));
    return true;
}
