/* The engine on this machine's libraries: gradients, layouts, repeatability. */
#include "tiny.h"

#include "catdpo/files/model_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Float32 sums of some hundred terms, twice: relative errors are near 1e-6; 1e-4 leaves room for another order. */
static const double LAYOUT_TOLERANCE = 1e-4;
/* Differences of log-probs of some hundred nats, known to 1e-5, over a step that changes them by about 1. */
static const double SLOPE_TOLERANCE = 5e-3;

/* What all layouts must agree on. */
typedef struct Results {
    double sum;                /* tiny_run */
    double square[TINY_KINDS]; /* of the gradient */
    double mixed[TINY_KINDS];  /* the gradient times random numbers */
} Results;

static bool results_of(MPI_Comm world, Shape shape, int groups, Results *results, Error *err)
{
    Tiny t;
    bool ok = tiny_open(&t, world, shape, groups, err);
    float *random = ok ? malloc(sizeof(float) * (size_t)t.model.parameters.local_floats) : NULL;
    ok = ok && error_agree(world, random || error_fault(err, "out of memory for a check"), err);
    if (ok) {
        results->sum = tiny_run(&t, true);
        tiny_random(&t, 2, random);
        for (int k = 0; k < TINY_KINDS; k++) {
            results->square[k] = tiny_dot(&t, k, t.model.gradients, t.model.gradients);
            results->mixed[k] = tiny_dot(&t, k, t.model.gradients, random);
        }
    }
    free(random);
    tiny_close(&t);
    return ok;
}

/* The largest relative difference between two results; what it is in, in *what. */
static double difference(const Results *a, const Results *b, const char **what)
{
    double worst = fabs(a->sum - b->sum) / fabs(b->sum);
    *what = "log-probabilities";
    for (int k = 0; k < TINY_KINDS; k++) {
        double here = fmax(fabs(a->square[k] - b->square[k]) / b->square[k],
                           fabs(a->mixed[k] - b->mixed[k]) / sqrt(b->square[k]));
        if (here > worst || isnan(here)) worst = here, *what = tiny_kind(k);
    }
    return worst;
}

static const char *const engine_remedy = "the engine and these libraries do not agree: link another ScaLAPACK or BLAS, "
                                         "run the tests (bash tests/run.sh), and report it with this table";

static void check_layouts(SelfCheck *s, int groups)
{
    Shape shapes[LAYOUTS];
    int layouts = selfcheck_layouts(s->ranks, shapes);
    Results alone, here;
    Error err = { 0 };
    if (!results_of(MPI_COMM_SELF, (Shape){ 1, 1, 1 }, groups, &alone, &err)) {
        selfcheck_add(s, "layouts", CHECK_WRONG, engine_remedy, "%s", err.message);
        return;
    }
    for (int l = 0; l < layouts; l++) {
        char name[FINDING_NAME];
        const char *what = "";
        double worst = INFINITY;
        snprintf(name, sizeof name, "layout %d x %d x %d", shapes[l].replicas, shapes[l].rows, shapes[l].columns);
        bool ok = results_of(s->world, shapes[l], groups, &here, &err);
        if (ok) worst = difference(&here, &alone, &what);
        CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, &worst, 1, MPI_DOUBLE, MPI_MAX, s->world));
        selfcheck_add(s, name, worst <= LAYOUT_TOLERANCE ? CHECK_OK : CHECK_WRONG, engine_remedy,
                      ok ? "log-probs and gradients within %.1e of one rank alone%s%s" : "%.0f %s%s", worst,
                      ok && worst > LAYOUT_TOLERANCE ? ", most in " : "",
                      !ok                        ? err.message
                      : worst > LAYOUT_TOLERANCE ? what
                                                 : "");
    }
}

/* d sum / d step along the gradient of one kind of weights, from four values of the sum. kept: room for the weights. */
static double slope(Tiny *t, int kind, const float *direction, double step, float *kept)
{
    const double at[] = { 1, -1, 2, -2 }, weight[] = { 8, -8, -1, 1 };
    const int64_t bytes = t->model.parameters.local_floats * (int64_t)sizeof(float);
    double sum = 0;
    memcpy(kept, t->model.weights, (size_t)bytes);
    for (int i = 0; i < 4; i++) {
        tiny_add(t, kind, t->model.weights, at[i] * step, direction);
        sum += weight[i] * tiny_run(t, false);
        memcpy(t->model.weights, kept, (size_t)bytes);
    }
    return sum / (12 * step);
}

static void check_gradients(SelfCheck *s, Shape shape, int groups)
{
    Tiny t;
    Error err = { 0 };
    float *gradient = NULL;
    double worst = 0;
    int kind = 0;
    bool ok = tiny_open(&t, s->world, shape, groups, &err);
    int64_t floats = ok ? t.model.parameters.local_floats : 0;
    gradient = ok ? malloc(2 * sizeof(float) * (size_t)floats) : NULL; /* and the weights meanwhile */
    if (ok && error_agree(s->world, gradient || error_fault(&err, "out of memory for a check"), &err)) {
        tiny_run(&t, true);
        memcpy(gradient, t.model.gradients, sizeof(float) * (size_t)floats);
        for (int k = 0; k < TINY_KINDS; k++) {
            double square = tiny_dot(&t, k, gradient, gradient);
            double wrong = fabs(slope(&t, k, gradient, 0.25 / square, gradient + floats) / square - 1);
            if (!(wrong <= worst)) worst = wrong, kind = k;
        }
        CHECK_MPI(MPI_Bcast(&worst, 1, MPI_DOUBLE, 0, s->world));
        CHECK_MPI(MPI_Bcast(&kind, 1, MPI_INT, 0, s->world));
        selfcheck_add(s, "gradients", worst <= SLOPE_TOLERANCE ? CHECK_OK : CHECK_WRONG, engine_remedy,
                      "%d x %d x %d: within %.1e of finite differences, most in %s", shape.replicas, shape.rows,
                      shape.columns, worst, tiny_kind(kind));
    } else
        selfcheck_add(s, "gradients", CHECK_WRONG, engine_remedy, "%s", err.message);
    free(gradient);
    tiny_close(&t);
}

/* The digest of the weights after some steps of training. */
static bool train(SelfCheck *s, Shape shape, int groups, char digest[WEIGHTS_DIGEST], Error *err)
{
    enum { STEPS = 4 };
    Tiny t;
    bool ok = tiny_open(&t, s->world, shape, groups, err);
    uint64_t *checksums = ok ? calloc((size_t)parts_count(&t.model.parameters), sizeof *checksums) : NULL;
    ok = ok && error_agree(s->world, checksums || error_fault(err, "out of memory for a check"), err);
    for (int step = 0; ok && step < STEPS; step++) {
        tiny_run(&t, true);
        double norm = optimizer_norm(&t.optimizer, t.model.gradients);
        optimizer_update(&t.optimizer, t.model.weights, t.model.gradients, 1e-3, norm);
        optimizer_spread(&t.optimizer, t.model.weights);
    }
    if (ok) {
        const Optimizer *o = &t.optimizer;
        int64_t first = o->bounds[t.grid.replica], end = o->bounds[t.grid.replica + 1];
        tensors_checksums(&t.model, t.model.trained, &(ShardedArray){ t.model.weights + first, first, end }, checksums);
        ok = parts_digest(&t.model.parameters, checksums, digest, err);
    }
    free(checksums);
    tiny_close(&t);
    return ok;
}

static void check_repeat(SelfCheck *s, Shape shape, int groups)
{
    char once[WEIGHTS_DIGEST] = "", again[WEIGHTS_DIGEST] = "";
    Error err = { 0 };
    bool ok = train(s, shape, groups, once, &err) && train(s, shape, groups, again, &err);
    bool same = ok && strcmp(once, again) == 0;
    selfcheck_add(s, "repeatable", same ? CHECK_OK : CHECK_WRONG,
                  ok ? "the order of sums changes from run to run: ask MPI for repeatable collectives (Open MPI: --mca "
                       "coll_han_priority 0), BLAS for one thread a rank; otherwise a resumed run is not bit for bit"
                     : engine_remedy,
                  ok ? "%d x %d x %d: 4 steps twice, weights %s and %s" : "%d x %d x %d: %s%s", shape.replicas,
                  shape.rows, shape.columns, ok ? once : err.message, again);
}

void selfcheck_model(SelfCheck *s)
{
    Shape shapes[LAYOUTS];
    int layouts = selfcheck_layouts(s->ranks, shapes), groups = tiny_groups(shapes, layouts);
    check_gradients(s, shapes[layouts > 2 ? 2 : 0], groups);
    check_layouts(s, groups);
    check_repeat(s, shapes[layouts > 2 ? 2 : 0], groups);
}
