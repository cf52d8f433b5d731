/* catdpo(1), from the tables of commands and options. The settings have catdpo.cfg(5): src/config/help.c. */
#include "cli_private.h"

#include "catdpo/core/roff.h"
#include "version.h"

#include <stdlib.h>

/* A heading of an option: what is typed in bold. */
static void print_tag(FILE *out, const char *text)
{
    fputs(".TP\n\\fB", out);
    roff_text(out, text);
    fputs("\\fR\n", out);
}

static void print_lines(FILE *out, const char *text)
{
    fputs(".nf\n", out);
    roff_text(out, text);
    fputs(".fi\n", out);
}

static void print_common_options(FILE *out)
{
    fputs(".SH OPTIONS OF ALL COMMANDS\n", out);
    for (const CommonOption *o = common_options; o->name; o++) {
        print_tag(out, o->usage);
        roff_text(out, o->help);
        fputc('\n', out);
    }
}

static void print_command(FILE *out, const Command *command)
{
    fprintf(out, ".SS catdpo %s\n", command->name);
    roff_text(out, command->summary);
    fputs("\n.PP\n.nf\n", out);
    char *usage = NULL;
    size_t size;
    FILE *text = open_memstream(&usage, &size);
    if (text) {
        command_print_usage(text, command, 8);
        fclose(text);
        roff_text(out, usage);
        free(usage);
    }
    fputs("\n.fi\n.PP\n", out);
    roff_text(out, command->help);
    for (const CommandOption *o = command_options(command); o->name; o++) {
        char tag[96];
        snprintf(tag, sizeof tag, !o->argument ? "%s" : o->optional ? "%s [%s]" : "%s %s", o->name, o->argument);
        print_tag(out, tag);
        roff_text(out, o->help);
        for (int k = 0; o->choices && o->choices[k]; k++)
            fprintf(out, "%s%s", k == 0 ? ": " : o->choices[k + 1] ? ", " : " or ", o->choices[k]);
        fputc('\n', out);
    }
}

void cli_print_man(FILE *out, const Command commands[])
{
    fprintf(out, ".TH CATDPO 1 \"\" \"catdpo %s\" \"User Commands\"\n.nh\n.ad l\n", CATDPO_VERSION);
    fputs(".SH NAME\ncatdpo \\- train language models to be safe in every harm category\n.SH SYNOPSIS\n", out);
    for (const Command *c = commands; c->name; c++)
        fprintf(out, "%s.B catdpo %s\n%s [\\fIOPTION\\fR]...\n", c == commands ? "" : ".br\n", c->name,
                command_operand(c));
    fputs(".SH DESCRIPTION\n"
          "Cat-DPO is direct preference optimisation with a safety margin for each harm category, which grows while\n"
          "the model still prefers unsafe responses in that category. The program runs under MPI on any number of\n"
          "ranks (\\fBmpirun \\-n 4 catdpo train run.cfg\\fR, or the launcher of a batch system); \\fBcheck\\fR and\n"
          "\\fBplan\\fR need none. The settings in CONFIG are those of \\fBcatdpo.cfg\\fR(5). Models and data are\n"
          "made, and results shown, by \\fBcatdpo\\-analysis\\fR.\n",
          out);
    fputs(".SH COMMANDS\n", out);
    for (const Command *c = commands; c->name; c++) print_command(out, c);
    print_common_options(out);
    fputs(".SH EXIT STATUS\nThe same on every rank.\n", out);
    for (const ExitMeaning *e = exit_meanings; e->meaning; e++) {
        fprintf(out, ".TP\n.B %d\n", e->status);
        roff_text(out, e->meaning);
        fputc('\n', out);
    }
    fputs(".SH EXAMPLES\n", out);
    for (const Command *c = commands; c->name; c++) print_lines(out, c->examples);
    fputs(".SH SEE ALSO\n.BR catdpo.cfg (5),\n.BR mpirun (1)\n", out);
}
