/* Completion scripts for bash and zsh, from the tables of commands, options and settings. */
#include "cli_private.h"

#include "catdpo/config/options.h"

#include <string.h>

/* ---- what both shells offer ---- */

static bool is_file(const CommandOption *option) { return option->argument && strcmp(option->argument, "FILE") == 0; }

/* One row of those with the same name is enough. */
static bool is_offered(const CommonOption *option, const Command *command)
{
    if (option > common_options && strcmp(option[-1].name, option->name) == 0) return false;
    if (!command) return option->where != KNOWN_WITH_CONFIG || strcmp(option->name, "--set") != 0;
    return option->where == KNOWN_EVERYWHERE || (option->where == KNOWN_WITH_CONFIG && command_takes_config(command));
}

static void print_list(FILE *out, const char *const names[])
{
    for (int k = 0; names[k]; k++) fprintf(out, "%s%s", k == 0 ? "" : " ", names[k]);
}

/* The groups of settings, and the forms of --help-config. */
static void print_topics(FILE *out)
{
    print_list(out, config_help_forms);
    for (int g = 0; g < option_group_count; g++) fprintf(out, " %s", option_groups[g].name);
}

/* A case of the shell for each setting that has a few values: key, what stands before the values, and behind. */
static void print_setting_cases(FILE *out, const char *indent, const char *before, const char *behind)
{
    for (int k = 0; option_at(k); k++) {
        const Option *option = option_at(k);
        if (option->type != OPTION_BOOL && option->type != OPTION_CHOICE) continue;
        fprintf(out, "%s%s) %s", indent, option->key, before);
        if (option->type == OPTION_BOOL) fputs("true false", out);
        for (int v = 0; option->type == OPTION_CHOICE && option_choice(option, v).name; v++)
            fprintf(out, "%s%s", v == 0 ? "" : " ", option_choice(option, v).name);
        fprintf(out, "%s ;;\n", behind);
    }
}

static void print_settings(FILE *out, const char *separator)
{
    for (int k = 0; option_at(k); k++) fprintf(out, "%s%s", k == 0 ? "" : separator, option_at(k)->key);
}

/* ---- bash ---- */

static const char bash_head[] =
    "# bash completion for catdpo, made by catdpo --completion=bash\n"
    "_catdpo_files() {\n"
    "    compopt -o filenames 2>/dev/null\n"
    "    mapfile -t COMPREPLY < <(compgen \"$@\" -- \"$part\"; [ \"$2\" != '!*.cfg' ] || compgen -d -- \"$part\")\n"
    "}\n"
    "_catdpo_words() { mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$part\"); }\n"
    "_catdpo_setting() {\n"
    "    local key=${part%%=*}\n"
    "    if [ \"$key\" = \"$part\" ]; then\n"
    "        compopt -o nospace 2>/dev/null\n"
    "        mapfile -t COMPREPLY < <(compgen -S = -W \"$settings\" -- \"$part\")\n"
    "        return\n"
    "    fi\n"
    "    part=${part#*=}\n"
    "    case $key in\n";

static const char bash_start[] =
    "_catdpo() {\n"
    "    COMPREPLY=()\n"
    "    local typed=${COMP_LINE:0:COMP_POINT} words word name part\n"
    "    word=${typed##*[[:space:]]}     # as it was typed: bash itself also cuts at = and :\n"
    "    read -r -a words <<<\"${typed%\"$word\"}\"\n"
    "    local command=${words[1]:-} name=${words[${#words[@]} - 1]} part=$word\n"
    "    case $word in --*=*) name=${word%%=*} part=${word#*=} ;; esac\n"
    "    case ${#words[@]}:$word in\n";

static void bash_values(FILE *out, const Command *command)
{
    for (const CommandOption *o = command_options(command); o->name; o++) {
        if (!o->argument) continue;
        fprintf(out, "        %s:%s) ", command->name, o->name);
        if (o->choices) {
            fputs("_catdpo_words '", out);
            print_list(out, o->choices);
            fputs("'; return ;;\n", out);
        } else if (is_file(o))
            fputs("_catdpo_files -f; return ;;\n", out);
        else
            fputs("return ;;\n", out);
    }
}

static void bash_command(FILE *out, const Command *command)
{
    fprintf(out, "        %s:-*) _catdpo_words '", command->name);
    for (const CommandOption *o = command_options(command); o->name; o++) fprintf(out, "%s ", o->name);
    for (const CommonOption *o = common_options; o->name; o++)
        if (is_offered(o, command)) fprintf(out, "%s ", o->name);
    fprintf(out, "' ;;\n        %s:*) _catdpo_files %s ;;\n", command->name,
            command->folder  ? "-d"
            : command->files ? "-f"
                             : "-X '!*.cfg' -f");
}

static void print_bash(FILE *out, const Command commands[])
{
    fputs(bash_head, out);
    print_setting_cases(out, "        ", "_catdpo_words '", "'");
    fputs("        *.path | *.dir | *.model | *.cache | *.adapter) _catdpo_files -f ;;\n    esac\n}\n", out);
    fputs(bash_start, out);
    fputs("        1:--*=*) ;;\n        1:-*)\n            _catdpo_words '", out);
    for (const CommonOption *o = common_options; o->name; o++)
        if (is_offered(o, NULL)) fprintf(out, "%s ", o->name);
    fputs("'\n            return ;;\n        1:*)\n            _catdpo_words 'help ", out);
    for (const Command *c = commands; c->name; c++) fprintf(out, "%s ", c->name);
    fputs("'\n            return ;;\n    esac\n    case $command:$name in\n        *:--set)\n"
          "            local settings='",
          out);
    print_settings(out, " ");
    fputs("'\n            _catdpo_setting\n            return ;;\n        *:--help-config) _catdpo_words '", out);
    print_topics(out);
    fputs("'; return ;;\n        *:--completion) _catdpo_words '", out);
    print_list(out, completion_shells);
    fputs("'; return ;;\n        help:help) _catdpo_words '", out);
    for (const Command *c = commands; c->name; c++) fprintf(out, "%s ", c->name);
    fputs("'; return ;;\n", out);
    for (const Command *c = commands; c->name; c++) bash_values(out, c);
    fputs("    esac\n    case $command:$word in\n", out);
    for (const Command *c = commands; c->name; c++) bash_command(out, c);
    fputs("    esac\n}\ncomplete -F _catdpo catdpo\n", out);
}

/* ---- zsh ---- */

/* Help within '...[help]': no character of it ends the brackets or the quotes. */
static void zsh_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", out);
        else
            fprintf(out, strchr("[]:\\", *text) ? "\\%c" : "%c", *text);
    }
}

static void zsh_option(FILE *out, const CommandOption *o)
{
    fprintf(out, "            '%s%s[", o->name, o->argument ? "=" : "");
    zsh_text(out, o->help);
    fputc(']', out);
    if (o->argument) {
        fprintf(out, "%s", o->optional ? "::" : ":");
        zsh_text(out, o->argument);
        fputc(':', out);
        if (o->choices) {
            fputc('(', out);
            print_list(out, o->choices);
            fputc(')', out);
        } else
            fputs(is_file(o) ? "_files" : " ", out);
    }
    fputs("' \\\n", out);
}

static void zsh_common(FILE *out, const CommonOption *o)
{
    bool set = strcmp(o->name, "--set") == 0, topic = strcmp(o->name, "--help-config") == 0,
         shell = strcmp(o->name, "--completion") == 0;
    fprintf(out, "            '%s%s%s[", set ? "*" : "", o->name, set || topic || shell ? "=" : "");
    zsh_text(out, o->help);
    fputc(']', out);
    if (set) fputs(":setting:_catdpo_setting", out);
    if (topic) fputs("::group or form:(", out);
    if (topic) print_topics(out);
    if (shell) fputs(":shell:(", out);
    if (shell) print_list(out, completion_shells);
    fprintf(out, "%s' \\\n", topic || shell ? ")" : "");
}

static void zsh_command(FILE *out, const Command *command)
{
    fprintf(out, "        %s)\n            _arguments \\\n", command->name);
    for (const CommandOption *o = command_options(command); o->name; o++) zsh_option(out, o);
    for (const CommonOption *o = common_options; o->name; o++)
        if (is_offered(o, command)) zsh_common(out, o);
    fprintf(out, "            '%s' ;;\n",
            command->folder  ? ":folder:_files -/"
            : command->files ? "*:file:_files"
                             : ":config:_files -g \"*.cfg\"");
}

static void print_zsh(FILE *out, const Command commands[])
{
    fputs("#compdef catdpo\n# zsh completion for catdpo, made by catdpo --completion=zsh\n"
          "_catdpo_setting() {\n    local -a values\n    if compset -P '*='; then\n        case ${IPREFIX%=} in\n",
          out);
    print_setting_cases(out, "            *", "values=(", ")");
    fputs("            *.path | *.dir | *.model | *.cache | *.adapter) _files; return ;;\n        esac\n"
          "        compadd -a values\n    else\n        values=(",
          out);
    print_settings(out, " ");
    fputs(")\n        compadd -S = -a values\n    fi\n}\n_catdpo() {\n    local command=${words[2]:-}\n"
          "    local -a commands=(\n",
          out);
    for (const Command *c = commands; c->name; c++) {
        fprintf(out, "        '%s:", c->name);
        zsh_text(out, c->summary);
        fputs("'\n", out);
    }
    fputs("    )\n    if (( CURRENT == 2 )); then\n        _arguments \\\n", out);
    for (const CommonOption *o = common_options; o->name; o++)
        if (is_offered(o, NULL)) zsh_common(out, o);
    fputs("            ': :->command'\n        _describe command commands\n        return\n    fi\n"
          "    shift words\n    (( CURRENT-- ))\n    case $command in\n",
          out);
    for (const Command *c = commands; c->name; c++) zsh_command(out, c);
    fputs("        help) _describe command commands ;;\n    esac\n}\n"
          "if [ \"$funcstack[1]\" = _catdpo ]; then _catdpo \"$@\"; else compdef _catdpo catdpo; fi\n",
          out);
}

void cli_print_completion(FILE *out, const Command commands[], CompletionShell shell)
{
    if (shell == COMPLETION_BASH)
        print_bash(out, commands);
    else
        print_zsh(out, commands);
}
