/* Filling a Config: the defaults, the file and the --set overrides are all libconfig text, applied one after the other
 * to the same table; the place where each key was last set is kept for messages. */
#include "catdpo/config/options.h"
#include "catdpo/config/source.h"

#include "catdpo/core/nearest.h"
#include "catdpo/core/path.h"

#include <ctype.h>
#include <libconfig.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLACE_SIZE = 512, VALUE_SIZE = 128, MOST_OPTIONS = 128, MOST_CHOICES = 32, MOST_FAULTS = 20 };

typedef struct Loader {
    Config *config;
    Error faults; /* the first of them, a line each: at most MOST_FAULTS, and what there is room for */
    int told;     /* how many these are */
    int count;    /* of all faults */
    char place[MOST_OPTIONS]
              [PLACE_SIZE]; /* "file:line" or "--set key=value" that last set an option; "" for a default */
} Loader;

/* ---- one value ---- */

/* What a setting holds, in words for a message. */
static const char *describe(const config_setting_t *setting, char text[VALUE_SIZE])
{
    switch (config_setting_type(setting)) {
    case CONFIG_TYPE_INT:
    case CONFIG_TYPE_INT64: snprintf(text, VALUE_SIZE, "the integer %lld", config_setting_get_int64(setting)); break;
    case CONFIG_TYPE_FLOAT: snprintf(text, VALUE_SIZE, "the number %g", config_setting_get_float(setting)); break;
    case CONFIG_TYPE_BOOL: snprintf(text, VALUE_SIZE, "%s", config_setting_get_bool(setting) ? "true" : "false"); break;
    case CONFIG_TYPE_STRING: {
        const char *string = config_setting_get_string(setting);
        snprintf(text, VALUE_SIZE, "the string \"%.60s%s\"", string, strlen(string) > 60 ? "..." : "");
        break;
    }
    case CONFIG_TYPE_GROUP: snprintf(text, VALUE_SIZE, "a group"); break;
    default: snprintf(text, VALUE_SIZE, "a list of %d", config_setting_length(setting)); break;
    }
    return text;
}

static bool refuse_type(const Option *option, const config_setting_t *setting, const char *wanted, const char *place,
                        Error *err)
{
    char found[VALUE_SIZE];
    return error_usage(err, "%s: %s must be %s, not %s", place, option->key, wanted, describe(setting, found));
}

static bool is_integer(const config_setting_t *setting)
{
    int type = config_setting_type(setting);
    return type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64;
}

static bool is_auto(const config_setting_t *setting)
{
    return config_setting_type(setting) == CONFIG_TYPE_STRING &&
           strcmp(config_setting_get_string(setting), "auto") == 0;
}

static bool check_bounds(const Option *option, double value, const char *place, Error *err)
{
    if (isfinite(value) && option_in_bounds(option->bounds, value)) return true;
    return error_usage(err, "%s: %s = %.15g is outside %s", place, option->key, value, option->bounds);
}

static bool set_int(const Option *option, const config_setting_t *setting, int64_t *field, const char *wanted,
                    const char *place, Error *err)
{
    if (!is_integer(setting)) return refuse_type(option, setting, wanted, place, err);
    long long value = config_setting_get_int64(setting);
    if (!check_bounds(option, (double)value, place, err)) return false;
    *field = value;
    return true;
}

static bool set_float(const Option *option, const config_setting_t *setting, double *field, const char *place,
                      Error *err)
{
    double value;
    if (is_integer(setting))
        value = (double)config_setting_get_int64(setting);
    else if (config_setting_type(setting) == CONFIG_TYPE_FLOAT)
        value = config_setting_get_float(setting);
    else
        return refuse_type(option, setting, "a number", place, err);
    if (!check_bounds(option, value, place, err)) return false;
    *field = value;
    return true;
}

/* "12:00:00", "1-12:00:00": hours, minutes, seconds, after days. As SLURM has them, but not "12:00", which is hours to
 * some and minutes to SLURM. */
static bool parse_duration(const char *text, double *minutes)
{
    unsigned days = 0, hours, left, seconds;
    int length = 0;
    if (strspn(text, "0123456789:-") != strlen(text) || !isdigit((unsigned char)*text)) return false;
    const char *clock = text;
    if (sscanf(text, "%4u-%n", &days, &length) == 1 && length > 0)
        clock += length;
    else
        days = 0;
    length = 0;
    bool ok = strchr(clock, '-') == NULL && sscanf(clock, "%5u:%2u:%2u%n", &hours, &left, &seconds, &length) == 3 &&
              length > 0 && !clock[length] && left < 60 && seconds < 60;
    if (ok) *minutes = 1440.0 * days + 60.0 * hours + left + seconds / 60.0;
    return ok;
}

static bool set_minutes(const Option *option, const config_setting_t *setting, double *field, const char *place,
                        Error *err)
{
    if (config_setting_type(setting) == CONFIG_TYPE_STRING) {
        if (parse_duration(config_setting_get_string(setting), field)) return true;
        return refuse_type(option, setting, "a number of minutes or \"hours:minutes:seconds\"", place, err);
    }
    return set_float(option, setting, field, place, err);
}

static bool set_text(const Option *option, const config_setting_t *setting, char *field, const char *place, Error *err)
{
    if (config_setting_type(setting) != CONFIG_TYPE_STRING)
        return refuse_type(option, setting, "a string in quotes", place, err);
    const char *value = config_setting_get_string(setting);
    size_t length = strlen(value);
    if (length >= CONFIG_TEXT)
        return error_usage(err, "%s: %s is longer than %d bytes", place, option->key, CONFIG_TEXT - 1);
    memset(field, 0, CONFIG_TEXT);
    memcpy(field, value, length);
    return true;
}

static bool set_choice(const Option *option, const config_setting_t *setting, int *field, const char *place, Error *err)
{
    char list[VALUE_SIZE] = "";
    const char *names[MOST_CHOICES];
    int count = option_choices(option);
    CHECK(count <= MOST_CHOICES);
    for (int k = 0; k < count; k++) {
        size_t used = strlen(list);
        const char *joint = k == 0 ? "" : k == count - 1 ? " or " : ", ";
        names[k] = option_choice(option, k).name;
        snprintf(list + used, sizeof list - used, "%s\"%s\"", joint, names[k]);
    }
    if (config_setting_type(setting) != CONFIG_TYPE_STRING) return refuse_type(option, setting, list, place, err);
    const char *value = config_setting_get_string(setting);
    for (int k = 0; k < count; k++)
        if (strcmp(value, names[k]) == 0) {
            *field = k;
            return true;
        }
    const char *nearest = names[nearest_name(value, names, count)];
    if (!is_likely_meant(value, nearest)) return refuse_type(option, setting, list, place, err);
    return error_usage(err, "%s: %s must be %s; did you mean \"%s\" with \"%.60s\"?", place, option->key, list, nearest,
                       value);
}

static bool set_grid(const Option *option, const config_setting_t *setting, int64_t field[2], const char *place,
                     Error *err)
{
    static const char wanted[] = "\"auto\" or [rows, columns]";
    if (is_auto(setting)) {
        field[0] = field[1] = 0;
        return true;
    }
    int type = config_setting_type(setting);
    if ((type != CONFIG_TYPE_ARRAY && type != CONFIG_TYPE_LIST) || config_setting_length(setting) != 2)
        return refuse_type(option, setting, wanted, place, err);
    int64_t shape[2];
    for (int k = 0; k < 2; k++)
        if (!set_int(option, config_setting_get_elem(setting, (unsigned)k), &shape[k], "two integers", place, err))
            return false;
    memcpy(field, shape, sizeof shape);
    return true;
}

static bool set_option(const Option *option, const config_setting_t *setting, Config *config, const char *place,
                       Error *err)
{
    void *field = option_field(option, config);
    switch (option->type) {
    case OPTION_BOOL:
        if (config_setting_type(setting) != CONFIG_TYPE_BOOL)
            return refuse_type(option, setting, "true or false", place, err);
        *(bool *)field = config_setting_get_bool(setting);
        return true;
    case OPTION_INT: return set_int(option, setting, field, "an integer", place, err);
    case OPTION_FLOAT: return set_float(option, setting, field, place, err);
    case OPTION_FLOAT_OR_AUTO:
        if (is_auto(setting)) {
            *(double *)field = NAN;
            return true;
        }
        return set_float(option, setting, field, place, err);
    case OPTION_MINUTES: return set_minutes(option, setting, field, place, err);
    case OPTION_TEXT:
    case OPTION_PATH: return set_text(option, setting, field, place, err);
    case OPTION_CHOICE: return set_choice(option, setting, field, place, err);
    case OPTION_COUNT_OR_AUTO:
        if (is_auto(setting)) {
            *(int64_t *)field = 0;
            return true;
        }
        return set_int(option, setting, field, "an integer or \"auto\"", place, err);
    case OPTION_GRID: return set_grid(option, setting, field, place, err);
    }
    return false;
}

/* ---- one file ---- */

/* A fault does not end the reading: the others are wanted as well. */
static void note_fault(Loader *loader, const Error *fault)
{
    enum { LAST_LINE = 64 }; /* "... and 5 more" */
    size_t room = sizeof loader->faults.message - LAST_LINE;
    loader->count++;
    if (loader->told == MOST_FAULTS || strlen(loader->faults.message) + strlen(fault->message) + 1 > room) return;
    error_also(&loader->faults, fault);
    loader->told++;
}

/* "margin has initial, min, ..." for a group that is known, the first of them if they are many, else where to look. */
static void list_keys(const char *key, char *text, size_t size)
{
    int group = 0;
    size_t length = strcspn(key, ".");
    while (group < option_group_count &&
           (strlen(option_groups[group].name) != length || strncmp(option_groups[group].name, key, length) != 0))
        group++;
    snprintf(text, size, group < option_group_count ? "; %s has" : "; catdpo --help-config lists all",
             option_groups[group < option_group_count ? group : 0].name);
    enum { SHOWN = 12 };
    int n = 0;
    for (int k = 0; group < option_group_count && option_at(k); k++) {
        if (!option_in_group(option_at(k), &option_groups[group]) || n++ >= SHOWN) continue;
        size_t used = strlen(text);
        snprintf(text + used, size - used, "%s %s", n > 1 ? "," : "", strchr(option_at(k)->key, '.') + 1);
    }
    size_t used = strlen(text);
    if (n > SHOWN)
        snprintf(text + used, size - used, " and %d more: catdpo --help-config %s", n - SHOWN,
                 option_groups[group].name);
}

static bool refuse_key(const char *key, const char *place, Error *err)
{
    const OptionAlias *alias = option_alias(key);
    if (alias && alias->key)
        return error_usage(err, "%s: unknown key '%.100s'; here it is '%s'%s%s", place, key, alias->key,
                           alias->note ? ": " : "", alias->note ? alias->note : "");
    if (alias) return error_usage(err, "%s: unknown key '%.100s': %s", place, key, alias->note);
    const char *nearest = option_at(option_nearest(key))->key;
    const char *point = strrchr(key, '.'), *name = point ? point + 1 : key;
    if (is_likely_meant(name, strchr(nearest, '.') + 1))
        return error_usage(err, "%s: unknown key '%.100s'; the nearest known one is '%s'", place, key, nearest);
    char known[512];
    list_keys(key, known, sizeof known);
    return error_usage(err, "%s: unknown key '%.100s'%s", place, key, known);
}

static bool refuse_group(const config_setting_t *setting, const char *place, Error *err)
{
    const char *name = config_setting_name(setting);
    const char *names[MOST_OPTIONS] = { "" };
    char list[VALUE_SIZE * 2] = "";
    for (int g = 0; g < option_group_count; g++) {
        size_t used = strlen(list);
        names[g] = option_groups[g].name;
        snprintf(list + used, sizeof list - used, "%s%s", g > 0 ? ", " : "", names[g]);
    }
    const char *nearest = names[nearest_name(name, names, option_group_count)];
    if (strcmp(nearest, name) == 0) {
        char found[VALUE_SIZE];
        return error_usage(err, "%s: %s must be a group, %s: { ... };, not %s", place, name, name,
                           describe(setting, found));
    }
    if (!config_setting_is_group(setting)) return refuse_key(name, place, err);
    if (!is_likely_meant(name, nearest))
        return error_usage(err, "%s: unknown group '%.100s'; the groups are %s", place, name, list);
    return error_usage(err, "%s: unknown group '%.100s'; the nearest known one is '%s'", place, name, nearest);
}

static bool apply_setting(Loader *loader, const char *group, const config_setting_t *setting, const SourcePart *part,
                          Error *err)
{
    char place[PLACE_SIZE], key[VALUE_SIZE];
    snprintf(place, sizeof place, "%s:%d", part->path, part->line + (int)config_setting_source_line(setting) - 1);
    snprintf(key, sizeof key, "%s.%s", group, config_setting_name(setting));
    int option = option_find(key);
    if (option < 0) return refuse_key(key, place, err);
    if (!set_option(option_at(option), setting, loader->config, place, err)) return false;
    strcpy(loader->place[option], place);
    return true;
}

static void apply_group(Loader *loader, const config_setting_t *group, const SourcePart *part)
{
    for (int k = 0; k < config_setting_length(group); k++) {
        Error fault = { 0 };
        if (!apply_setting(loader, config_setting_name(group), config_setting_get_elem(group, (unsigned)k), part,
                           &fault))
            note_fault(loader, &fault);
    }
}

/* The line on which libconfig gave up, without the blanks around it, for a message. */
static const char *line_of(const char *text, int line, int *length)
{
    for (; line > 1 && strchr(text, '\n'); line--) text = strchr(text, '\n') + 1;
    text += strspn(text, " \t");
    *length = (int)strcspn(text, "\r\n");
    return text;
}

/* How the line should look: settings stand in groups, also where other formats have points or indents. */
static void write_remedy(const char *text, int length, char remedy[VALUE_SIZE])
{
    char group[32], key[32];
    int end = 0;
    if (length > 0 && sscanf(text, "%31[a-z_0-9].%31[a-z_0-9] %n", group, key, &end) == 2 && end > 0 &&
        (text[end] == '=' || text[end] == ':'))
        snprintf(remedy, VALUE_SIZE, "; write it in its group: %s: { %s = ...; };", group, key);
    else
        snprintf(remedy, VALUE_SIZE, "; settings are written so: margin: { eta = 0.1; target = 0.2; };");
}

static void note_syntax(Loader *loader, const config_t *file, const SourcePart *part)
{
    Error fault = { 0 };
    char remedy[VALUE_SIZE];
    int length, line = config_error_line(file);
    const char *text = line_of(part->text, line, &length);
    bool end = length == 0;
    write_remedy(text, length, remedy);
    error_usage(&fault, "%s:%d: %s %s%.*s%s%s", part->path, part->line + line - 1, config_error_text(file),
                end ? "at the end" : "at or before '", length > 80 ? 80 : length, text, end ? "" : "'",
                strncmp(config_error_text(file), "syntax", 6) == 0 ? remedy : "");
    note_fault(loader, &fault);
}

/* A SourceVisit whose context is the Loader. */
static bool apply_part(const SourcePart *part, void *context, Error *err)
{
    (void)err;
    Loader *loader = context;
    config_t file;
    config_init(&file);
    bool read = config_read_string(&file, part->text) == CONFIG_TRUE;
    if (!read) note_syntax(loader, &file, part);
    const config_setting_t *root = config_root_setting(&file);
    for (int g = 0; read && g < config_setting_length(root); g++) {
        const config_setting_t *group = config_setting_get_elem(root, (unsigned)g);
        bool known = false;
        for (int i = 0; i < option_group_count; i++)
            known = known || strcmp(option_groups[i].name, config_setting_name(group)) == 0;
        if (known && config_setting_is_group(group))
            apply_group(loader, group, part);
        else {
            Error fault = { 0 };
            char place[PLACE_SIZE];
            snprintf(place, sizeof place, "%s:%d", part->path, part->line + (int)config_setting_source_line(group) - 1);
            refuse_group(group, place, &fault);
            note_fault(loader, &fault);
        }
    }
    config_destroy(&file);
    return true;
}

/* ---- one --set ---- */

typedef struct Override {
    Loader *loader;
    const Option *option;
    const char *place;
    bool done; /* the value was valid libconfig and has been applied (or refused) */
} Override;

/* A SourceVisit whose context is the Override: "value = ..." with the value of the command line. */
static bool apply_value(const SourcePart *part, void *context, Error *err)
{
    Override *override = context;
    config_t line;
    config_init(&line);
    bool ok = true;
    if (config_read_string(&line, part->text) == CONFIG_TRUE &&
        config_setting_length(config_root_setting(&line)) == 1) {
        const config_setting_t *setting = config_setting_get_elem(config_root_setting(&line), 0);
        OptionType type = override->option->type;
        bool text = type == OPTION_TEXT || type == OPTION_PATH || type == OPTION_CHOICE;
        /* run.dir=2024 is the string "2024" */
        override->done = !text || config_setting_type(setting) == CONFIG_TYPE_STRING;
        if (override->done) ok = set_option(override->option, setting, override->loader->config, override->place, err);
    }
    config_destroy(&line);
    return ok;
}

static bool apply_word(Override *override, const char *word, Error *err)
{
    config_t line;
    config_init(&line);
    config_setting_t *setting = config_setting_add(config_root_setting(&line), "value", CONFIG_TYPE_STRING);
    bool ok = config_setting_set_string(setting, word) == CONFIG_TRUE
                  ? set_option(override->option, setting, override->loader->config, override->place, err)
                  : error_fault(err, "%s: no memory left to read it", override->place);
    config_destroy(&line);
    return ok;
}

static bool apply_set(Loader *loader, const char *set, Error *err)
{
    char place[PLACE_SIZE], key[VALUE_SIZE];
    snprintf(place, sizeof place, "--set %.200s", set);
    const char *equals = strchr(set, '=');
    if (!equals) return error_usage(err, "%s: needs group.key=value", place);
    const char *key_end = equals;
    while (set < key_end && isspace((unsigned char)*set)) set++;
    while (set < key_end && isspace((unsigned char)key_end[-1])) key_end--;
    snprintf(key, sizeof key, "%.*s", (int)(key_end - set), set);
    int option = option_find(key);
    if (option < 0) return refuse_key(key, place, err);

    const char *value = equals + 1;
    size_t size = strlen(value) + 16;
    char *text = malloc(size);
    if (!text) return error_fault(err, "%s: no memory left to read it", place);
    snprintf(text, size, "value = %s", value);
    Override override = { loader, option_at(option), place, false };
    bool ok = source_read_text(text, place, apply_value, &override, err);
    free(text);
    if (ok && !override.done) ok = apply_word(&override, value, err);
    if (ok) strcpy(loader->place[option], place);
    return ok;
}

/* ---- the whole ---- */

static bool apply_defaults(Loader *loader, Error *err)
{
    for (int k = 0; option_at(k); k++) {
        char text[VALUE_SIZE];
        snprintf(text, sizeof text, "value = %s;", option_at(k)->preset);
        Override override = { loader, option_at(k), option_at(k)->key, false };
        if (!source_read_text(text, option_at(k)->key, apply_value, &override, err)) return false;
        CHECK(override.done);
    }
    return true;
}

static bool check_agreement(Loader *loader, Error *err)
{
    const char *keys[2];
    char message[512];
    if (options_agree(loader->config, keys, message, sizeof message)) return true;
    for (int k = 0; k < 2; k++) { /* the first of the two keys that the user set */
        const char *place = loader->place[option_find(keys[k])];
        if (place[0]) return error_usage(err, "%s: %s", place, message);
    }
    return error_usage(err, "%s", message);
}

/* ~ and $NAME in the paths that are left when all have been heard: a config may name what is only set elsewhere. */
static void expand_paths(Loader *loader)
{
    for (int k = 0; option_at(k); k++) {
        char *field = option_field(option_at(k), loader->config), path[CONFIG_TEXT], place[PLACE_SIZE + VALUE_SIZE];
        if (option_at(k)->type != OPTION_PATH || path_is_plain(field)) continue;
        Error fault = { 0 };
        snprintf(place, sizeof place, "%s: %s", loader->place[k], option_at(k)->key);
        if (!path_expand(field, path, sizeof path, place, &fault)) {
            note_fault(loader, &fault);
            continue;
        }
        memset(field, 0, CONFIG_TEXT);
        strcpy(field, path);
    }
}

/* All faults that were found, or what contradicts each other where there are none. */
static bool finish(Loader *loader, bool agree, Error *err)
{
    if (loader->count > loader->told) {
        Error more = { 0 };
        error_usage(&more, "... and %d more", loader->count - loader->told);
        error_also(&loader->faults, &more);
    }
    if (loader->count > 0) *err = loader->faults;
    objective_resolve(&loader->config->objective);
    margin_resolve(&loader->config->margin);
    return loader->count == 0 && (!agree || check_agreement(loader, err));
}

static Loader *new_loader(Config *config, Error *err)
{
    CHECK(option_count() <= MOST_OPTIONS);
    memset(config, 0, sizeof *config);
    Loader *loader = calloc(1, sizeof *loader);
    if (!loader) {
        error_fault(err, "no memory left to read the config");
        return NULL;
    }
    loader->config = config;
    return loader;
}

bool config_load(Config *config, const char *path, int set_count, char *const sets[], Error *err)
{
    Loader *loader = new_loader(config, err);
    if (!loader) return false;
    Error fault = { 0 };
    bool ok = apply_defaults(loader, err);
    if (ok && path && !source_read(path, apply_part, loader, &fault)) note_fault(loader, &fault);
    for (int k = 0; ok && k < set_count; k++) {
        fault = (Error){ 0 };
        if (!apply_set(loader, sets[k], &fault)) note_fault(loader, &fault);
    }
    if (ok) expand_paths(loader);
    ok = ok && finish(loader, true, err);
    free(loader);
    return ok;
}

bool config_load_text(Config *config, const char *text, const char *where, Error *err)
{
    Loader *loader = new_loader(config, err);
    if (!loader) return false;
    Error fault = { 0 };
    bool ok = apply_defaults(loader, err);
    if (ok && !source_read_text(text, where, apply_part, loader, &fault)) note_fault(loader, &fault);
    ok = ok && finish(loader, false, err);
    free(loader);
    return ok;
}

bool config_load_all(Config *config, const char *path, int set_count, char *const sets[], MPI_Comm comm, Error *err)
{
    int rank;
    CHECK_MPI(MPI_Comm_rank(comm, &rank));
    bool ok = rank != 0 || config_load(config, path, set_count, sets, err);
    if (!error_agree(comm, ok, err)) return false;
    CHECK_MPI(MPI_Bcast(config, (int)sizeof *config, MPI_BYTE, 0, comm));
    return true;
}

bool config_require(const Config *config, const char *const keys[], Error *err)
{
    char missing[512] = "";
    const Option *last = NULL;
    int count = 0;
    for (; *keys; keys++) {
        int option = option_find(*keys);
        CHECK(option >= 0 && option_at(option)->type == OPTION_PATH);
        if (*(const char *)option_value(option_at(option), config)) continue;
        size_t used = strlen(missing);
        snprintf(missing + used, sizeof missing - used, "%s%s", count++ > 0 ? ", " : "", *keys);
        last = option_at(option);
    }
    if (count == 0) return true;
    if (count == 1)
        return error_usage(err, "%s is not set; set it in the config or with --set %s=... (%s)", missing, missing,
                           last->help);
    return error_usage(err,
                       "%s are not set; set them in the config or with --set (catdpo --help-config says what they "
                       "are)",
                       missing);
}
