/* Preference pairs in memory: where the arrays lie, and what must hold of them. */
#include "catdpo/data/pairs.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* The next `bytes` of the shared memory, on a cache line of its own; NULL while only the size is wanted. */
static void *carve(char *base, int64_t *used, int64_t bytes)
{
    char *place = base ? base + *used : NULL;
    *used += (bytes + 63) / 64 * 64;
    return place;
}

/* Point every array of pairs into base; returns the bytes needed. */
static int64_t place_arrays(Pairs *pairs, char *base)
{
    int64_t used = 0, n = pairs->count, k = pairs->category_count;
    pairs->category_name = carve(base, &used, k * CATEGORY_NAME);
    pairs->category_harm = carve(base, &used, k);
    for (int i = 0; i < PAIR_SIDES; i++) {
        PairSide *side = &pairs->side[i];
        side->offsets = carve(base, &used, (n + 1) * (int64_t)sizeof *side->offsets);
        side->tokens = carve(base, &used, side->token_count * (int64_t)sizeof *side->tokens);
        side->prompt_length = carve(base, &used, n * (int64_t)sizeof *side->prompt_length);
    }
    pairs->category_mask = carve(base, &used, n * k);
    pairs->margin_applies = carve(base, &used, n);
    pairs->chosen_safe = carve(base, &used, n);
    pairs->rejected_safe = carve(base, &used, n);
    pairs->chosen_better = carve(base, &used, n);
    if (pairs->has_segments) {
        pairs->segment_end = carve(base, &used, PAIR_SIDES * n * (int64_t)sizeof *pairs->segment_end);
        pairs->segment_weight = carve(base, &used, SEGMENTS * n * (int64_t)sizeof *pairs->segment_weight);
    }
    if (pairs->score_count > 0) {
        int64_t scores = n * pairs->score_count * (int64_t)sizeof(double);
        pairs->score_name = carve(base, &used, (int64_t)pairs->score_count * SCORE_NAME);
        for (int i = 0; i < PAIR_SIDES; i++) pairs->score[i] = carve(base, &used, scores);
        pairs->score_weight = carve(base, &used, scores);
    }
    return used;
}

#ifdef OPEN_MPI
#define ROOM_NAME   "OMPI_MCA_osc_sm_backing_directory"
#define ROOM_REMEDY ", or name a larger folder in " ROOM_NAME
#else
#define ROOM_NAME   ""
#define ROOM_REMEDY ""
#endif

/* Open MPI 4 leaves the other ranks waiting when there is no room for shared memory, so that has to be known before. */
static bool has_room(MPI_Comm node, int64_t bytes, Error *err)
{
    int ranks;
    CHECK_MPI(MPI_Comm_size(node, &ranks));
    const char *named = getenv(ROOM_NAME), *folder = named ? named : "/dev/shm";
    struct statvfs room;
    if (ranks == 1) return true;
    if (statvfs(folder, &room) != 0) return !named || error_usage(err, "%s: %s", named, strerror(errno));
    double free_bytes = (double)room.f_bavail * (double)room.f_frsize;
    if (free_bytes > bytes + (1 << 20)) return true;
    return error_fault(
        err, "%s has %.1f MB of room; the pairs that the ranks of a node share need %.1f MB: enlarge it" ROOM_REMEDY,
        folder, free_bytes / 1e6, bytes / 1e6);
}

bool pairs_allocate(Pairs *pairs, const PairsShape *shape, MPI_Comm comm, Error *err)
{
    CHECK(shape->count >= 0 && shape->category_count >= 1);
    *pairs = (Pairs){ .count = shape->count,
                      .category_count = shape->category_count,
                      .has_segments = shape->has_segments,
                      .score_count = shape->score_count,
                      .node = MPI_COMM_NULL,
                      .window = MPI_WIN_NULL };
    for (int i = 0; i < PAIR_SIDES; i++) {
        CHECK(shape->tokens[i] >= 0);
        pairs->side[i].token_count = shape->tokens[i];
    }
    int64_t bytes = place_arrays(pairs, NULL);
    if (comm == MPI_COMM_NULL) {
        pairs->memory = calloc(1, (size_t)bytes);
        place_arrays(pairs, pairs->memory);
        return pairs->memory || error_fault(err, "no memory for pairs of %.1f MB", (double)bytes / 1e6);
    }

    CHECK_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &pairs->node));
    MPI_Aint size = 0;
    int unit;
    char *base = NULL;
    bool writer = pairs_is_writer(pairs);
    if (!error_agree(comm, !writer || has_room(pairs->node, bytes, err), err)) {
        pairs_free(pairs);
        return false;
    }
    CHECK_MPI(
        MPI_Win_allocate_shared(writer ? (MPI_Aint)bytes : 0, 1, MPI_INFO_NULL, pairs->node, &base, &pairs->window));
    CHECK_MPI(MPI_Win_shared_query(pairs->window, 0, &size, &unit, &base));
    CHECK_MPI(MPI_Win_lock_all(MPI_MODE_NOCHECK, pairs->window));
    place_arrays(pairs, base);
    if (writer) memset(base, 0, bytes);
    return true;
}

bool pairs_is_writer(const Pairs *pairs)
{
    int rank = 0;
    if (!pairs->memory) CHECK_MPI(MPI_Comm_rank(pairs->node, &rank));
    return rank == 0;
}

void pairs_publish(Pairs *pairs)
{
    if (pairs->memory) return;
    CHECK_MPI(MPI_Win_sync(pairs->window));
    CHECK_MPI(MPI_Barrier(pairs->node));
    CHECK_MPI(MPI_Win_sync(pairs->window));
}

void pairs_free(Pairs *pairs)
{
    if (pairs->category_count == 0) return; /* zeroed: not even the handles are MPI's */
    free(pairs->settings);
    free(pairs->memory);
    if (pairs->window != MPI_WIN_NULL) {
        CHECK_MPI(MPI_Win_unlock_all(pairs->window));
        CHECK_MPI(MPI_Win_free(&pairs->window));
    }
    if (pairs->node != MPI_COMM_NULL) CHECK_MPI(MPI_Comm_free(&pairs->node));
    *pairs = (Pairs){ 0 };
}

/* ---- promises ---------------------------------------------------------------------------------------------------- */

#define REMEDY "; prepare it again with catdpo-analysis prepare"

static bool check_categories(const Pairs *pairs, const char *where, Error *err)
{
    for (int k = 0; k < pairs->category_count; k++) {
        const char *name = pairs->category_name[k];
        size_t length = strnlen(name, CATEGORY_NAME);
        bool plain = length > 0 && length < CATEGORY_NAME;
        for (size_t i = 0; i < length; i++) plain = plain && (unsigned char)name[i] >= ' ' && name[i] != 127;
        if (!plain)
            return error_usage(err, "%s: category %d has no name, or one with control characters" REMEDY, where, k);
        for (int j = 0; j < k; j++)
            if (strcmp(name, pairs->category_name[j]) == 0)
                return error_usage(err, "%s: categories %d and %d are both called \"%s\"" REMEDY, where, j, k, name);
        if (pairs->category_harm[k] > 1)
            return error_usage(err, "%s: the harm flag of category %d is %d, not 0 or 1" REMEDY, where, k,
                               pairs->category_harm[k]);
    }
    return true;
}

static bool check_side(const Pairs *pairs, int which, int64_t *longest, const char *where, Error *err)
{
    const PairSide *side = &pairs->side[which];
    const char *name = which == PAIR_CHOSEN ? "chosen" : "rejected";
    if (side->offsets[0] != 0 || side->offsets[pairs->count] != side->token_count) {
        return error_usage(err,
                           "%s/%s/offsets: goes from %" PRId64 " to %" PRId64 ", but there are %" PRId64
                           " tokens" REMEDY,
                           where, name, side->offsets[0], side->offsets[pairs->count], side->token_count);
    }
    for (int64_t i = 0; i < pairs->count; i++) {
        int64_t begin = side->offsets[i], end = side->offsets[i + 1];
        if (end < begin || end > side->token_count) {
            return error_usage(err,
                               "%s/%s/offsets: entry %" PRId64 " is %" PRId64 ", outside [%" PRId64 ", %" PRId64
                               "]" REMEDY,
                               where, name, i + 1, end, begin, side->token_count);
        }
        if (end - begin < 2 || end - begin > INT32_MAX) {
            return error_usage(err,
                               "%s/%s/offsets: sequence %" PRId64 " has %" PRId64
                               " tokens; prompt and completion need one each" REMEDY,
                               where, name, i, end - begin);
        }
        if (side->prompt_length[i] < 1 || side->prompt_length[i] >= end - begin) {
            return error_usage(err, "%s/%s/prompt_length: entry %" PRId64 " is %d, outside [1, %" PRId64 "]" REMEDY,
                               where, name, i, side->prompt_length[i], end - begin - 1);
        }
        if (end - begin > *longest) *longest = end - begin;
    }
    for (int64_t i = 0; i < side->token_count; i++) {
        if (side->tokens[i] < 0 || side->tokens[i] >= pairs->vocab_size) {
            return error_usage(err,
                               "%s/%s/tokens: entry %" PRId64 " is %d, outside the vocabulary of %" PRId64
                               " tokens" REMEDY,
                               where, name, i, side->tokens[i], pairs->vocab_size);
        }
    }
    return true;
}

static bool check_flags(const Pairs *pairs, const char *where, Error *err)
{
    for (int64_t i = 0; i < pairs->count; i++) {
        const uint8_t *row = pairs_categories(pairs, i);
        int categories = 0;
        for (int k = 0; k < pairs->category_count; k++) {
            if (row[k] > 1) {
                return error_usage(err, "%s/category_mask: entry [%" PRId64 ", %d] is %d, not 0 or 1" REMEDY, where, i,
                                   k, row[k]);
            }
            categories += row[k];
        }
        if (categories == 0)
            return error_usage(err, "%s/category_mask: pair %" PRId64 " has no category" REMEDY, where, i);

        const uint8_t flags[2] = { pairs->chosen_safe[i], pairs->rejected_safe[i] };
        for (int side = 0; side < 2; side++) {
            if (flags[side] > 1 && flags[side] != 255) {
                return error_usage(err, "%s/%s_safe: entry %" PRId64 " is %d, not 0, 1 or 255" REMEDY, where,
                                   side == PAIR_CHOSEN ? "chosen" : "rejected", i, flags[side]);
            }
        }
        if (pairs->chosen_better[i] < -1 || pairs->chosen_better[i] > 1) {
            return error_usage(err, "%s/chosen_better: entry %" PRId64 " is %d, not -1, 0 or 1" REMEDY, where, i,
                               pairs->chosen_better[i]);
        }
    }
    return true;
}

static bool check_segments(const Pairs *pairs, const char *where, Error *err)
{
    for (int64_t i = 0; pairs->has_segments && i < pairs->count; i++) {
        const double *weight = pairs->segment_weight + SEGMENTS * i;
        for (int side = 0; side < PAIR_SIDES; side++) {
            int end = pairs->segment_end[PAIR_SIDES * i + side];
            if (end < 0 || end > pairs_completion(pairs, side, i))
                return error_usage(err, "%s/segment_end: entry [%" PRId64 ", %d] is %d, outside [0, %d]" REMEDY, where,
                                   i, side, end, pairs_completion(pairs, side, i));
        }
        if (!(fabs(weight[0]) <= 2) || !(fabs(weight[1]) <= 2))
            return error_usage(err, "%s/segment_weight: row %" PRId64 " is %g, %g, not within [-2, 2]" REMEDY, where, i,
                               weight[0], weight[1]);
    }
    return true;
}

static bool check_scores(const Pairs *pairs, const char *where, Error *err)
{
    for (int64_t i = 0; pairs->score_count > 0 && i < pairs->count; i++) {
        double sum = 0;
        for (int64_t j = i * pairs->score_count; j < (i + 1) * pairs->score_count; j++) {
            if (!isfinite(pairs->score[PAIR_CHOSEN][j]) || !isfinite(pairs->score[PAIR_REJECTED][j]))
                return error_usage(err, "%s: a score of pair %" PRId64 " is not finite" REMEDY, where, i);
            sum += pairs->score_weight[j] >= 0 ? pairs->score_weight[j] : NAN;
        }
        if (!(fabs(sum - 1) <= 1e-9))
            return error_usage(err,
                               "%s/score_weight: row %" PRId64 " has a negative weight, or does not add up to 1" REMEDY,
                               where, i);
    }
    return true;
}

bool pairs_check(Pairs *pairs, const char *where, Error *err)
{
    int64_t longest = 0;
    if (!check_categories(pairs, where, err)) return false;
    for (int side = 0; side < PAIR_SIDES; side++)
        if (!check_side(pairs, side, &longest, where, err)) return false;
    if (!check_flags(pairs, where, err) || !check_segments(pairs, where, err) || !check_scores(pairs, where, err))
        return false;
    pairs->longest = longest;
    for (int64_t i = 0; i < pairs->count; i++)
        pairs->margin_applies[i] = pairs->chosen_safe[i] == 1 && pairs->rejected_safe[i] == 0;
    return true;
}

PairView pairs_view(const Pairs *pairs, int64_t i)
{
    PairView view = {
        .tokens = { pairs_completion(pairs, PAIR_CHOSEN, i), pairs_completion(pairs, PAIR_REJECTED, i) },
        .categories = pairs_categories(pairs, i),
        .applies = pairs->margin_applies[i],
        .safe = { pairs->chosen_safe[i], pairs->rejected_safe[i] },
    };
    if (pairs->score_count > 0) {
        int64_t row = i * pairs->score_count;
        view.score_count = pairs->score_count;
        for (int side = 0; side < PAIR_SIDES; side++) view.score[side] = pairs->score[side] + row;
        view.score_weight = pairs->score_weight + row;
    }
    for (int s = 0; pairs->has_segments && s < SEGMENTS; s++)
        view.segment_weight[s] = pairs->segment_weight[SEGMENTS * i + s];
    return view;
}
