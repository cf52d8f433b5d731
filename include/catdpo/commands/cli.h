/* The command line: catdpo COMMAND CONFIG [--set key=value]... [options], or catdpo COMMAND FILE... [options].
 *
 * A Command is a row of the table in src/commands/main.c; parsing, help and "did you mean" all come from that table and
 * from the options of each row. Parsing needs no MPI, so that help and usage errors work without mpirun.
 */
#ifndef CATDPO_COMMANDS_CLI_H
#define CATDPO_COMMANDS_CLI_H

#include "catdpo/config/config.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>

enum { COMMAND_OPTIONS = 16 }; /* options of a command, at most */

typedef struct CommandLine CommandLine;

/* An option of one command beside --set: --name ARGUMENT or --name=ARGUMENT, given once at most. */
typedef struct CommandOption {
    const char *name;           /* "--split"; NULL ends the list */
    const char *argument;       /* name of its value in the help text, such as "FILE"; NULL: a flag without a value */
    const char *const *choices; /* the values it may have, NULL-terminated; NULL: any */
    const char *help;
    bool optional; /* the value may be left out: "" then */
} CommandOption;

typedef struct Command {
    const char *name;             /* "train" */
    const char *summary;          /* one line, for the list of commands */
    const char *help;             /* what it does, reads and writes: lines of at most 100 columns, each ended */
    const char *examples;         /* lines, each ended */
    const CommandOption *options; /* NULL: none */
    int (*run)(const CommandLine *line, MPI_Comm comm);
    bool files;  /* takes FILE... instead of CONFIG */
    bool serial; /* runs on one process, without MPI */
    bool folder; /* takes FOLDER instead of CONFIG */
} Command;

/* What was asked for. Text belongs to argv or stands in `owned`. */
struct CommandLine {
    const Command *command;
    const char *config; /* CONFIG or FOLDER; NULL with files */
    int file_count;     /* FILE... */
    const char **files; /* the array is owned */
    int set_count;
    int owned_count;
    char **owned;                        /* paths with ~ or $NAME, expanded; the array and its texts are owned */
    char **sets;                         /* "group.key=value" of each --set, in order; the array is owned */
    const char *values[COMMAND_OPTIONS]; /* of command->options; "" for a flag or an option without its value; NULL: not
                                            given */
};

/* The value of an option ("--split") of the line's command, or NULL if it was not given. An unknown name is a bug. */
const char *command_option(const CommandLine *line, const char *name);

/* ---- the commands; each is collective over comm, says what went wrong itself and returns the same exit status on
 * every rank ---- */

int command_train(const CommandLine *line, MPI_Comm comm);
int command_eval(const CommandLine *line, MPI_Comm comm);
int command_generate(const CommandLine *line, MPI_Comm comm);
int command_merge(const CommandLine *line, MPI_Comm comm);
int command_selfcheck(const CommandLine *line, MPI_Comm comm);
int command_check(const CommandLine *line, MPI_Comm comm); /* comm is MPI_COMM_NULL: not collective */
int command_plan(const CommandLine *line, MPI_Comm comm);  /* likewise */

/* ---- parsing and help, for main and its tests; not collective ---- */

typedef enum { CLI_RUN, CLI_HELP, CLI_COMMAND_HELP, CLI_CONFIG_HELP, CLI_VERSION, CLI_MAN, CLI_COMPLETION } CliAction;
typedef enum { COMPLETION_BASH, COMPLETION_ZSH } CompletionShell;

typedef struct Cli {
    CliAction action;
    CommandLine line;      /* for CLI_RUN; its command also for CLI_COMMAND_HELP */
    ConfigHelpForm form;   /* for CLI_CONFIG_HELP, */
    const char *topic;     /* or a group or key of settings; NULL: all of them */
    CompletionShell shell; /* for CLI_COMPLETION */
} Cli;

/* `commands` ends with a row whose name is NULL. False with a usage error of one line. cli_free is due in any case. */
bool cli_parse(Cli *cli, int argc, char *const argv[], const Command commands[], Error *err);
void cli_free(Cli *cli);

/* Prints what was asked for unless it is CLI_RUN. False with an error if it cannot be written. */
bool cli_answer(const Cli *cli, const Command commands[], FILE *out, Error *err);

/* This process's rank as its launcher tells it before MPI_Init, or 0: whoever is rank 0 speaks. */
int cli_launch_rank(void);

/* The number of ranks that its launcher says it has started, or 1 if it says nothing. Before MPI_Init. */
int cli_launch_size(void);

#endif
