#include "catdpo/model/adapters.h"

#include "catdpo/core/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- settings --------------------------------------------------------------------------------------------------- */

/* The modules of each product, in the order of its parts. */
static const struct {
    int first, count;
} product_modules[PRODUCTS] = { [PRODUCT_QKV] = { 0, 3 },
                                [PRODUCT_ATTENTION_OUT] = { 3, 1 },
                                [PRODUCT_GATE_UP] = { 4, 2 },
                                [PRODUCT_MLP_DOWN] = { 6, 1 } };

/* Name of module m of a layer, "self_attn.q_proj", ...; all layers have the same. */
static const char *adapter_module(const LayerPlan *plan, int module)
{
    const char *const names[MODULES] = { plan->query, plan->key, plan->value,   plan->attention_out,
                                         plan->gate,  plan->up,  plan->mlp_down };
    return names[module];
}

bool adapter_wanted(const AdapterSettings *s, int layer, int module)
{
    return (s->modules >> module & 1) && (s->layer[layer / 8] >> layer % 8 & 1);
}

static void set_layer(AdapterSettings *s, int layer) { s->layer[layer / 8] |= (unsigned char)(1 << layer % 8); }

static const char *last_name(const char *module)
{
    const char *point = strrchr(module, '.');
    return point ? point + 1 : module;
}

/* Is text[length] the name, or its end behind a point? */
static bool names_module(const char *name, const char *text, size_t length)
{
    size_t all = strlen(name);
    return length <= all && strncmp(name + all - length, text, length) == 0 &&
           (length == all || name[all - length - 1] == '.');
}

/* The next word of a list with commas; NULL behind the last. *length: without spaces around it. */
static const char *next_word(const char **list, size_t *length)
{
    const char *word = *list + strspn(*list, ", ");
    if (!*word) return NULL;
    *length = strcspn(word, ",");
    *list = word + *length;
    while (word[*length - 1] == ' ') --*length;
    return word;
}

static bool parse_modules(AdapterSettings *s, const LayerPlan *plan, const char *list, const char *where, Error *err)
{
    size_t length;
    if (strcmp(list, "all-linear") == 0) {
        s->modules = (1u << MODULES) - 1;
        return true;
    }
    for (const char *word; (word = next_word(&list, &length));) {
        unsigned found = 0;
        for (int m = 0; m < MODULES; m++)
            if (names_module(adapter_module(plan, m), word, length)) found |= 1u << m;
        if (!found) {
            char known[256] = "";
            for (int m = 0; m < MODULES; m++)
                strcat(strcat(known, m > 0 ? ", " : ""), last_name(adapter_module(plan, m)));
            return error_usage(err, "%s: \"%.*s\" is no linear layer of this model: name some of %s, or \"all-linear\"",
                               where, (int)length, word, known);
        }
        s->modules |= found;
    }
    return s->modules || error_usage(err, "%s names no linear layer: \"all-linear\" is all of them", where);
}

static bool parse_layers(AdapterSettings *s, int layers, const char *list, const char *where, Error *err)
{
    size_t length;
    int found = 0;
    bool all = strcmp(list, "all") == 0;
    for (int l = 0; all && l < layers; l++) set_layer(s, l);
    for (const char *word; !all && (word = next_word(&list, &length)); found++) {
        int from, to, end = 0;
        char text[32] = "";
        if (length < sizeof text) memcpy(text, word, length);
        bool ok = (sscanf(text, "%d-%d%n", &from, &to, &end) == 2 && end == (int)length) ||
                  (end = 0, sscanf(text, "%d%n", &from, &end) == 1 && end == (int)length && (to = from, true));
        if (!ok || from < 0 || from > to || to >= layers)
            return error_usage(err,
                               "%s: \"%.*s\" is no layer and no range of layers of this model: it has 0 to %d; write "
                               "\"all\", or a list such as \"0-3,7\"",
                               where, (int)length, word, layers - 1);
        for (int l = from; l <= to; l++) set_layer(s, l);
    }
    return all || found > 0 || error_usage(err, "%s names no layer: \"all\" is all of them", where);
}

bool adapters_parse(AdapterSettings *s, const Architecture *a, int64_t rank, double alpha, const char *modules,
                    const char *layers, const char *where, Error *err)
{
    char of_modules[256], of_layers[256];
    *s = (AdapterSettings){ .rank = (int)rank, .alpha = alpha };
    if (rank == 0) return true;
    LayerPlan plan = architecture_family(a)->layer(a, 0);
    snprintf(of_modules, sizeof of_modules, "%starget_modules", where);
    snprintf(of_layers, sizeof of_layers, "%slayers", where);
    int least = a->hidden < a->mlp ? a->hidden : a->mlp;
    if (rank > least)
        return error_usage(err, "%srank = %lld: a rank above %d is no low rank for this model", where, (long long)rank,
                           least);
    return parse_modules(s, &plan, modules, of_modules, err) && parse_layers(s, a->layers, layers, of_layers, err);
}

const char *adapters_modules_text(const AdapterSettings *s, const Architecture *a, char text[ADAPTER_TEXT])
{
    LayerPlan plan = architecture_family(a)->layer(a, 0);
    text[0] = '\0';
    for (int m = 0; m < MODULES; m++)
        if (s->modules >> m & 1) strcat(strcat(text, *text ? "," : ""), last_name(adapter_module(&plan, m)));
    return text;
}

const char *adapters_layers_text(const AdapterSettings *s, const Architecture *a, char text[ADAPTER_TEXT])
{
    int used = 0, count = 0;
    text[0] = '\0';
    for (int l = 0; l < a->layers; l++) {
        int from = l;
        while (l < a->layers && (s->layer[l / 8] >> l % 8 & 1)) l++;
        if (from == l) continue;
        count += l - from;
        if (used > ADAPTER_TEXT - 32) {
            snprintf(text + used, 8, ",...");
            return text;
        }
        used += snprintf(text + used, (size_t)(ADAPTER_TEXT - used), l - from > 1 ? "%s%d-%d" : "%s%d",
                         used > 0 ? "," : "", from, l - 1);
    }
    return count == a->layers ? strcpy(text, "all") : text;
}

/* ---- layout ----------------------------------------------------------------------------------------------------- */

typedef struct Builder {
    Adapters *x;
    const Grid *grid;
    const Parameters *base;
    int block; /* of the rank */
} Builder;

/* A tensor of the modules at hand, their rows blocked as in `parts`. */
static int append(Builder *b, const TensorPart *parts, int count, Axis columns)
{
    Parameters *p = &b->x->parameters;
    Tensor t = { .part_count = count, .columns = columns };
    int rows = 0, block = 0;
    for (int i = 0; i < count; i++) {
        t.part[i] = parts[i];
        rows += parts[i].rows;
        block += parts[i].block;
    }
    t.rows = axis_make(rows, block, b->grid->rows, b->grid->row);
    t.local = (int64_t)t.rows.local * columns.local;
    p->logical += (int64_t)rows * columns.length;
    p->tensor[p->count] = t;
    return p->count++;
}

/* A's and B's names and rows of a part of the weight. */
static void name_parts(const TensorPart *weight, int rank, int block, TensorPart *a, TensorPart *b)
{
    int stem = (int)strlen(weight->name) - (int)strlen(".weight");
    *a = (TensorPart){ .rows = rank, .block = block };
    *b = (TensorPart){ .rows = weight->rows, .block = weight->block };
    CHECK(stem > 0 && stem + (int)sizeof ".lora_A.weight" <= PART_NAME);
    memcpy(a->name, weight->name, (size_t)stem);
    memcpy(b->name, weight->name, (size_t)stem);
    strcpy(a->name + stem, ".lora_A.weight");
    strcpy(b->name + stem, ".lora_B.weight");
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* The adapter of a product of which `weight` is the tensor. */
static ProductAdapter add_product(Builder *b, int layer, int product, const Tensor *weight)
{
    Adapters *x = b->x;
    ProductAdapter adapter = { .a = -1, .b = -1 };
    TensorPart a_part[LOW_RANK_PARTS], b_part[LOW_RANK_PARTS];
    int rank = x->settings.rank, first = 0;
    CHECK(weight->part_count == product_modules[product].count);
    for (int i = 0; i < weight->part_count; first += weight->part[i++].block) {
        int module = product_modules[product].first + i, part = adapter.parts;
        if (!adapter_wanted(&x->settings, layer, module)) continue;
        adapter.module[part] = module;
        adapter.part[part] = (LowRankPart){ first, weight->part[i].block };
        name_parts(&weight->part[i], rank, b->block, &a_part[part], &b_part[part]);
        adapter.parts++;
    }
    if (adapter.parts == 0) return adapter;
    Axis inner = axis_make(rank, b->block, b->grid->columns, b->grid->column);
    adapter.a = append(b, a_part, adapter.parts, weight->columns);
    adapter.b = append(b, b_part, adapter.parts, inner);
    x->lowest = layer < x->lowest ? layer : x->lowest;
    x->parts = (int)larger(x->parts, adapter.parts);
    x->wide_floats = larger(x->wide_floats, (int64_t)weight->rows.local * adapter.parts * inner.local);
    x->inner = larger(x->inner, x->parameters.tensor[adapter.a].rows.local);
    return adapter;
}

static void add_layer(Builder *b, int layer)
{
    const LayerTensors *l = &b->base->layer[layer];
    const int tensor[PRODUCTS] = { l->qkv, l->attention_out, l->gate_up, l->mlp_down };
    for (int i = 0; i < PRODUCTS; i++) b->x->product[layer][i] = add_product(b, layer, i, &b->base->tensor[tensor[i]]);
}

bool adapters_layout(Adapters *x, const AdapterSettings *settings, const Architecture *a, const Parameters *base,
                     const Grid *grid, Error *err)
{
    *x = (Adapters){ .settings = *settings, .lowest = a->layers };
    if (settings->rank == 0) return true;
    Builder builder = { x, grid, base, low_rank_block(settings->rank, grid->columns) };
    Parameters *p = &x->parameters;
    p->tensor = calloc((size_t)(2 * PRODUCTS * a->layers), sizeof *p->tensor);
    x->product = calloc((size_t)a->layers, sizeof *x->product);
    if (!p->tensor || !x->product) {
        adapters_free(x);
        return error_fault(err, "out of memory for the table of adapters");
    }
    for (int l = 0; l < a->layers; l++) add_layer(&builder, l);
    parameters_place(p, p->count);
    return true;
}

void adapters_free(Adapters *x)
{
    parameters_free(&x->parameters);
    free(x->product);
    *x = (Adapters){ 0 };
}

LowRank adapters_product(const Adapters *x, Grid *grid, int layer, int product, const Axis *in, const Axis *out,
                         float *weights, float *gradients)
{
    const ProductAdapter *adapter = &x->product[layer][product];
    if (adapter->parts == 0) return (LowRank){ 0 };
    const Tensor *a = &x->parameters.tensor[adapter->a], *b = &x->parameters.tensor[adapter->b];
    int rank = b->columns.length, block = b->columns.block;
    LowRank l = {
        .grid = grid,
        .in = *in,
        .out = *out,
        .inner = a->rows,
        .inner_wide = axis_make(adapter->parts * rank, adapter->parts * block, grid->columns, grid->column),
        .parts = adapter->parts,
        .rows = b->rows.local,
        .columns = b->columns.local,
        .block = b->rows.block,
        .scale = (float)(x->settings.alpha / rank),
        .a = tensor_matrix(a, grid, weights),
        .b = weights + b->offset,
    };
    memcpy(l.part, adapter->part, sizeof l.part);
    if (!gradients) return l;
    l.da = tensor_matrix(a, grid, gradients);
    l.db = gradients + b->offset;
    return l;
}

/* ---- start ------------------------------------------------------------------------------------------------------ */

/* Streams of random numbers that nobody else has. */
static uint64_t stream_of(int layer, int module) { return (UINT64_C(1) << 40) + (uint64_t)(layer * 16 + module); }

/* A of one product; its row blocks are those of its modules, one below the other. */
static void start_product(const Adapters *x, uint64_t seed, int layer, const ProductAdapter *adapter, float *weights)
{
    const Tensor *t = &x->parameters.tensor[adapter->a];
    double bound = 1 / sqrt(t->columns.length);
    int block = t->part[0].block;
    for (int c = 0; c < t->columns.local; c++)
        for (int i = 0; i < t->rows.local; i++) {
            int row = axis_global(&t->rows, i), within = row % t->rows.block, part = within / block;
            int64_t of_part = row / t->rows.block * block + within % block;
            uint64_t index = (uint64_t)(of_part * t->columns.length + axis_global(&t->columns, c));
            double uniform = (double)(rng_at(seed, stream_of(layer, adapter->module[part]), index) >> 11) * 0x1p-53;
            weights[t->offset + (int64_t)c * t->rows.local + i] = (float)((2 * uniform - 1) * bound);
        }
}

void adapters_start(const Adapters *x, uint64_t seed, float *weights)
{
    memset(weights, 0, sizeof(float) * (size_t)x->parameters.local_floats);
    for (int i = 0, layer = x->lowest; i < x->parameters.count; layer++)
        for (int j = 0; j < PRODUCTS; j++) {
            const ProductAdapter *adapter = &x->product[layer][j];
            if (adapter->a < 0) continue;
            start_product(x, seed, layer, adapter, weights);
            i += 2;
        }
}
