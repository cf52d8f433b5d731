/* Writing settings: the resolved config, and the reference of all keys for people. */
#include "catdpo/config/options.h"

#include "catdpo/core/json.h"
#include "catdpo/core/roff.h"

#include <stdlib.h>
#include <string.h>

/* ---- values in libconfig syntax ---- */

static void write_string(const char *text, FILE *out)
{
    fputc('"', out);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < ' ' || c == 127)
            fprintf(out, "\\x%02x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

/* As path_expand reads it back. */
static void write_path(const char *path, FILE *out)
{
    char text[2 * CONFIG_TEXT];
    size_t used = 0;
    for (; *path; path++) {
        if (*path == '$') text[used++] = '$';
        text[used++] = *path;
    }
    text[used] = '\0';
    write_string(text, out);
}

/* The shortest of 15, 16 and 17 digits that reads back to the same number, with a point or exponent so that it stays a
 * float. */
static void write_float(double value, FILE *out)
{
    char text[64];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    fprintf(out, strpbrk(text, ".e") ? "%s" : "%s.0", text);
}

static void write_int(int64_t value, FILE *out)
{
    fprintf(out, value > INT32_MAX || value < INT32_MIN ? "%lldL" : "%lld", (long long)value);
}

static void write_value(const Option *option, const Config *config, FILE *out)
{
    const void *value = option_value(option, config);
    switch (option->type) {
    case OPTION_BOOL: fputs(*(const bool *)value ? "true" : "false", out); break;
    case OPTION_INT: write_int(*(const int64_t *)value, out); break;
    case OPTION_FLOAT:
    case OPTION_FLOAT_OR_AUTO:
    case OPTION_MINUTES: write_float(*(const double *)value, out); break;
    case OPTION_TEXT: write_string(value, out); break;
    case OPTION_PATH: write_path(value, out); break;
    case OPTION_CHOICE: write_string(option_choice(option, *(const int *)value).name, out); break;
    case OPTION_COUNT_OR_AUTO:
        if (*(const int64_t *)value == 0)
            fputs("\"auto\"", out);
        else
            write_int(*(const int64_t *)value, out);
        break;
    case OPTION_GRID: {
        const int64_t *shape = value;
        if (shape[0] == 0)
            fputs("\"auto\"", out);
        else
            fprintf(out, "[%lld, %lld]", (long long)shape[0], (long long)shape[1]);
        break;
    }
    }
}

void config_print(const Config *config, FILE *out)
{
    for (int g = 0; g < option_group_count; g++) {
        fprintf(out, "%s:\n{\n", option_groups[g].name);
        for (int k = 0; option_at(k); k++) {
            if (!option_in_group(option_at(k), &option_groups[g])) continue;
            fprintf(out, "    %s = ", strchr(option_at(k)->key, '.') + 1);
            write_value(option_at(k), config, out);
            fputs(";\n", out);
        }
        fputs("};\n", out);
    }
}

/* ---- values in JSON ---- */

static void write_json(const Option *option, const Config *config, const char *key, Json *j)
{
    const void *value = option_value(option, config);
    switch (option->type) {
    case OPTION_BOOL: json_bool(j, key, *(const bool *)value); break;
    case OPTION_INT: json_integer(j, key, *(const int64_t *)value); break;
    case OPTION_FLOAT:
    case OPTION_FLOAT_OR_AUTO:
    case OPTION_MINUTES: json_number(j, key, *(const double *)value); break;
    case OPTION_TEXT:
    case OPTION_PATH: json_text(j, key, value); break;
    case OPTION_CHOICE: json_text(j, key, option_choice(option, *(const int *)value).name); break;
    case OPTION_COUNT_OR_AUTO:
        if (*(const int64_t *)value == 0)
            json_text(j, key, "auto");
        else
            json_integer(j, key, *(const int64_t *)value);
        break;
    case OPTION_GRID: {
        const int64_t *shape = value;
        if (shape[0] == 0) {
            json_text(j, key, "auto");
            break;
        }
        json_array(j, key);
        json_integer(j, NULL, shape[0]);
        json_integer(j, NULL, shape[1]);
        json_close(j);
        break;
    }
    }
}

char *config_text(const Config *config)
{
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    if (!stream) return NULL;
    config_print(config, stream);
    if (fclose(stream) == 0) return text;
    free(text);
    return NULL;
}

void config_print_json(const Config *config, FILE *out)
{
    Json j = json_begin(out);
    json_object(&j, NULL);
    for (int g = 0; g < option_group_count; g++) {
        json_break(&j);
        json_object(&j, option_groups[g].name);
        for (int k = 0; option_at(k); k++) {
            if (!option_in_group(option_at(k), &option_groups[g])) continue;
            json_break(&j);
            write_json(option_at(k), config, strchr(option_at(k)->key, '.') + 1, &j);
        }
        json_close(&j);
    }
    json_close(&j);
    fputc('\n', out);
}

/* ---- differences ---- */

static bool is_listed(const char *key, const char *const list[])
{
    for (; *list; list++) {
        size_t length = strlen(*list);
        if ((*list)[length - 1] == '.' ? strncmp(key, *list, length) == 0 : strcmp(key, *list) == 0) return true;
    }
    return false;
}

/* False without memory. */
static bool value_text(const Option *option, const Config *config, char *text, size_t size)
{
    memset(text, 0, size);
    FILE *stream = fmemopen(text, size - 1, "w");
    if (!stream) return false;
    write_value(option, config, stream);
    fclose(stream);
    return true;
}

const char *config_difference(const Config *now, const Config *then, const char *const keys[],
                              const char *const except[], char *text, size_t size)
{
    for (int k = 0; option_at(k); k++) {
        const Option *option = option_at(k);
        if (!is_listed(option->key, keys) || is_listed(option->key, except)) continue;
        char new_value[128], old_value[128];
        bool known = value_text(option, now, new_value, sizeof new_value) &&
                     value_text(option, then, old_value, sizeof old_value);
        if (known && strcmp(new_value, old_value) == 0) continue;
        if (known)
            snprintf(text, size, "%s is %s, was %s", option->key, new_value, old_value);
        else
            snprintf(text, size, "%s cannot be compared: out of memory", option->key);
        return option->key;
    }
    return NULL;
}

void config_print_changes(const Config *config, const char *indent, FILE *out)
{
    Config defaults;
    Error ignored = { 0 };
    CHECK(config_load(&defaults, NULL, 0, NULL, &ignored));
    for (int k = 0; option_at(k); k++) {
        char value[CONFIG_TEXT + 16], preset[CONFIG_TEXT + 16];
        value_text(option_at(k), config, value, sizeof value);
        value_text(option_at(k), &defaults, preset, sizeof preset);
        if (strcmp(value, preset) != 0) fprintf(out, "%s%s = %s\n", indent, option_at(k)->key, value);
    }
}

/* ---- help ---- */

/* Type, choices and bounds of an option in a few words. */
static void write_kind(const Option *option, const char *quote, FILE *out)
{
    switch (option->type) {
    case OPTION_BOOL: fputs("true or false", out); break;
    case OPTION_INT: fprintf(out, "integer in %s", option->bounds); break;
    case OPTION_FLOAT: fprintf(out, "number in %s", option->bounds); break;
    case OPTION_FLOAT_OR_AUTO: fprintf(out, "%s\"auto\"%s or number in %s", quote, quote, option->bounds); break;
    case OPTION_MINUTES:
        fprintf(out, "minutes in %s or %s\"hours:minutes:seconds\"%s", option->bounds, quote, quote);
        break;
    case OPTION_TEXT: fputs("string", out); break;
    case OPTION_PATH: fputs("path", out); break;
    case OPTION_CHOICE:
        for (int k = 0; k < option_choices(option); k++)
            fprintf(out, "%s%s\"%s\"%s", k == 0 ? "" : ", ", quote, option_choice(option, k).name, quote);
        break;
    case OPTION_COUNT_OR_AUTO: fprintf(out, "%s\"auto\"%s or integer in %s", quote, quote, option->bounds); break;
    case OPTION_GRID:
        fprintf(out, "%s\"auto\"%s or %s[rows, columns]%s, each in %s", quote, quote, quote, quote, option->bounds);
        break;
    }
}

/* "cdpo, robust: " before a setting that only these objectives read. */
static void write_readers(const Option *option, FILE *out)
{
    int readers = 0, all = 0;
    for (; objective_choice(all).name; all++) readers += objective_reads(all, option->key);
    if (readers == 0 || readers == all) return;
    char names[256];
    option_readers(option, "", names, sizeof names);
    fprintf(out, "%s: ", names);
}

/* Meaning of the option, of each of its choices where a table explains them, and who reads it if not all objectives do.
 */
static void write_meaning(const Option *option, FILE *out)
{
    write_readers(option, out);
    fputs(option->help, out);
    for (int k = 0; option->type == OPTION_CHOICE && option_choice(option, k).help; k++)
        fprintf(out, "%s%s: %s", k > 0 || *option->help ? " " : "", option_choice(option, k).name,
                option_choice(option, k).help);
}

static void write_plain_kind(const Option *option, FILE *out) { write_kind(option, "", out); }

enum { WORDS = 16384 };

/* What one of these writes, as text. */
static const char *words(void (*write)(const Option *, FILE *), const Option *option, char text[WORDS])
{
    memset(text, 0, WORDS);
    FILE *out = fmemopen(text, WORDS - 1, "w");
    if (!out) return "out of memory for what it means";
    write(option, out);
    bool whole = fclose(out) == 0 && strlen(text) < WORDS - 2;
    CHECK(whole);
    return text;
}

/* Words of text on lines of at most `width` columns, each line after `prefix`. */
static void write_wrapped(const char *prefix, int width, const char *text, FILE *out)
{
    int column = 0;
    while (*text) {
        int word = (int)strcspn(text, " ");
        if (column > 0 && column + 1 + word > width) {
            fputc('\n', out);
            column = 0;
        }
        column += fprintf(out, "%s%.*s", column == 0 ? prefix : " ", word, text);
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void help_option(const Option *option, FILE *out)
{
    char text[WORDS];
    const char *kind = words(write_plain_kind, option, text);
    bool fits = strlen(kind) <= 60;
    fprintf(out, fits ? "  %s = %s  (%s)\n" : "  %s = %s\n", option->key, option->preset, kind);
    if (!fits) write_wrapped("      ", 100, kind, out);
    write_wrapped("      ", 100, words(write_meaning, option, text), out);
}

static void help_text(const OptionGroup *group, FILE *out)
{
    char head[256];
    snprintf(head, sizeof head, "%s: %s", group->name, group->help);
    write_wrapped("", 100, head, out);
    for (int k = 0; option_at(k); k++)
        if (option_in_group(option_at(k), group)) help_option(option_at(k), out);
}

static void help_markdown(const OptionGroup *group, FILE *out)
{
    fprintf(out, "\n**%s**: %s\n\n| key | default | values | meaning |\n| --- | --- | --- | --- |\n", group->name,
            group->help);
    for (int k = 0; option_at(k); k++) {
        const Option *option = option_at(k);
        if (!option_in_group(option, group)) continue;
        fprintf(out, "| `%s` | `%s` | ", option->key, option->preset);
        write_kind(option, "`", out);
        fputs(" | ", out);
        char text[WORDS];
        for (const char *c = words(write_meaning, option, text); *c; c++) {
            if (*c == '|') fputc('\\', out); /* would end the table's cell */
            fputc(*c, out);
        }
        fputs(" |\n", out);
    }
}

static void help_cfg(const OptionGroup *group, FILE *out)
{
    fputc('\n', out);
    write_wrapped("# ", 100, group->help, out);
    fprintf(out, "%s:\n{\n", group->name);
    bool first = true;
    for (int k = 0; option_at(k); k++) {
        const Option *option = option_at(k);
        if (!option_in_group(option, group)) continue;
        if (!first) fputc('\n', out);
        first = false;
        char text[WORDS];
        write_wrapped("    # ", 100, words(write_meaning, option, text), out);
        write_wrapped("    # ", 100, words(write_plain_kind, option, text), out);
        fprintf(out, "    %s = %s;\n", strchr(option->key, '.') + 1, option->preset);
    }
    fputs("};\n", out);
}

static void help_man(const OptionGroup *group, FILE *out)
{
    fprintf(out, ".SH SETTINGS OF %s\n", group->name);
    roff_text(out, group->help);
    fputc('\n', out);
    for (int k = 0; option_at(k); k++) {
        const Option *option = option_at(k);
        if (!option_in_group(option, group)) continue;
        char text[WORDS];
        fprintf(out, ".TP\n\\fB%s\\fR = ", option->key);
        roff_text(out, option->preset);
        fputc('\n', out);
        roff_text(out, words(write_meaning, option, text));
        fputs("\n.br\n(", out);
        roff_text(out, words(write_plain_kind, option, text));
        fputs(")\n", out);
    }
}

static const char man_head[] =
    ".TH CATDPO.CFG 5 \"\" \"catdpo\" \"File Formats\"\n.nh\n.ad l\n.SH NAME\ncatdpo.cfg \\- settings of a run of "
    "catdpo\n"
    ".SH DESCRIPTION\nThe CONFIG of the commands of \\fBcatdpo\\fR(1): a file in libconfig's syntax, in which the "
    "settings\n"
    "of a group stand together. What is not in it has the default that is shown here.\n"
    ".PP\n.nf\n    margin: { eta = 0.1; target = 0.2; };\n    @include \"base.cfg\"\n.fi\n.PP\n"
    "On the command line \\fB\\-\\-set margin.eta=0.2\\fR goes before the file. In paths ~ and $NAME are expanded;\n"
    "relative ones are relative to the working directory, those of @include to the file.\n";

void config_help(FILE *out, ConfigHelpForm form)
{
    switch (form) {
    case CONFIG_HELP_TEXT:
        fputs("All settings with their defaults. In a config file the settings of a group stand together,\n"
              "    margin: { eta = 0.1; target = 0.2; };\n"
              "and @include \"base.cfg\" reads another file first. On the command line: --set margin.eta=0.2\n"
              "--set goes before the file, the file before the default.\n",
              out);
        break;
    case CONFIG_HELP_MARKDOWN: break;
    case CONFIG_HELP_MAN: fputs(man_head, out); break;
    case CONFIG_HELP_CFG:
        fputs("# Every setting of catdpo with its default. Made by `catdpo --help-config=cfg`: change the table in\n"
              "# src/config/options.c, not this file. A config of your own needs only what differs from here;\n"
              "# --set group.key=value on the command line goes before the file.\n",
              out);
        break;
    }
    for (int g = 0; g < option_group_count; g++) {
        if (form == CONFIG_HELP_TEXT) {
            fputc('\n', out);
            help_text(&option_groups[g], out);
        }
        if (form == CONFIG_HELP_MARKDOWN) help_markdown(&option_groups[g], out);
        if (form == CONFIG_HELP_CFG) help_cfg(&option_groups[g], out);
        if (form == CONFIG_HELP_MAN) help_man(&option_groups[g], out);
    }
}

/* ---- one topic ---- */

static int find_group(const char *name)
{
    for (int g = 0; g < option_group_count; g++)
        if (strcmp(option_groups[g].name, name) == 0) return g;
    return -1;
}

bool config_has_topic(const char *topic, Error *err)
{
    if (find_group(topic) >= 0 || option_find(topic) >= 0) return true;
    const OptionAlias *alias = option_alias(topic);
    if (alias && alias->key) return error_usage(err, "there is no setting '%.60s'; here it is '%s'", topic, alias->key);
    if (strchr(topic, '.'))
        return error_usage(err, "there is no setting '%.60s'; the nearest one is '%s'", topic,
                           option_at(option_nearest(topic))->key);
    char list[512] = "";
    for (int g = 0; g < option_group_count; g++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", g > 0 ? ", " : "", option_groups[g].name);
    }
    return error_usage(err, "there is no group of settings '%.60s'; the groups are %s", topic, list);
}

bool config_help_topic(FILE *out, const char *topic, Error *err)
{
    if (!config_has_topic(topic, err)) return false;
    int group = find_group(topic);
    if (group >= 0)
        help_text(&option_groups[group], out);
    else
        help_option(option_at(option_find(topic)), out);
    return true;
}
