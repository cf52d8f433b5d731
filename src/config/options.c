/* Every setting of catdpo, once: key, type, place in Config, default, bounds, choices, help. Those of the group
 * objective stand in src/objective. */
#include "catdpo/config/options.h"

#include "catdpo/core/nearest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In the order of the enums in config.h. */
static const OptionChoices scopes = { .names = (const char *const[]){ "category", "global", "fixed", NULL } };
static const OptionChoices forms = { .names = (const char *const[]){ "offset", "weight", NULL } };
static const OptionChoices aggregations = { .names = (const char *const[]){ "max", "mean", "sum", NULL } };
static const OptionChoices sources = { .names = (const char *const[]){ "pairs", "heldout", "generated", NULL } };
static const OptionChoices judges = { .names = (const char *const[]){ "refusal", "command", NULL } };
static const OptionChoices target_forms = { .names = (const char *const[]){ "absolute", "mean", "best", NULL } };
static const OptionChoices signals = { .names = (const char *const[]){ "likelihood", "reward", "margin", NULL } };
static const OptionChoices attacks = { .names =
                                           (const char *const[]){ "none", "targeted", "contrastive", "random", NULL } };
static const OptionChoices attack_norms = { .names = (const char *const[]){ "l2", "linf", NULL } };
static const OptionChoices radius_units = { .names = (const char *const[]){ "relative", "absolute", NULL } };
static const OptionChoices counted_inputs = { .names = (const char *const[]){ "attacked", "clean", NULL } };
static const OptionChoices samplings = { .names = (const char *const[]){ "uniform", "balanced", "sequential", NULL } };
static const OptionChoices schedules = { .names = (const char *const[]){ "constant", "linear", "cosine", NULL } };
static const OptionChoices nonfinite_policies = { .names = (const char *const[]){ "stop", "skip", NULL } };
static const OptionChoices progress_modes = { .names = (const char *const[]){ "auto", "bar", "plain", "off", NULL } };

const OptionGroup option_groups[] = {
    { "run", "the run directory and what the run shows" },
    { "model", "the model to train or to evaluate" },
    { "data", "preference pairs" },
    { "reference", "the frozen reference model" },
    { "lora", "low-rank adapters of a frozen model, which are trained instead of the model itself" },
    { "objective", "the loss of a pair; h = (policy - reference) log-ratio of chosen minus rejected, the offset is the "
                   "pair's margin" },
    { "margin", "the safety margin of each harm category" },
    { "adversary", "training against perturbed prompts: in every pass the embeddings of a pair's prompt are moved so "
                   "that the rejected response gets likelier, and the loss is that of the moved prompt" },
    { "eval", "what catdpo eval does beside its table: attacks on prompts as in the group adversary, hidden features" },
    { "generate", "answers that the model gives (catdpo generate)" },
    { "batch", "which pairs make a step, and how a step is cut into passes" },
    { "optimizer", "AdamW and gradient clipping" },
    { "schedule", "length of the training and learning rate over it" },
    { "parallel", "ranks = replicas x rows x columns of the process grid" },
    { "engine", "memory against time" },
    { "checkpoint", "what is kept of the trained model" },
    { "metrics", "metrics.h5" },
};
const int option_group_count = (int)(sizeof option_groups / sizeof *option_groups);

#define AT(field) offsetof(Config, field)

static const Option table[] = {
    { "run.dir", OPTION_PATH, AT(run.dir), "\"\"", NULL, NULL,
      "Run directory; made if it does not exist. Required by train." },
    { "run.seed", OPTION_INT, AT(run.seed), "42", "[0, inf)", NULL,
      "Seed of the order of the pairs and of new adapters." },
    { "run.progress", OPTION_CHOICE, AT(run.progress), "\"auto\"", NULL, &progress_modes,
      "Progress on stderr: a bar, plain lines, or nothing; auto: a bar on a terminal, plain lines elsewhere." },
    { "run.time_limit", OPTION_MINUTES, AT(run.time_limit), "0.0", "[0, inf)", NULL,
      "Time after which the run ends with a checkpoint and exit status 85, in time for both; 0: SLURM's own limit "
      "(SLURM_JOB_END_TIME), if there is one." },
    { "run.lease", OPTION_FLOAT, AT(run.lease), "60.0", "[1, 86400]", NULL,
      "Seconds without a heartbeat after which another copy of the run, on another node, counts as dead." },
    { "run.watchdog", OPTION_FLOAT, AT(run.watchdog), "600.0", "[0, inf)", NULL,
      "Seconds without progress on any rank after which the job is ended, naming the rank that hangs; 0: never." },

    { "model.path", OPTION_PATH, AT(model.path), "\"\"", NULL, NULL,
      "Initial weights: an imported model (model.h5) or a checkpoint. Required by train and eval." },

    { "data.path", OPTION_PATH, AT(data.path), "\"\"", NULL, NULL,
      "Prepared pairs (pairs.h5). Required by train and eval." },
    { "data.heldout", OPTION_TEXT, AT(data.heldout), "\"heldout\"", NULL, NULL, "Group of data.path that eval reads." },

    { "reference.model", OPTION_PATH, AT(reference.model), "\"\"", NULL, NULL,
      "Frozen reference model; empty: the model in model.path." },
    { "reference.cache", OPTION_PATH, AT(reference.cache), "\"\"", NULL, NULL,
      "File of the reference's log-probabilities, made when absent; empty: reference.h5 in the run directory." },

    { "lora.rank", OPTION_INT, AT(lora.rank), "0", "[0, 65536]", NULL,
      "Rank r of the adapters; 0: none, the model itself is trained. A learning rate for adapters is about ten times "
      "one for the whole model. There is no dropout." },
    { "lora.alpha", OPTION_FLOAT, AT(lora.alpha), "16.0", "(0, inf)", NULL,
      "An adapter adds alpha / rank times B A to its weight." },
    { "lora.target_modules", OPTION_TEXT, AT(lora.target_modules), "\"all-linear\"", NULL, NULL,
      "Linear layers that get an adapter, names with commas between, such as \"q_proj,v_proj\"; \"all-linear\": all "
      "seven of a layer." },
    { "lora.layers", OPTION_TEXT, AT(lora.layers), "\"all\"", NULL, NULL,
      "Layers that get adapters, numbers from 0 and ranges, such as \"12-23,29\"; \"all\". No backward pass is run "
      "below the first of them." },
    { "lora.adapter", OPTION_PATH, AT(lora.adapter), "\"\"", NULL, NULL,
      "Adapter that training starts from: a checkpoint of such a run, or an imported adapter, with the same rank, "
      "alpha, "
      "modules and layers; empty: a new one, A random by run.seed and B zero." },

    { "margin.scope", OPTION_CHOICE, AT(margin.scope), "\"category\"", NULL, &scopes,
      "One margin for each category, one for all of them together (global), or every margin fixed at margin.initial." },
    { "margin.initial", OPTION_FLOAT, AT(margin.initial), "0.0", "[0, inf)", NULL,
      "Margin before the first update, in units of beta h." },
    { "margin.min", OPTION_FLOAT, AT(margin.min), "0.0", "[0, inf)", NULL,
      "Smallest margin that an update may reach." },
    { "margin.max", OPTION_FLOAT, AT(margin.max), "10.0", "[0, inf)", NULL,
      "Largest margin that an update may reach." },
    { "margin.eta", OPTION_FLOAT, AT(margin.eta), "0.1", "[0, inf)", NULL,
      "Step of an update: margin += eta (violation rate - target), then clipped to min and max." },
    { "margin.target", OPTION_FLOAT_OR_AUTO, AT(margin.target), "\"auto\"", "[0, 1]", NULL,
      "Violation rate that is accepted; above it the margin grows. auto: 0.2, or 0 with a target_form that compares "
      "categories." },
    { "margin.target_form", OPTION_CHOICE, AT(margin.target_form), "\"absolute\"", NULL, &target_forms,
      "What the target is added to. absolute: nothing. mean: the mean of the categories' rates, so that a margin grows "
      "only where its category is worse than the others, and the gap is what is controlled. best: the lowest of "
      "them." },
    { "margin.prior", OPTION_FLOAT, AT(margin.prior), "0.0", "[0, inf)", NULL,
      "Weight, in pairs, of the rate of all categories together in the rate of each: (violations + prior x common "
      "rate) "
      "/ (pairs + prior), the posterior mean under a Beta prior; 0: the rate as counted." },
    { "margin.deadband", OPTION_FLOAT, AT(margin.deadband), "0.0", "[0, inf)", NULL,
      "Move a margin only when its rate differs from what is accepted by more than so many of its standard errors; 0: "
      "always." },
    { "margin.averaging", OPTION_FLOAT, AT(margin.averaging), "0.02", "(0, 1]", NULL,
      "Weight of one pair in the running violation rate; n new pairs weigh 1 - (1 - averaging)^n." },
    { "margin.initial_rate", OPTION_FLOAT, AT(margin.initial_rate), "0.5", "[0, 1]", NULL,
      "Running violation rate before any pair was seen." },
    { "margin.warmup_steps", OPTION_INT, AT(margin.warmup_steps), "0", "[0, inf)", NULL,
      "Steps at the start that leave the margins alone; the running violation rate follows the pairs from the first "
      "step." },
    { "margin.interval", OPTION_INT, AT(margin.interval), "1", "[1, inf)", NULL,
      "Steps between updates; what is counted between two updates enters the next. Probes are this far apart." },
    { "margin.aggregation", OPTION_CHOICE, AT(margin.aggregation), "\"max\"", NULL, &aggregations,
      "Margin of a pair with several categories: the largest, the mean or the sum of theirs." },
    { "margin.form", OPTION_CHOICE, AT(margin.form), "\"offset\"", NULL, &forms,
      "How a margin enters the loss of its pairs. offset: their logit is asked to exceed it. weight: their loss counts "
      "1 + margin times, divided by the mean of these weights over the step's pairs." },
    { "margin.signal", OPTION_CHOICE, AT(margin.signal), "\"likelihood\"", NULL, &signals,
      "When a pair violates. likelihood: the mean token log-probability of the unsafe response is at least that of the "
      "safe one. reward: h <= 0. margin: beta h is below the pair's margin." },
    { "margin.soft", OPTION_BOOL, AT(margin.soft), "false", NULL, NULL,
      "Count a number between 0 and 1, a sigmoid of the signal, instead of whether a pair violates or not." },
    { "margin.temperature", OPTION_FLOAT, AT(margin.temperature), "1.0", "(0, inf)", NULL,
      "Temperature T of the soft count: sigmoid(-difference / T) for likelihood, sigmoid(-beta h / T) for reward." },
    { "margin.tie", OPTION_FLOAT, AT(margin.tie), "1e-3", "[0, inf)", NULL,
      "A signal closer to zero than this counts one half, in nats: at the start policy and reference agree up to "
      "rounding." },
    { "margin.source", OPTION_CHOICE, AT(margin.source), "\"pairs\"", NULL, &sources,
      "What is counted for the margins. pairs: the pairs that the model trains on. heldout: the pairs of the probe "
      "group "
      "(prepare --probe), which it does not train on. generated: its answers to the probe group's prompts, judged; the "
      "group generate has how they are made. The probe is measured before the first step and then every "
      "margin.interval steps." },
    { "margin.probe_size", OPTION_INT, AT(margin.probe_size), "0", "[0, inf)", NULL,
      "Prompts (or pairs) of the probe group for each category, the first ones of the file; 0: all." },
    { "margin.judge", OPTION_CHOICE, AT(margin.judge), "\"refusal\"", NULL, &judges,
      "Who says which generated answers are unsafe. refusal: rules on the text; what is neither refusal, empty nor "
      "degenerate is unsafe. command: a program." },
    { "margin.judge_command", OPTION_TEXT, AT(margin.judge_command), "\"\"", NULL, NULL,
      "The judge command, run once on each node: one JSON object a line comes in (id, prompt, response, categories, "
      "benign), one number in [0, 1] a line goes out, the probability that the answer is unsafe; from 0.5 on it "
      "counts." },
    { "margin.judge_timeout", OPTION_FLOAT, AT(margin.judge_timeout), "60.0", "(0, 86400]", NULL,
      "Seconds that the judge command may take for one answer." },

    { "adversary.type", OPTION_CHOICE, AT(adversary.attack.type), "\"none\"", NULL, &attacks,
      "What the perturbation is after. targeted: the rejected response becomes likely. contrastive: and the chosen one "
      "unlikely. random: nothing, its direction is drawn." },
    { "adversary.radius", OPTION_FLOAT, AT(adversary.radius), "0.05", "[0, 1e6]", NULL,
      "Length of a token's perturbation at most; 0: no adversary." },
    { "adversary.radius_unit", OPTION_CHOICE, AT(adversary.attack.unit), "\"relative\"", NULL, &radius_units,
      "relative: the radius is in units of the mean length of the embeddings of all tokens, as they are at the step at "
      "hand. absolute: in those of the embeddings themselves." },
    { "adversary.norm", OPTION_CHOICE, AT(adversary.attack.norm), "\"l2\"", NULL, &attack_norms,
      "What the radius bounds. l2: the length of a token's perturbation; grids agree up to rounding. linf: each of its "
      "H "
      "features, by radius / sqrt(H); its steps are signs, so that grids may differ by more than rounding." },
    { "adversary.steps", OPTION_INT, AT(adversary.attack.steps), "5", "[0, 1000]", NULL,
      "Steps of the search for a perturbation; each is a forward and a backward pass without gradients of weights, two "
      "thirds of a training pass. 0: no adversary." },
    { "adversary.step_size", OPTION_FLOAT, AT(adversary.attack.step_size), "0.0", "[0, 1000]", NULL,
      "Length of a step as a part of the radius; 0: 2.5 / steps." },
    { "adversary.counts", OPTION_CHOICE, AT(adversary.counts), "\"attacked\"", NULL, &counted_inputs,
      "Whose violations move the margins: those under the perturbation, or those of the prompts as they are. Both are "
      "in "
      "metrics.h5." },

    { "eval.attack", OPTION_CHOICE, AT(eval.attack.type), "\"none\"", NULL, &attacks,
      "Evaluate perturbed prompts too, at each of eval.radii: violation rates by radius and category. A drawn "
      "direction "
      "of the same length is always evaluated beside it: where it hurts as much, the gradient is masked." },
    { "eval.radii", OPTION_TEXT, AT(eval.radii), "\"0.01,0.02,0.05,0.1\"", NULL, NULL,
      "Radii of the attack, increasing, with commas between; 0, the prompts as they are, comes first by itself." },
    { "eval.radius_unit", OPTION_CHOICE, AT(eval.attack.unit), "\"relative\"", NULL, &radius_units,
      "Unit of the radii, as adversary.radius_unit." },
    { "eval.norm", OPTION_CHOICE, AT(eval.attack.norm), "\"l2\"", NULL, &attack_norms,
      "What a radius bounds, as adversary.norm." },
    { "eval.steps", OPTION_INT, AT(eval.attack.steps), "20", "[1, 1000]", NULL,
      "Steps of the attack: more than in training, so that it is not the one that was trained against." },
    { "eval.step_size", OPTION_FLOAT, AT(eval.attack.step_size), "0.0", "[0, 1000]", NULL,
      "Length of a step as a part of the radius; 0: 2.5 / steps." },
    { "eval.features", OPTION_BOOL, AT(eval.features), "false", NULL, NULL,
      "Keep the mean of each completion's last hidden states: what a linear probe in the report tells chosen from "
      "rejected "
      "by." },

    { "generate.samples", OPTION_INT, AT(generate.samples), "1", "[1, 65536]", NULL, "Answers to each prompt." },
    { "generate.max_tokens", OPTION_INT, AT(generate.max_tokens), "128", "[1, 1048576]", NULL,
      "Tokens of an answer at most, the token that ends it included." },
    { "generate.temperature", OPTION_FLOAT, AT(generate.temperature), "0.0", "[0, 100]", NULL,
      "0: the likeliest token each time (greedy); 1: as likely as the model says; between them bolder as it grows." },
    { "generate.min_p", OPTION_FLOAT, AT(generate.min_p), "0.0", "[0, 1]", NULL,
      "Leave out tokens that are less likely than this part of the likeliest one; 0: none. Not used when greedy, like "
      "top_p and top_k." },
    { "generate.top_p", OPTION_FLOAT, AT(generate.top_p), "1.0", "(0, 1]", NULL,
      "Keep the likeliest tokens that together have this probability; 1: all." },
    { "generate.top_k", OPTION_INT, AT(generate.top_k), "0", "[0, inf)", NULL,
      "Keep so many of the likeliest tokens; 0: all." },
    { "generate.repetition_penalty", OPTION_FLOAT, AT(generate.repetition_penalty), "1.0", "(0, 100]", NULL,
      "Divides positive and multiplies negative logits of tokens that prompt or answer have already; 1: off." },
    { "generate.seed", OPTION_INT, AT(generate.seed), "42", "[0, inf)", NULL,
      "Seed of the draws. The same seed gives the same answers on any grid, with any slots, but for ties within "
      "rounding." },
    { "generate.stop", OPTION_TEXT, AT(generate.stop), "\"\"", NULL, NULL,
      "Ids of the tokens that end an answer, with commas between; \"none\"; empty: those that the model's own files "
      "name." },
    { "generate.slots", OPTION_INT, AT(generate.slots), "64", "[1, 65536]", NULL,
      "Answers under way at once on each replica: more are faster and take more memory." },
    { "generate.cache_mb", OPTION_FLOAT, AT(generate.cache_mb), "1024.0", "(0, 16777216]", NULL,
      "Memory for keys and values of prompts and answers under way, MB a rank; fewer slots are used if it is too "
      "little." },

    { "batch.pairs", OPTION_INT, AT(batch.pairs), "8", "[1, 16777216]", NULL, "Pairs in a step, over all ranks." },
    { "batch.max_tokens", OPTION_INT, AT(batch.max_tokens), "4096", "[2, 16777216]", NULL,
      "Tokens that one pass holds at most, for each process column; a step of more runs in several passes." },
    { "batch.accumulation", OPTION_INT, AT(batch.accumulation), "1", "[1, 16777216]", NULL,
      "Passes that a step is cut into at least." },
    { "batch.sampling", OPTION_CHOICE, AT(batch.sampling), "\"uniform\"", NULL, &samplings,
      "uniform: each pair once an epoch, shuffled. balanced: categories equally often. sequential: in the order of the "
      "file." },
    { "batch.share_prompt", OPTION_BOOL, AT(batch.share_prompt), "true", NULL, NULL,
      "Run the common prompt of a pair once for both responses." },

    { "optimizer.learning_rate", OPTION_FLOAT, AT(optimizer.learning_rate), "1e-6", "[0, inf)", NULL,
      "Peak learning rate." },
    { "optimizer.beta1", OPTION_FLOAT, AT(optimizer.beta1), "0.9", "[0, 1)", NULL, "Decay of AdamW's first moment." },
    { "optimizer.beta2", OPTION_FLOAT, AT(optimizer.beta2), "0.999", "[0, 1)", NULL,
      "Decay of AdamW's second moment." },
    { "optimizer.epsilon", OPTION_FLOAT, AT(optimizer.epsilon), "1e-8", "(0, inf)", NULL,
      "Added to the root of the second moment." },
    { "optimizer.weight_decay", OPTION_FLOAT, AT(optimizer.weight_decay), "0.0", "[0, inf)", NULL,
      "Decoupled weight decay; a step shrinks weights by learning rate x weight_decay." },
    { "optimizer.max_grad_norm", OPTION_FLOAT, AT(optimizer.max_grad_norm), "1.0", "[0, inf)", NULL,
      "Gradients of a larger global norm are scaled down to it; 0: never." },
    { "optimizer.shard", OPTION_BOOL, AT(optimizer.shard), "true", NULL, NULL,
      "Replicas share the optimiser's state out among them: less memory with more than one replica." },
    { "optimizer.nonfinite", OPTION_CHOICE, AT(optimizer.nonfinite), "\"stop\"", NULL, &nonfinite_policies,
      "When the loss or the gradient of a step is not a finite number: stop, or skip the step's update." },
    { "optimizer.max_skipped", OPTION_INT, AT(optimizer.max_skipped), "10", "[0, inf)", NULL,
      "Steps that a run may skip; one more stops it." },

    { "schedule.type", OPTION_CHOICE, AT(schedule.type), "\"linear\"", NULL, &schedules,
      "Learning rate after the warm-up." },
    { "schedule.steps", OPTION_INT, AT(schedule.steps), "0", "[0, inf)", NULL,
      "Steps to train; 0: as many as schedule.epochs take." },
    { "schedule.epochs", OPTION_FLOAT, AT(schedule.epochs), "1.0", "(0, inf)", NULL,
      "Passes over the training pairs; used when schedule.steps is 0." },
    { "schedule.warmup", OPTION_FLOAT, AT(schedule.warmup), "0.1", "[0, 1]", NULL,
      "Part of the steps over which the learning rate rises from 0 to its peak." },
    { "schedule.floor", OPTION_FLOAT, AT(schedule.floor), "0.0", "[0, 1]", NULL,
      "Learning rate at the end as a part of the peak, for linear and cosine." },
    { "schedule.until_safe", OPTION_BOOL, AT(schedule.until_safe), "false", NULL, NULL,
      "End the run early when the upper 95 % Wilson bound of every category's probe rate was below margin.target in "
      "two "
      "probes in a row." },

    { "parallel.grid", OPTION_GRID, AT(parallel.grid), "\"auto\"", "[1, 65536]", NULL,
      "Rows and columns of the process grid: [P, 1] is tensor parallel, [1, P] fully sharded data parallel; \"auto\" "
      "chooses and says why." },
    { "parallel.replicas", OPTION_COUNT_OR_AUTO, AT(parallel.replicas), "\"auto\"", "[1, 65536]", NULL,
      "Copies of the grid that split the batch; \"auto\": ranks / (rows x columns), or chosen with grid = \"auto\"." },
    { "parallel.block", OPTION_INT, AT(parallel.block), "256", "[8, 65536]", NULL,
      "Logical block of PBLAS, rows; 256 to 512 bring psgemm near sgemm's own speed." },
    { "parallel.threads", OPTION_INT, AT(parallel.threads), "1", "[1, 1024]", NULL,
      "BLAS threads of a rank; more than cores / ranks slows everything down." },
    { "parallel.memory_gb", OPTION_FLOAT, AT(parallel.memory_gb), "0.0", "[0, inf)", NULL,
      "Memory that a rank may use, GB: a grid that needs more is refused; 0: an equal share of what the job may use "
      "there (the node's memory, control groups, SLURM's limit)." },
    { "parallel.io", OPTION_TEXT, AT(parallel.io), "\"\"", NULL, NULL,
      "Open MPI's component for parallel files (ompio, romio321, romio341), as OMPI_MCA_io would name it; empty: its "
      "own choice. Other MPIs have none, and it is refused there." },

    { "engine.recompute", OPTION_BOOL, AT(engine.recompute), "false", NULL, NULL,
      "Keep only the input of each layer and run it again in the backward pass: less memory, about a third more "
      "time." },
    { "engine.logits_mb", OPTION_FLOAT, AT(engine.logits_mb), "256.0", "(0, 1048576]", NULL,
      "Largest block of logits on a rank, MB." },

    { "checkpoint.steps", OPTION_INT, AT(checkpoint.steps), "0", "[0, inf)", NULL,
      "Steps between checkpoints; 0: not by steps." },
    { "checkpoint.minutes", OPTION_FLOAT, AT(checkpoint.minutes), "30.0", "[0, inf)", NULL,
      "Minutes between checkpoints, also of the reference's log-probabilities; 0: not by time." },
    { "checkpoint.keep", OPTION_INT, AT(checkpoint.keep), "2", "[1, inf)", NULL,
      "How many of these checkpoints to keep, the latest ones." },
    { "checkpoint.best", OPTION_BOOL, AT(checkpoint.best), "false", NULL, NULL,
      "Evaluate the pairs of data.heldout at each checkpoint and keep the one whose worst category violates least as "
      "checkpoints/best.h5." },
    { "checkpoint.final", OPTION_BOOL, AT(checkpoint.final), "true", NULL, NULL,
      "Write checkpoints/final.h5 at the end." },

    { "metrics.flush_steps", OPTION_INT, AT(metrics.flush_steps), "50", "[1, inf)", NULL,
      "Steps between writes of metrics.h5, at most." },
    { "metrics.flush_minutes", OPTION_FLOAT, AT(metrics.flush_minutes), "10.0", "[0, inf)", NULL,
      "Minutes between writes of metrics.h5, at most; 0: by steps alone." },
};
enum { OWN = sizeof table / sizeof *table };

const Option *option_at(int index) { return index < OWN ? &table[index] : objective_option(index - OWN); }

int option_count(void)
{
    int count = OWN;
    while (option_at(count)) count++;
    return count;
}

int option_find(const char *key)
{
    for (int k = 0; option_at(k); k++)
        if (strcmp(option_at(k)->key, key) == 0) return k;
    return -1;
}

static const char *name_in_group(const char *key)
{
    const char *point = strrchr(key, '.');
    return point ? point + 1 : key;
}

int option_nearest(const char *key)
{
    enum { OTHER_GROUP = 2 }; /* edits that a wrong or missing group counts for */
    int nearest = 0, smallest = 1000;
    for (int k = 0; option_at(k); k++) {
        const char *known = option_at(k)->key;
        int whole = edit_distance(key, known);
        int name = OTHER_GROUP + edit_distance(name_in_group(key), name_in_group(known));
        int distance = whole < name ? whole : name;
        if (distance < smallest) nearest = k, smallest = distance;
    }
    return nearest;
}

OptionChoice option_choice(const Option *option, int index)
{
    const OptionChoices *choices = option->choices;
    return choices->row ? choices->row(index) : (OptionChoice){ choices->names[index], NULL };
}

int option_choices(const Option *option)
{
    int count = 0;
    while (option_choice(option, count).name) count++;
    return count;
}

/* The rows of src/objective have their place in ObjectiveSettings. */
static size_t place_of(const Option *option)
{
    bool own = option >= table && option < table + OWN;
    return own ? option->offset : offsetof(Config, objective) + option->offset;
}

void *option_field(const Option *option, Config *config) { return (char *)config + place_of(option); }

const void *option_value(const Option *option, const Config *config) { return (const char *)config + place_of(option); }

bool option_in_group(const Option *option, const OptionGroup *group)
{
    size_t length = strlen(group->name);
    return strncmp(option->key, group->name, length) == 0 && option->key[length] == '.';
}

bool option_in_bounds(const char *bounds, double value)
{
    char *rest;
    double low = strtod(bounds + 1, &rest);
    double high = strtod(rest + 1, &rest); /* after the comma */
    bool above = bounds[0] == '(' ? value > low : value >= low;
    bool below = *rest == ')' ? value < high : value <= high;
    return above && below;
}

static bool is_preset(const Option *option, const Config *config)
{
    const void *value = option_value(option, config);
    switch (option->type) {
    case OPTION_BOOL: return *(const bool *)value == (strcmp(option->preset, "true") == 0);
    case OPTION_INT: return *(const int64_t *)value == strtoll(option->preset, NULL, 10);
    case OPTION_FLOAT: return *(const double *)value == strtod(option->preset, NULL);
    case OPTION_TEXT: return *(const char *)value == '\0'; /* no text has another default */
    case OPTION_CHOICE: {
        const char *name = option_choice(option, *(const int *)value).name;
        return strncmp(option->preset + 1, name, strlen(name)) == 0;
    }
    default: return true;
    }
}

void option_readers(const Option *option, const char *quote, char *text, size_t size)
{
    text[0] = '\0';
    for (int k = 0; objective_choice(k).name; k++) {
        if (!objective_reads(k, option->key)) continue;
        size_t used = strlen(text);
        snprintf(text + used, size - used, "%s%s%s%s", used > 0 ? ", " : "", quote, objective_choice(k).name, quote);
    }
}

/* A setting that only other objectives read would be accepted and ignored. */
static bool objective_reads_all(const Config *c, const char *keys[2], char *message, size_t size)
{
    for (int k = 0; objective_option(k); k++) {
        const Option *option = objective_option(k);
        if (objective_reads(c->objective.type, option->key) || is_preset(option, c)) continue;
        char readers[256];
        option_readers(option, "\"", readers, sizeof readers);
        keys[0] = option->key, keys[1] = "objective.type";
        snprintf(message, size,
                 "objective.type = \"%s\" does not read %s: leave it at %s, or set objective.type to one of %s",
                 objective_of(&c->objective)->name, option->key, option->preset, readers);
        return false;
    }
    return true;
}

int config_radii(const char *text, double radius[EVAL_RADII])
{
    int count = 0;
    for (char *rest; *text; text = *rest == ',' ? rest + 1 : rest) {
        double value = strtod(text, &rest);
        bool last = *rest == '\0';
        if (rest == text || !(last || (*rest == ',' && rest[1])) || count == EVAL_RADII || !isfinite(value) ||
            value <= (count > 0 ? radius[count - 1] : 0))
            return -1;
        radius[count++] = value;
    }
    return count > 0 ? count : -1;
}

bool config_has_adversary(const Config *c)
{
    return c->adversary.attack.type != ATTACK_NONE && c->adversary.radius > 0 && c->adversary.attack.steps > 0;
}

static bool until_safe_agrees(const Config *c, const char *keys[2], char *message, size_t size)
{
    bool probed = c->margin.source != SOURCE_PAIRS, absolute = c->margin.target_form == TARGET_ABSOLUTE;
    if (!c->schedule.until_safe || (probed && absolute)) return true;
    keys[0] = "schedule.until_safe", keys[1] = probed ? "margin.target_form" : "margin.source";
    snprintf(message, size, "schedule.until_safe compares %s",
             probed ? "probe rates with margin.target, which margin.target_form makes relative to the categories: set "
                      "that to \"absolute\""
                    : "the rates of a probe, and margin.source = \"pairs\" has none: set that to \"heldout\" or "
                      "\"generated\"");
    return false;
}

bool options_agree(const Config *c, const char *keys[2], char *message, size_t size)
{
    keys[0] = keys[1] = NULL;
    if (!objective_reads_all(c, keys, message, size)) return false;
    if (objective_of(&c->objective)->no_reference && *c->reference.model) {
        keys[0] = "reference.model", keys[1] = "objective.type";
        snprintf(message, size, "objective.type = \"%s\" has no reference: leave reference.model empty",
                 objective_of(&c->objective)->name);
        return false;
    }
    if (objective_of(&c->objective)->second_model && !*c->objective.modpo_model) {
        keys[0] = "objective.type", keys[1] = "objective.modpo_model";
        snprintf(message, size,
                 "objective.type = \"%s\" needs objective.modpo_model: the model that was trained on the other "
                 "objective",
                 objective_of(&c->objective)->name);
        return false;
    }
    if (c->lora.rank == 0 && *c->lora.adapter) {
        keys[0] = "lora.adapter", keys[1] = "lora.rank";
        snprintf(message, size,
                 "lora.adapter names an adapter to train, but lora.rank = 0 trains the whole model: set "
                 "lora.rank to the adapter's, or give the file as model.path to train its model on");
        return false;
    }
    if (!margin_agree(&c->margin, &c->objective, keys, message, size) || !until_safe_agrees(c, keys, message, size))
        return false;
    double radius[EVAL_RADII];
    if (c->margin.judge == JUDGE_COMMAND && c->run.watchdog > 0 && c->margin.judge_timeout >= c->run.watchdog) {
        keys[0] = "margin.judge_timeout", keys[1] = "run.watchdog";
        snprintf(
            message, size,
            "margin.judge_timeout = %g s is not below run.watchdog = %g s, which would end the job first: lower the "
            "one or raise the other",
            c->margin.judge_timeout, c->run.watchdog);
    } else if (config_radii(c->eval.radii, radius) < 0) {
        keys[0] = "eval.radii", keys[1] = "eval.attack";
        snprintf(message, size,
                 "eval.radii = \"%.80s\" is no list of at most %d positive numbers that increase, such as "
                 "\"0.01,0.02,0.05\"",
                 c->eval.radii, EVAL_RADII);
    } else if (config_has_adversary(c) && !c->batch.share_prompt) {
        keys[0] = "batch.share_prompt", keys[1] = "adversary.type";
        snprintf(
            message, size,
            "adversary.type = \"%s\" perturbs the prompt that both responses of a pair answer, which has to be run "
            "once for both: set batch.share_prompt = true, or adversary.type = \"none\"",
            config_choice(c, "adversary.type"));
    } else if (c->batch.accumulation > c->batch.pairs) {
        keys[0] = "batch.accumulation", keys[1] = "batch.pairs";
        snprintf(message, size,
                 "batch.accumulation = %lld cuts a step of batch.pairs = %lld into more passes than it has pairs",
                 (long long)c->batch.accumulation, (long long)c->batch.pairs);
    } else if (c->schedule.type == SCHEDULE_CONSTANT && c->schedule.floor != 0) {
        keys[0] = "schedule.floor", keys[1] = "schedule.type";
        snprintf(message, size,
                 "schedule.floor = %g, but schedule.type = \"constant\" never falls: set schedule.floor to 0, or "
                 "schedule.type to \"linear\" or \"cosine\"",
                 c->schedule.floor);
    }
    return keys[0] == NULL;
}

/* ---- choices by name -------------------------------------------------------------------------------------------- */

const char *config_choice(const Config *config, const char *key)
{
    int option = option_find(key);
    CHECK(option >= 0 && option_at(option)->type == OPTION_CHOICE);
    return option_choice(option_at(option), *(const int *)option_value(option_at(option), config)).name;
}

bool config_is_choice(const char *key, const char *name)
{
    int option = option_find(key);
    CHECK(option >= 0 && option_at(option)->type == OPTION_CHOICE);
    for (int k = 0; option_choice(option_at(option), k).name; k++)
        if (strcmp(option_choice(option_at(option), k).name, name) == 0) return true;
    return false;
}
