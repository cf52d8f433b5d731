/* Promises: every row arrives, each pair's log-probs from the rank that has them, the largest time of any rank, and
 * what each rank counted since the last flush; the file under its final name is complete after every flush and as
 * before after a failed one; a run continues after any step, with other ranks and pairs a step too; each column has the
 * checksum of its values; labels, scales and units are there; a flush writes as much after many steps as after few. */
#define _GNU_SOURCE
#include "catdpo/h5/checksum.h"
#include "catdpo/h5/h5.h"
#include "../common/sample_files.h"
#include "full_disk.h"
#include "scratch.h"

#include <hdf5_hl.h>
#include <math.h>
#include <sys/stat.h>

enum { K = 3, P = 2, MOST_PAIRS = 8 };

static const char categories[K][CATEGORY_NAME] = { "violence", "privacy", "b\xc3\xa9nin" };
static const uint8_t harm[K] = { 1, 1, 0 };
static const char *const phases[P] = { "forward", "backward" };

static MetricsInfo make_info(int64_t pairs, int64_t capacity)
{
    MetricsInfo info = sample_metrics(K, categories, harm, pairs, P, phases);
    info.capacity = capacity;
    return info;
}

/* What a step holds, as a function of the step, so that the reader can tell. */
static void append(Metrics *m, int64_t step, int64_t pairs, int rank, MPI_Comm comm)
{
    double margin[K], rate[K], violations[K], rewards[K], accuracy[K], loss[K], seconds[P], logps[2][MOST_PAIRS],
        reference[2][MOST_PAIRS];
    int64_t n[K], all[K], partial_n[K], partial_violations[K], index[MOST_PAIRS];
    for (int k = 0; k < K; k++) {
        margin[k] = step + k / 10.0, rate[k] = 1.0 / (step + k), violations[k] = step * 0.5, rewards[k] = -step,
        accuracy[k] = NAN, loss[k] = k;
        n[k] = step * 10 + k, all[k] = step * 20 + k, partial_n[k] = step * 100 + rank * 10 + k,
        partial_violations[k] = step * 100 + rank * 10 + k + 2;
    }
    int ranks;
    CHECK_MPI(MPI_Comm_size(comm, &ranks));
    for (int i = 0; i < pairs; i++) { /* pair i is that of rank i modulo ranks; the last one of a step is nobody's */
        index[i] = step * 1000 + i;
        for (int side = 0; side < 2; side++) {
            logps[side][i] = i % ranks == rank && i < pairs - 1 ? -step - 0.25 * i - side : INFINITY;
            reference[side][i] = -step - 0.5 * i - side;
        }
    }
    for (int p = 0; p < P; p++) seconds[p] = step + (p == 0 ? rank : -rank);
    metrics_append(m, &(StepMetrics){ .step = step,
                                      .epoch = step / 10.0,
                                      .loss = 1.0 / step,
                                      .learning_rate = 1e-6,
                                      .grad_norm = step * 2,
                                      .clipped = step % 2,
                                      .num_tokens = step * 7,
                                      .entropy = NAN,
                                      .mean_token_accuracy = 0.5,
                                      .rewards_chosen = 1,
                                      .rewards_rejected = 2,
                                      .rewards_margins = 3,
                                      .rewards_accuracies = 4,
                                      .logps_chosen = 5,
                                      .logps_rejected = 6,
                                      .logits_chosen = 7,
                                      .logits_rejected = 8,
                                      .margin = margin,
                                      .violation_rate = rate,
                                      .n = n,
                                      .violations = violations,
                                      .pairs = all,
                                      .category_rewards_margins = rewards,
                                      .category_accuracy = accuracy,
                                      .category_loss = loss,
                                      .coefficient_share = rate,
                                      .saturation = rate,
                                      .clean_violations = rate,
                                      .attacked_violations = rate,
                                      .standard_error = rate,
                                      .partial_n = partial_n,
                                      .partial_violations = partial_violations,
                                      .pair_index = index,
                                      .pair_logps = { logps[0], logps[1] },
                                      .pair_ref_logps = { reference[0], reference[1] },
                                      .wall_time = 1e9 + step + 0.5 * rank,
                                      .phase_seconds = seconds,
                                      .step_seconds = step + 0.25 * rank });
}

/* However the rows were written, a column has the checksum of its values as they are read. */
static void check_checksum(H5File *file, const char *name, const void *words, int64_t count)
{
    Error err = { 0 };
    uint64_t stored;
    CHECK(h5_read_uint64(file, name, "checksum", &stored, &err) && stored == checksum_words(words, count, 0, 1));
}

/* The latest interval's steps, (first - 1, last], that `ranks` ranks have counted. */
static void check_partial(H5File *file, int64_t first, int64_t last, int ranks)
{
    Error err = { 0 };
    int64_t n[8 * K], violations[8 * K], found;
    const int64_t wk[2] = { ranks, K };
    bool ok = h5_read_array(file, "/train/partial/n", DATA_INT64, 2, wk, n, &err) &&
              h5_read_array(file, "/train/partial/violations", DATA_INT64, 2, wk, violations, &err) &&
              h5_read_int64(file, "/train/partial", "first_step", first, first, &found, &err) &&
              h5_read_int64(file, "/train/partial", "last_step", last, last, &found, &err);
    if (!ok) fatal(__FILE__, __LINE__, "%s", err.message);
    for (int r = 0; r < ranks; r++)
        for (int k = 0; k < K; k++) {
            int64_t sum = 0;
            for (int64_t t = first; t <= last; t++) sum += t * 100 + r * 10 + k;
            CHECK(n[r * K + k] == sum && violations[r * K + k] == sum + 2 * (last - first + 1));
        }
}

/* On one rank, with plain HDF5: what a reader from elsewhere sees. Step s was written by ranks_of[s] ranks with
 * pairs_of[s] pairs, the latest ones since `first` in one flush by `ranks`. */
static void check_file(const char *path, int64_t first, int64_t steps, const int ranks_of[], const int pairs_of[],
                       int ranks, int pairs)
{
    Error err = { 0 };
    H5File file;
    double loss[64], margin[64 * K], seconds[64 * P], step_seconds[64], entropy[64], accuracy[64 * K], wall[64],
        logps[64 * MOST_PAIRS], reference[64 * MOST_PAIRS];
    int64_t step[64], n[64 * K], index[64 * MOST_PAIRS], restarts;
    uint8_t clipped[64];
    const int64_t s = steps, sk[2] = { steps, K }, sp[2] = { steps, P }, sb[2] = { steps, pairs };
    CHECK(steps <= 64 && ranks <= 8);
    bool ok = h5_open(&file, path, MPI_COMM_NULL, &err) &&
              h5_check_format(&file, "catdpo-metrics", METRICS_VERSION, &err) &&
              h5_read_array(&file, "/train/step", DATA_INT64, 1, &s, step, &err) &&
              h5_read_array(&file, "/train/loss", DATA_FLOAT64, 1, &s, loss, &err) &&
              h5_read_array(&file, "/train/entropy", DATA_FLOAT64, 1, &s, entropy, &err) &&
              h5_read_array(&file, "/train/clipped", DATA_UINT8, 1, &s, clipped, &err) &&
              h5_read_array(&file, "/train/category/margin", DATA_FLOAT64, 2, sk, margin, &err) &&
              h5_read_array(&file, "/train/category/accuracy", DATA_FLOAT64, 2, sk, accuracy, &err) &&
              h5_read_array(&file, "/train/category/n", DATA_INT64, 2, sk, n, &err) &&
              h5_read_array(&file, "/train/pairs", DATA_INT64, 2, sb, index, &err) &&
              h5_read_array(&file, "/train/pair/logps_rejected", DATA_FLOAT64, 2, sb, logps, &err) &&
              h5_read_array(&file, "/train/pair/ref_logps_chosen", DATA_FLOAT64, 2, sb, reference, &err) &&
              h5_read_array(&file, "/timing/seconds", DATA_FLOAT64, 2, sp, seconds, &err) &&
              h5_read_array(&file, "/timing/step_seconds", DATA_FLOAT64, 1, &s, step_seconds, &err) &&
              h5_read_array(&file, "/timing/wall_time", DATA_FLOAT64, 1, &s, wall, &err) &&
              h5_read_int64(&file, "/", "restarts", 0, 100, &restarts, &err);
    if (!ok) fatal(__FILE__, __LINE__, "%s", err.message);
    check_partial(&file, first, steps, ranks);
    check_checksum(&file, "/train/step", step, 2 * steps);
    check_checksum(&file, "/train/category/margin", margin, 2 * steps * K);
    check_checksum(&file, "/train/pairs", index, 2 * steps * pairs);
    check_checksum(&file, "/train/pair/logps_rejected", logps, 2 * steps * pairs);
    check_checksum(&file, "/timing/seconds", seconds, 2 * steps * P);
    uint32_t words[64];
    for (int64_t i = 0; i < steps; i++) words[i] = clipped[i];
    check_checksum(&file, "/train/clipped", words, steps);
    h5_close(&file);
    for (int64_t i = 0; i < steps; i++) {
        int64_t t = i + 1;
        int last = ranks_of[t] - 1;
        CHECK(step[i] == t && loss[i] == 1.0 / t && isnan(entropy[i]) && clipped[i] == t % 2 && wall[i] == 1e9 + t);
        CHECK(seconds[i * P] == t + last && seconds[i * P + 1] == t && step_seconds[i] == t + 0.25 * last);
        for (int k = 0; k < K; k++)
            CHECK(margin[i * K + k] == t + k / 10.0 && n[i * K + k] == t * 10 + k && isnan(accuracy[i * K + k]));
        for (int b = 0; b < pairs; b++) {
            CHECK(index[i * pairs + b] == (b < pairs_of[t] ? t * 1000 + b : -1));
            double logp = logps[i * pairs + b], other = reference[i * pairs + b];
            CHECK(b < pairs_of[t] - 1 ? logp == -t - 0.25 * b - 1 : isnan(logp));
            CHECK(b < pairs_of[t] ? other == -t - 0.5 * b : isnan(other));
        }
    }
}

static void check_label(hid_t file, const char *name, int axis, const char *label, const char *scale)
{
    char found[64] = "";
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    CHECK(set >= 0 && H5DSget_label(set, axis, found, sizeof found) > 0 && strcmp(found, label) == 0);
    if (scale) {
        hid_t scale_set = H5Dopen2(file, scale, H5P_DEFAULT);
        CHECK(H5DSis_scale(scale_set) > 0 && H5DSis_attached(set, scale_set, axis) > 0);
        H5Dclose(scale_set);
    }
    CHECK(H5Aexists(set, "units") > 0 && H5Aexists(set, "description") > 0);
    H5Dclose(set);
}

static void check_labels(const char *path)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    CHECK(file >= 0);
    check_label(file, "/train/loss", 0, "step", "/train/step");
    check_label(file, "/train/rewards/margins", 0, "step", "/train/step");
    check_label(file, "/train/category/margin", 1, "category", "/categories/name");
    check_label(file, "/train/partial/n", 0, "rank", NULL);
    check_label(file, "/train/partial/n", 1, "category", "/categories/name");
    check_label(file, "/train/pair/logps_chosen", 1, "pair", NULL);
    check_label(file, "/train/pairs", 1, "pair", NULL);
    check_label(file, "/timing/seconds", 1, "phase", "/timing/phase");
    H5Fclose(file);
}

static bool is_open_anywhere(void) { return H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) != 0; }

static void test_flushes(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "metrics.h5");
    Error err = { 0 };
    int size = world_size(), rank = world_rank(), ranks_of[64], pairs_of[64];
    for (int i = 0; i < 64; i++) ranks_of[i] = size, pairs_of[i] = 4;
    MetricsInfo info = make_info(4, 5);
    Metrics *m = metrics_create(path, &info, MPI_COMM_WORLD, &err);
    CHECK(m && metrics_flush(m, &err) && !metrics_full(m));
    if (rank == 0) check_file(path, 1, 0, ranks_of, pairs_of, size, 4);
    int64_t flushed = 0, first = 1;
    for (int64_t step = 1; step <= 23; step++) {
        CHECK(!metrics_full(m));
        append(m, step, 4, rank, MPI_COMM_WORLD);
        if (metrics_full(m) || step == 12 || step == 23) {
            CHECK(metrics_flush(m, &err) && !is_open_anywhere());
            first = flushed + 1;
            flushed = step;
        }
        CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
        if (rank == 0) check_file(path, first, flushed, ranks_of, pairs_of, size, 4);
        CHECK(scratch_count(scratch) == 3); /* with two copies out of sight */
    }
    if (rank == 0) check_labels(path);
    metrics_free(m);
    CHECK(scratch_count(scratch) == 1);
}

/* A flush that fails keeps the rows, the file and the next attempt. */
static void test_failed_flush(Scratch *scratch)
{
    char path[512], away[512];
    strcpy(path, scratch_file(scratch, "metrics.h5"));
    strcpy(away, scratch_file(scratch, "away.h5"));
    Error err = { 0 };
    int rank = world_rank(), ranks_of[64], pairs_of[64];
    for (int i = 0; i < 64; i++) ranks_of[i] = world_size(), pairs_of[i] = 4;
    MetricsInfo info = make_info(4, 5);
    Metrics *m = metrics_create(path, &info, MPI_COMM_WORLD, &err);
    for (int64_t step = 1; step <= 3; step++) append(m, step, 4, rank, MPI_COMM_WORLD);
    if (rank == 0) CHECK(rename(path, away) == 0);
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
    CHECK(!metrics_flush(m, &err) && strstr(err.message, "No such file") && !is_open_anywhere());
    CHECK(scratch_count(scratch) == 3);
    if (rank == 0) CHECK(rename(away, path) == 0);
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
    err = (Error){ 0 };
    append(m, 4, 4, rank, MPI_COMM_WORLD);
    CHECK(metrics_flush(m, &err));
    if (rank == 0) check_file(path, 1, 4, ranks_of, pairs_of, world_size(), 4);
    metrics_free(m);
}

/* Run `steps` after `from` on the first `ranks` ranks. On these, the first step of the last flush. */
static int64_t continue_run(const char *path, int64_t from, int64_t steps, int ranks, int pairs)
{
    Error err = { 0 };
    MPI_Comm comm;
    CHECK_MPI(MPI_Comm_split(MPI_COMM_WORLD, world_rank() < ranks ? 0 : MPI_UNDEFINED, world_rank(), &comm));
    if (comm == MPI_COMM_NULL) return 0;
    MetricsInfo info = make_info(pairs, 3);
    Metrics *m = from < 0 ? metrics_create(path, &info, comm, &err) : metrics_resume(path, &info, from, comm, &err);
    if (!m) fatal(__FILE__, __LINE__, "%s", err.message);
    if (from < 0) from = 0;
    int64_t flushed = from, first = from + 1;
    for (int64_t step = from + 1; step <= from + steps; step++) {
        append(m, step, pairs, world_rank(), comm);
        if (!metrics_full(m) && step < from + steps) continue;
        CHECK(metrics_flush(m, &err));
        first = flushed + 1, flushed = step;
    }
    CHECK(metrics_flush(m, &err) && !is_open_anywhere());
    metrics_free(m);
    CHECK_MPI(MPI_Comm_free(&comm));
    return first;
}

/* Killed and resumed, each time on other ranks; steps that were written beyond the checkpoint are done again. */
static void test_resume(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "metrics.h5");
    int size = world_size(), fewer = size > 1 ? size - 1 : 1, ranks_of[64], pairs_of[64], restarts = 0;
    const struct {
        int64_t from, steps;
        int ranks, pairs;
    } runs[] = {
        { -1, 7, fewer, 4 }, { 7, 4, size, 4 }, { 5, 6, 1, 4 }, { 9, 1, size, 6 },
        { 10, 5, fewer, 2 }, { 0, 2, size, 4 }, { 2, 0, 1, 4 },
    };
    int most_pairs = 0;
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        int64_t from = runs[i].from < 0 ? 0 : runs[i].from;
        int64_t first = continue_run(path, runs[i].from, runs[i].steps, runs[i].ranks, runs[i].pairs);
        restarts += i > 0;
        for (int64_t t = from + 1; t <= from + runs[i].steps; t++)
            ranks_of[t] = runs[i].ranks, pairs_of[t] = runs[i].pairs;
        if (runs[i].pairs > most_pairs) most_pairs = runs[i].pairs;
        CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
        if (world_rank() == 0)
            check_file(path, first, from + runs[i].steps, ranks_of, pairs_of, runs[i].ranks, most_pairs);
        CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
    }
    Error err = { 0 };
    H5File file;
    int64_t found;
    CHECK(h5_open(&file, path, MPI_COMM_WORLD, &err) &&
          h5_read_int64(&file, "/", "restarts", restarts, restarts, &found, &err));
    h5_close(&file);
    if (world_rank() == 0) check_labels(path);
}

static void check_refused(const char *path, const MetricsInfo *info, int64_t step, const char *words)
{
    Error err = { 0 };
    Metrics *m = metrics_resume(path, info, step, MPI_COMM_WORLD, &err);
    if (world_rank() == 0 && getenv("VERBOSE")) printf("%s\n", err.message);
    if (m || !strstr(err.message, words)) fatal(__FILE__, __LINE__, "expected \"%s\", got \"%s\"", words, err.message);
    CHECK(!is_open_anywhere());
}

static void test_refused(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "metrics.h5");
    static const char other[K][CATEGORY_NAME] = { "violence", "privacy", "other" };
    static const char *const fewer[P] = { "forward", "update" };
    continue_run(path, -1, 4, world_size(), 4);
    CHECK_MPI(MPI_Barrier(MPI_COMM_WORLD));
    MetricsInfo info = make_info(4, 3);
    check_refused(path, &info, 5, "ends at step 4, the checkpoint is of step 5");
    info.category_name = other;
    check_refused(path, &info, 4, "category 2 is \"b\xc3\xa9nin\", in this run it is \"other\"");
    info = make_info(4, 3);
    info.category_count = 2;
    check_refused(path, &info, 4, "has 3 categories, this run has 2");
    info = make_info(4, 3);
    info.phase_name = fewer;
    check_refused(path, &info, 4, "has a phase \"backward\"");
    info = make_info(4, 3);
    info.partial_unit = 1;
    check_refused(path, &info, 4, "attribute \"unit\" of /train/partial/violations is 0.5");
    info = make_info(4, 3);
    Error err = { 0 };
    H5File file;
    int64_t bad = 9;
    CHECK(h5_modify(&file, path, NULL, MPI_COMM_WORLD, &err));
    if (world_rank() == 0) {
        hid_t set = H5Dopen2(file.meta, "/train/step", H5P_DEFAULT), memory = H5Screate(H5S_SCALAR),
              space = H5Dget_space(set);
        CHECK(H5Sselect_elements(space, H5S_SELECT_SET, 1, &(hsize_t){ 2 }) >= 0);
        CHECK(H5Dwrite(set, H5T_NATIVE_INT64, memory, space, H5P_DEFAULT, &bad) >= 0);
        H5Sclose(space), H5Sclose(memory), H5Dclose(set);
    }
    CHECK(h5_commit(&file, &err));
    check_refused(path, &info, 4, "row 2 is step 9: damaged");
    CHECK(h5_modify(&file, path, NULL, MPI_COMM_WORLD, &err) && h5_delete(&file, "/train/logps/chosen", &err) &&
          h5_commit(&file, &err));
    check_refused(path, &info, 2, "has no /train/logps/chosen");
    check_refused(scratch_file(scratch, "nothing.h5"), &info, 2, "No such file");
}

/* Bytes that rank 0 writes in a flush of 5 steps, the most of six. */
static long long cost(Metrics *m, int64_t *step)
{
    long long most = 0;
    Error err = { 0 };
    for (int i = 0; i < 6; i++) {
        for (int s = 0; s < 5; s++) append(m, ++*step, 4, world_rank(), MPI_COMM_WORLD);
        disk.bytes = 0;
        CHECK(metrics_flush(m, &err));
        if (disk.bytes > most) most = disk.bytes;
    }
    return most;
}

static void test_cost(Scratch *scratch)
{
    const char *path = scratch_file(scratch, "metrics.h5");
    Error err = { 0 };
    MetricsInfo info = make_info(4, 1000);
    Metrics *m = metrics_create(path, &info, MPI_COMM_WORLD, &err);
    CHECK(m);
    int64_t step = 0;
    cost(m, &step); /* what is there only once: the first chunks */
    long long few = cost(m, &step);
    while (step < 20000) {
        append(m, ++step, 4, world_rank(), MPI_COMM_WORLD);
        if (metrics_full(m)) CHECK(metrics_flush(m, &err));
    }
    cost(m, &step); /* what the large flushes left to the copies */
    long long many = cost(m, &step);
    if (world_rank() == 0) printf("a flush of 5 steps writes %lld bytes after 60, %lld after 20,000\n", few, many);
    CHECK(many <= few + few / 4);
    metrics_free(m);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    Scratch scratch = scratch_make();
    test_flushes(&scratch);
    test_failed_flush(&scratch);
    test_resume(&scratch);
    test_refused(&scratch);
    test_cost(&scratch);
    scratch_remove(&scratch);
    MPI_Finalize();
    return 0;
}
