/* What parsing, help, the manual page and shell completion share. None of it is collective. */
#ifndef CATDPO_COMMANDS_CLI_PRIVATE_H
#define CATDPO_COMMANDS_CLI_PRIVATE_H

#include "catdpo/commands/cli.h"

/* Where an option that is not of one command is known. */
typedef enum { KNOWN_EVERYWHERE, KNOWN_WITH_CONFIG, KNOWN_ALONE } KnownWhere;

/* Such an option, as help shows it. */
typedef struct CommonOption {
    const char *name;  /* "--help-config"; NULL ends the list. A name may have several rows. */
    const char *usage; /* "--help-config[=FORM]" */
    const char *help;
    KnownWhere where; /* behind all commands and alone; behind those that take a CONFIG and alone; alone */
} CommonOption;

extern const CommonOption common_options[];

typedef struct ExitMeaning {
    int status;
    const char *meaning; /* NULL ends the list */
} ExitMeaning;

extern const ExitMeaning exit_meanings[];

extern const char *const config_help_forms[]; /* in the order of ConfigHelpForm; ends with NULL */
extern const char *const completion_shells[]; /* in the order of CompletionShell; ends with NULL */

/* The options of a command, never NULL. */
const CommandOption *command_options(const Command *command);
bool command_takes_config(const Command *command);
/* What stands behind its name: CONFIG, FILE... or FOLDER. */
const char *command_operand(const Command *command);

/* "catdpo train CONFIG [--set GROUP.KEY=VALUE]... [--resume [FILE]]" in lines of at most 100 columns behind `indent`.
 */
void command_print_usage(FILE *out, const Command *command, int indent);

void cli_print_help(FILE *out, const Command commands[]);
void cli_print_command_help(FILE *out, const Command *command);

/* catdpo(1) in man's macros: all commands with their options. */
void cli_print_man(FILE *out, const Command commands[]);

/* A completion script for the shell: commands, their options and values, settings, files. */
void cli_print_completion(FILE *out, const Command commands[], CompletionShell shell);

#endif
