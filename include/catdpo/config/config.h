/* The run's settings: one plain struct, filled from libconfig files and --set overrides through one option table.
 *
 * The tables in src/config/options.c and src/objective/table.c (key, type, default, bounds, choices, help) are the only
 * place where a key is named. From it come parsing, checking, `--help-config`, the resolved copy in the run directory
 * and the reference in configs/README.md. Precedence: --set, then the file, then the default.
 */
#ifndef CATDPO_CONFIG_CONFIG_H
#define CATDPO_CONFIG_CONFIG_H

#include "catdpo/core/error.h"
#include "catdpo/objective/margin.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum { SAMPLING_UNIFORM, SAMPLING_BALANCED, SAMPLING_SEQUENTIAL } Sampling;
typedef enum { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE } ScheduleType;
typedef enum { NONFINITE_STOP, NONFINITE_SKIP } NonfinitePolicy;

typedef enum { ATTACK_NONE, ATTACK_TARGETED, ATTACK_CONTRASTIVE, ATTACK_RANDOM } AttackType;
typedef enum { NORM_L2, NORM_LINF } AttackNorm;
typedef enum { RADIUS_RELATIVE, RADIUS_ABSOLUTE } RadiusUnit;
typedef enum { COUNT_ATTACKED, COUNT_CLEAN } CountedInput;

/* How embeddings of prompts are attacked (model/attack.h). */
typedef struct AttackSettings {
    int type, norm, unit; /* AttackType, AttackNorm, RadiusUnit */
    int64_t steps;
    double step_size; /* of the radius; 0: chosen for the steps */
} AttackSettings;

enum { EVAL_RADII = 32 };

typedef struct Config {
    struct {
        char dir[CONFIG_TEXT]; /* run directory */
        int64_t seed;          /* sampling */
        int progress;          /* ProgressMode */
        double time_limit;     /* minutes from the start; 0: SLURM's, if any */
        double lease;          /* seconds after which a silent copy of the run counts as dead */
        double watchdog;       /* seconds without a sign of life after which the job ends; 0: never */
    } run;
    struct {
        char path[CONFIG_TEXT]; /* model.h5 or a checkpoint: initial weights */
    } model;
    struct {
        char path[CONFIG_TEXT];    /* pairs.h5 */
        char heldout[CONFIG_TEXT]; /* group of held-out pairs for eval */
    } data;
    struct {
        char model[CONFIG_TEXT]; /* frozen reference; empty: model.path */
        char cache[CONFIG_TEXT]; /* its log-probs; empty: <run.dir>/reference.h5 */
    } reference;
    struct {
        int64_t rank;                     /* 0: the model itself is trained */
        double alpha;                     /* scale = alpha / rank */
        char target_modules[CONFIG_TEXT]; /* names with commas between, or "all-linear" */
        char layers[CONFIG_TEXT];         /* numbers and ranges, or "all" */
        char adapter[CONFIG_TEXT];        /* file with the adapter that training starts from; empty: a new one */
    } lora;
    ObjectiveSettings objective;
    MarginSettings margin;
    struct {
        AttackSettings attack;
        double radius;
        int counts; /* CountedInput: whose violations move the margins */
    } adversary;
    struct {
        AttackSettings attack;
        char radii[CONFIG_TEXT]; /* see config_radii */
        bool features;           /* keep the hidden features of completions */
    } eval;
    struct {
        int64_t samples;           /* answers a prompt */
        int64_t max_tokens;        /* of an answer */
        double temperature;        /* 0: greedy */
        double min_p, top_p;       /* 0, 1: off */
        int64_t top_k;             /* 0: off */
        double repetition_penalty; /* 1: off */
        int64_t seed;
        char stop[CONFIG_TEXT]; /* tokens that end an answer; empty: the model's */
        int64_t slots;          /* answers under way at once, on each replica */
        double cache_mb;        /* memory for their keys and values, on a rank */
    } generate;
    struct {
        int64_t pairs;        /* pairs a step, over all ranks */
        int64_t max_tokens;   /* token budget of one pass, per process column */
        int64_t accumulation; /* passes a step, at least */
        int sampling;         /* Sampling */
        bool share_prompt;    /* run a pair's common prompt once */
    } batch;
    struct {
        double learning_rate, beta1, beta2, epsilon, weight_decay;
        double max_grad_norm; /* 0: no clipping */
        bool shard;           /* replicas share the optimiser state out among them */
        int nonfinite;        /* NonfinitePolicy */
        int64_t max_skipped;  /* skipped steps of a run, at most */
    } optimizer;
    struct {
        int type;      /* ScheduleType */
        int64_t steps; /* 0: from epochs */
        double epochs;
        double warmup;   /* fraction of the steps */
        double floor;    /* learning rate at the end, as a fraction of the peak */
        bool until_safe; /* end early when every category's probe rate is surely below margin.target */
    } schedule;
    struct {
        int64_t grid[2];      /* rows, columns; {0, 0}: "auto" */
        int64_t replicas;     /* 0: world size / grid, or chosen with grid = "auto" */
        int64_t block;        /* PBLAS logical block (pilaenv_) */
        int64_t threads;      /* BLAS threads a rank */
        char io[CONFIG_TEXT]; /* Open MPI's component for files; empty: its own choice */
        double memory_gb;     /* that a rank may use; 0: its share of the node's */
    } parallel;
    struct {
        bool recompute;   /* keep only the input of each layer, run it again in the backward pass */
        double logits_mb; /* largest block of logits on a rank, MB */
    } engine;
    struct {
        int64_t steps;  /* between checkpoints; 0: not by steps */
        double minutes; /* between checkpoints; 0: not by time */
        int64_t keep;   /* how many of these to keep */
        bool best;      /* keep the best by the held-out worst category as best.h5 */
        bool final;     /* write checkpoints/final.h5 at the end */
    } checkpoint;
    struct {
        int64_t flush_steps;  /* steps between writes of metrics.h5 at most */
        double flush_minutes; /* and minutes; 0: no limit */
    } metrics;
} Config;

/* Defaults, then the libconfig file `path` (NULL: none), then `sets` ("group.key=value", libconfig syntax for the
 * value; a bare word is taken as a string). Unknown keys, wrong types, values out of bounds and syntax errors are
 * refused with file, line and the nearest known key, all of them at once (the first 20, a line each). In paths
 * ~, ~user, $NAME and ${NAME} are expanded ($$ is a $); relative ones stay so (relative to the working directory). Not
 * collective: the same file and sets give the same Config, byte for byte; see config_load_all for the collective form.
 * An @include stands outside groups, is relative to the file that holds it, and what stands below it overrides it.
 * Contradictory settings are refused by name, among them objective.type "dpo" with a margin.initial and "safedpo"
 * without one. */
bool config_load(Config *config, const char *path, int set_count, char *const sets[], Error *err);

/* Collective over comm: rank 0 reads, the result or the error is the same on every rank. */
bool config_load_all(Config *config, const char *path, int set_count, char *const sets[], MPI_Comm comm, Error *err);

/* From the text of a resolved config, as config_print wrote it; `where` is used in messages. Paths are left as they are
 * written there, with $$ for a $. Not collective. */
bool config_load_text(Config *config, const char *text, const char *where, Error *err);

/* The first key of `keys` (NULL-terminated; "group." stands for the whole group) that differs, with both values in
 * libconfig syntax in text ("group.key is A, was B"); NULL if none does. Keys in `except` do not count. Not collective.
 */
const char *config_difference(const Config *now, const Config *then, const char *const keys[],
                              const char *const except[], char *text, size_t size);

/* Do the training pairs of this run get perturbed? No settings of the group adversary have an effect otherwise. */
bool config_has_adversary(const Config *config);

/* The numbers of a list such as eval.radii: their count; -1 if it is none of positive numbers that increase. */
int config_radii(const char *text, double radius[EVAL_RADII]);

/* The name of the value that the option `key` (an OPTION_CHOICE) has. Not collective. */
const char *config_choice(const Config *config, const char *key);
/* Is `name` one of its values? */
bool config_is_choice(const char *key, const char *name);

/* The settings that are not at their defaults, a line "<indent>key = value" each. Not collective. */
void config_print_changes(const Config *config, const char *indent, FILE *out);

/* Required keys that a command needs (NULL-terminated list of "group.key"): refused by name when empty. Not collective.
 */
bool config_require(const Config *config, const char *const keys[], Error *err);

/* The resolved config in libconfig syntax, every key with its value; it parses back to the same Config. Not collective.
 * (libconfig has the name config_write for itself.) */
void config_print(const Config *config, FILE *out);
/* The same as text, owned by the caller; NULL without memory for it. */
char *config_text(const Config *config);

/* The same as JSON, for other programs: {"group": {"key": value}}. Not collective. */
void config_print_json(const Config *config, FILE *out);

/* The reference of all keys: plain text for a terminal, Markdown tables, a config file with every default
 * (configs/default.cfg), or the manual page catdpo.cfg(5). Not collective. */
typedef enum { CONFIG_HELP_TEXT, CONFIG_HELP_MARKDOWN, CONFIG_HELP_CFG, CONFIG_HELP_MAN } ConfigHelpForm;
void config_help(FILE *out, ConfigHelpForm form);

/* The same text of one group ("margin") or key ("margin.eta"). False, naming the nearest one, if there is none. Not
 * collective. */
bool config_help_topic(FILE *out, const char *topic, Error *err);
/* Whether there is such a group or key; the same error. Not collective. */
bool config_has_topic(const char *topic, Error *err);

#endif
