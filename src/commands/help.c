/* Help on commands, from the tables of commands and options. */
#include "cli_private.h"

#include <string.h>

static const CommandOption no_options[] = { { 0 } };

const char *const config_help_forms[] = { "text", "markdown", "cfg", "man", NULL };
const char *const completion_shells[] = { "bash", "zsh", NULL };

const CommonOption common_options[] = {
    { "--set", "--set GROUP.KEY=VALUE", "goes before the setting in CONFIG; may be given several times",
      KNOWN_WITH_CONFIG },
    { "--help-config", "--help-config[=FORM]",
      "all settings with types, defaults and bounds; FORM: text, markdown, cfg or man", KNOWN_WITH_CONFIG },
    { "--help-config", "--help-config GROUP", "those of one group or one key, such as margin or margin.eta",
      KNOWN_WITH_CONFIG },
    { "--help", "--help, -h", "this text", KNOWN_EVERYWHERE },
    { "--version", "--version, -V", "version and commit of catdpo", KNOWN_EVERYWHERE },
    { "--man", "--man", "the manual page: catdpo --man | man -l -", KNOWN_ALONE },
    { "--completion", "--completion=SHELL", "completion for bash or zsh: eval \"$(catdpo --completion=bash)\"",
      KNOWN_ALONE },
    { 0 },
};

const ExitMeaning exit_meanings[] = {
    { 0, "done" },
    { 1, "something failed while running: files, numbers or memory; the message says what" },
    { 2, "command line, config or input files are wrong; mend them before trying again" },
    { 85, "stopped by a signal or the time limit, after saving: submit the same again with --resume" },
    { 86, "stopped by the file \"stop\" in run.dir, after saving: --resume goes on, when somebody wants it" },
    { 0 },
};

const CommandOption *command_options(const Command *command)
{
    return command->options ? command->options : no_options;
}

bool command_takes_config(const Command *command) { return !command->files && !command->folder; }

const char *command_operand(const Command *command)
{
    return command->files ? "FILE..." : command->folder ? "FOLDER" : "CONFIG";
}

void command_print_usage(FILE *out, const Command *command, int indent)
{
    enum { USAGE_COLUMNS = 100 };
    const char *first = command_takes_config(command) ? "CONFIG [--set GROUP.KEY=VALUE]..." : command_operand(command);
    int column = indent + fprintf(out, "catdpo %s %s", command->name, first);
    for (const CommandOption *o = command_options(command); o->name; o++) {
        char word[96];
        snprintf(word, sizeof word,
                 !o->argument  ? "[%s]"
                 : o->optional ? "[%s [%s]]"
                               : "[%s %s]",
                 o->name, o->argument);
        if (column + 1 + (int)strlen(word) > USAGE_COLUMNS) column = fprintf(out, "\n%*s", indent, "") - 1;
        column += fprintf(out, " %s", word);
    }
}

static void print_common_options(FILE *out, const Command *command)
{
    for (const CommonOption *o = common_options; o->name; o++)
        if (!command || o->where == KNOWN_EVERYWHERE ||
            (o->where == KNOWN_WITH_CONFIG && command_takes_config(command)))
            fprintf(out, "  %-22s %s\n", o->usage, o->help);
}

static void print_exit_meanings(FILE *out)
{
    fputs("exit status, the same on every rank:\n", out);
    for (const ExitMeaning *e = exit_meanings; e->meaning; e++) fprintf(out, "  %-2d %s\n", e->status, e->meaning);
}

void cli_print_help(FILE *out, const Command commands[])
{
    fputs("catdpo trains language models to be safe with Cat-DPO: preference optimisation with a safety margin for\n"
          "each harm category that grows while the model still prefers unsafe responses there. It runs under MPI on\n"
          "any number of ranks; all its products are ScaLAPACK's on a process grid.\n"
          "\nusage: catdpo COMMAND CONFIG [--set GROUP.KEY=VALUE]... [option]...\n"
          "       catdpo check FILE...\n       catdpo selfcheck FOLDER\n\ncommands:\n",
          out);
    for (const Command *c = commands; c->name; c++) fprintf(out, "  %-8s %s\n", c->name, c->summary);
    fputs("\n  catdpo COMMAND --help explains one of them\n\noptions:\n", out);
    print_common_options(out, NULL);
    fputs("\nexamples:\n", out);
    for (const Command *c = commands; c->name; c++) fputs(c->examples, out);
    fputc('\n', out);
    print_exit_meanings(out);
}

void cli_print_command_help(FILE *out, const Command *command)
{
    fputs("usage: ", out);
    command_print_usage(out, command, 7);
    fprintf(out, "\n\n%s\noptions:\n", command->help);
    for (const CommandOption *o = command_options(command); o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, o->optional ? "%s [%s]" : "%s %s", o->name, o->argument ? o->argument : "");
        fprintf(out, "  %-22s %s", left, o->help);
        for (int k = 0; o->choices && o->choices[k]; k++)
            fprintf(out, "%s%s", k == 0 ? ": " : o->choices[k + 1] ? ", " : " or ", o->choices[k]);
        fputc('\n', out);
    }
    print_common_options(out, command);
    fprintf(out, "\nexamples:\n%s\n", command->examples);
    print_exit_meanings(out);
}
