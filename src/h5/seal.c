/* The seal of a file: what follows the HDF5 data, so that no byte of the file can change unnoticed.
 *
 *     int64 begin, end    of each range, in bytes: values of datasets that have their own checksums or are chunked
 *     int64 size          of the HDF5 file in front of the seal
 *     int64 count         of the ranges
 *     uint64 checksum     of the bytes of the HDF5 file that lie in no range, one after the other, and of size
 *     uint64 own          of all of the above
 *     char  mark[16]
 *
 * HDF5 ignores what lies behind its end and cuts it off when it opens a file for writing: a file that another program
 * changed has no seal. The layout of a file is sealed while rank 0 has it in memory; what ranks write later lies in the
 * ranges, and has checksums that were known before. A reader can trust metadata before HDF5 parses them. The seal of a
 * file that grows in small commits (spares.c) has no ranges: it covers all, and follows from the pages that changed.
 */
#include "private.h"

#include "catdpo/core/file.h"
#include "catdpo/h5/checksum.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MARK = 16, FOOT = 4, STAGE = 1 << 16 }; /* bytes of the mark; numbers before it; bytes summed at once */

static const char mark[MARK] = "catdpo-seal 1\r\n";

typedef struct Range {
    int64_t begin, end;
} Range;

struct Seal {
    Range *range; /* [count], ascending and apart */
    int64_t count, room;
    int64_t size; /* -1 until the layout was measured */
    uint64_t checksum;
};

static bool add_range(Seal *seal, int64_t begin, int64_t bytes)
{
    if (bytes <= 0) return true;
    if (seal->count == seal->room) {
        int64_t room = seal->room ? 2 * seal->room : 64;
        Range *range = realloc(seal->range, (size_t)room * sizeof *range);
        if (!range) return false;
        seal->range = range;
        seal->room = room;
    }
    seal->range[seal->count++] = (Range){ begin, begin + bytes };
    return true;
}

/* ---- what has checksums of its own ------------------------------------------------------------------------------- */

static bool add_chunks(Seal *seal, hid_t set, hid_t list)
{
    hsize_t extent[SLAB_AXES], chunk[SLAB_AXES], at[SLAB_AXES] = { 0 };
    hid_t space = H5Dget_space(set);
    int axes = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    bool ok = axes >= 1 && axes <= SLAB_AXES && H5Sget_simple_extent_dims(space, extent, NULL) == axes &&
              H5Pget_chunk(list, SLAB_AXES, chunk) == axes,
         end = false;
    if (space >= 0) H5Sclose(space);
    for (int i = 0; ok && i < axes; i++) end = end || extent[i] == 0;
    while (ok && !end) {
        unsigned mask;
        haddr_t address = HADDR_UNDEF;
        hsize_t bytes = 0;
        ok = H5Dget_chunk_info_by_coord(set, at, &mask, &address, &bytes) >= 0 &&
             (address == HADDR_UNDEF || add_range(seal, (int64_t)address, (int64_t)bytes));
        int i = axes - 1;
        while (i >= 0 && (at[i] += chunk[i]) >= extent[i]) at[i--] = 0;
        end = i < 0;
    }
    return ok;
}

#if H5_VERSION_GE(1, 12, 0)
#define VISIT(file, visit, data) H5Ovisit3(file, H5_INDEX_NAME, H5_ITER_NATIVE, visit, data, H5O_INFO_BASIC)
typedef H5O_info2_t ObjectInfo;
#else
#define VISIT(file, visit, data) H5Ovisit(file, H5_INDEX_NAME, H5_ITER_NATIVE, visit, data)
typedef H5O_info_t ObjectInfo;
#endif

static herr_t add_object(hid_t file, const char *name, const ObjectInfo *info, void *data)
{
    Seal *seal = data;
    if (info->type != H5O_TYPE_DATASET) return 0;
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT), list = set >= 0 ? H5Dget_create_plist(set) : -1;
    H5D_fill_time_t fill = H5D_FILL_TIME_ERROR;
    htri_t summed = set >= 0 ? H5Aexists(set, "checksum") : -1;
    bool ok = list >= 0 && summed >= 0 && H5Pget_fill_time(list, &fill) >= 0;
    H5D_layout_t layout = ok ? H5Pget_layout(list) : H5D_LAYOUT_ERROR;
    if (layout == H5D_CHUNKED) ok = add_chunks(seal, set, list);
    if (layout == H5D_CONTIGUOUS &&
        (summed || fill == H5D_FILL_TIME_NEVER)) { /* h5_create_dataset: to be filled by slabs */
        haddr_t address = H5Dget_offset(set);
        ok = address == HADDR_UNDEF || add_range(seal, (int64_t)address, (int64_t)H5Dget_storage_size(set));
    }
    if (list >= 0) H5Pclose(list);
    if (set >= 0) H5Dclose(set);
    return ok ? 0 : -1;
}

static int by_place(const void *a, const void *b)
{
    const Range *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

bool seal_begin(H5File *file, Error *err)
{
    seal_free(file);
    Seal *seal = file->seal = calloc(1, sizeof *seal);
    if (!seal) return error_fault(err, "%s: no memory for the seal", file->path);
    seal->size = -1;
    if (!h5_ok(VISIT(file->meta, add_object, seal), err, "%s: cannot be sealed", file->path)) return false;
    if (seal->count > 0) qsort(seal->range, (size_t)seal->count, sizeof *seal->range, by_place);
    int64_t kept = 0;
    for (int64_t i = 0; i < seal->count; i++) {
        if (kept > 0 && seal->range[i].begin <= seal->range[kept - 1].end)
            seal->range[kept - 1].end = seal->range[i].end;
        else
            seal->range[kept++] = seal->range[i];
    }
    seal->count = kept;
    return true;
}

void seal_free(H5File *file)
{
    if (file->seal) free(file->seal->range);
    free(file->seal);
    file->seal = NULL;
}

/* ---- checksums of bytes ------------------------------------------------------------------------------------------ */

typedef struct Sum {
    char stage[STAGE];
    int64_t held; /* bytes on the stage */
    uint64_t words, sum;
} Sum;

static void sum_stage(Sum *s)
{
    while (s->held % 4) s->stage[s->held++] = 0;
    s->sum += checksum_words(s->stage, s->held / 4, s->words, 1);
    s->words += (uint64_t)s->held / 4;
    s->held = 0;
}

/* Bytes [from, to) of a file. False with errno, 0 for one that is shorter. */
static bool sum_file(Sum *s, int descriptor, int64_t from, int64_t to)
{
    while (from < to) {
        int64_t most = to - from < STAGE - s->held ? to - from : STAGE - s->held;
        int64_t got = file_read(descriptor, s->stage + s->held, (size_t)most, from);
        if (got == 0) errno = 0;
        if (got <= 0) return false;
        from += got;
        s->held += got;
        if (s->held == STAGE) sum_stage(s);
    }
    return true;
}

/* What lies in front of, between and behind the ranges: its checksum, and how many words it has. */
static bool sum_between(const Seal *seal, int descriptor, uint64_t *checksum, uint64_t *words)
{
    Sum *s = calloc(1, sizeof *s);
    bool ok = s;
    int64_t at = 0;
    for (int64_t i = 0; ok && i < seal->count; i++) {
        ok = sum_file(s, descriptor, at, seal->range[i].begin);
        at = seal->range[i].end;
    }
    ok = ok && sum_file(s, descriptor, at, seal->size);
    if (ok) {
        sum_stage(s);
        *checksum = s->sum, *words = s->words;
    }
    int reason = errno;
    free(s);
    errno = reason;
    return ok;
}

static bool measure(const Seal *seal, int descriptor, uint64_t *checksum)
{
    uint64_t words = 0;
    if (!sum_between(seal, descriptor, checksum, &words)) return false;
    *checksum += checksum_words(&seal->size, 2, words, 1);
    return true;
}

bool seal_words(int descriptor, int64_t size, uint64_t *words)
{
    uint64_t count;
    return sum_between(&(Seal){ .size = size }, descriptor, words, &count);
}

bool seal_begin_whole(H5File *file, int64_t size, uint64_t words, Error *err)
{
    seal_free(file);
    file->seal = calloc(1, sizeof *file->seal);
    if (!file->seal) return error_fault(err, "%s: no memory for the seal", file->path);
    *file->seal = (Seal){ .size = size, .checksum = words + checksum_words(&size, 2, (uint64_t)(size + 3) / 4, 1) };
    return true;
}

bool seal_measure(H5File *file, int descriptor, Error *err)
{
    Seal *seal = file->seal;
    struct stat status;
    bool ok = fstat(descriptor, &status) == 0;
    if (ok) {
        seal->size = status.st_size;
        if (seal->count > 0 && seal->range[seal->count - 1].end > seal->size)
            seal->range[seal->count - 1].end = seal->size;
        ok = measure(seal, descriptor, &seal->checksum);
    }
    return ok || error_fault(err, "%s: cannot be sealed: %s", file->path, strerror(errno));
}

/* ---- behind the file --------------------------------------------------------------------------------------------- */

bool seal_append(const H5File *file, const char *name, Error *err)
{
    const Seal *seal = file->seal;
    CHECK(seal && seal->size >= 0);
    size_t ranges = (size_t)seal->count * sizeof(Range), numbers = ranges + FOOT * 8, bytes = numbers + MARK;
    char *tail = malloc(bytes);
    if (!tail) return error_fault(err, "%s: no memory for the seal", file->path);
    if (ranges > 0) memcpy(tail, seal->range, ranges);
    uint64_t foot[FOOT] = { (uint64_t)seal->size, (uint64_t)seal->count, seal->checksum, 0 };
    memcpy(tail + ranges, foot, sizeof foot);
    foot[FOOT - 1] = checksum_words(tail, (int64_t)(numbers - 8) / 4, 0, 1);
    memcpy(tail + ranges, foot, sizeof foot);
    memcpy(tail + numbers, mark, MARK);

    int descriptor = open(name, O_WRONLY | O_CLOEXEC);
    bool ok = descriptor >= 0 && file_write(descriptor, tail, bytes, seal->size);
    if (!ok) error_fault(err, "%s: cannot write: %s", name, strerror(errno));
    if (descriptor >= 0 && close(descriptor) != 0 && ok)
        ok = error_fault(err, "%s: cannot write: %s", name, strerror(errno));
    free(tail);
    return ok;
}

static bool read_at(int descriptor, void *bytes, size_t size, int64_t at)
{
    return file_read(descriptor, bytes, size, at) == (int64_t)size;
}

/* Is the seal itself what was written? Fills it in; its ranges are owned by the caller. */
static bool read_seal(int descriptor, int64_t whole, Seal *seal)
{
    uint64_t foot[FOOT];
    if (!read_at(descriptor, foot, sizeof foot, whole - MARK - FOOT * 8)) return false;
    int64_t front = whole - MARK - FOOT * 8;
    seal->size = (int64_t)foot[0], seal->count = (int64_t)foot[1], seal->checksum = foot[2];
    if (seal->size < 0 || seal->size > front || seal->count < 0 || seal->count > front / (int64_t)sizeof(Range) ||
        seal->size + seal->count * (int64_t)sizeof(Range) != front)
        return false;
    size_t ranges = (size_t)seal->count * sizeof(Range);
    char *tail = malloc(ranges + FOOT * 8);
    bool ok = tail && read_at(descriptor, tail, ranges + FOOT * 8, seal->size) &&
              checksum_words(tail, (int64_t)(ranges + FOOT * 8 - 8) / 4, 0, 1) == foot[FOOT - 1];
    seal->range = (Range *)tail;
    int64_t at = 0;
    for (int64_t i = 0; ok && i < seal->count; i++) {
        ok =
            seal->range[i].begin >= at && seal->range[i].end > seal->range[i].begin && seal->range[i].end <= seal->size;
        at = seal->range[i].end;
    }
    return ok;
}

bool seal_verify(const char *path, int descriptor, int64_t *size, bool *sealed, Error *err)
{
    char found[MARK];
    int64_t whole = *size;
    *sealed = false;
    if (whole < MARK + FOOT * 8 || !read_at(descriptor, found, MARK, whole - MARK) || memcmp(found, mark, MARK) != 0)
        return true;
    Seal seal = { 0 };
    uint64_t checksum = 0;
    bool ok = read_seal(descriptor, whole, &seal) && measure(&seal, descriptor, &checksum) && checksum == seal.checksum;
    free(seal.range);
    *sealed = ok;
    if (ok) *size = seal.size;
    return ok || error_usage(err,
                             "%s: damaged: what it holds beside its large datasets does not have the checksum at its "
                             "end. Use another copy, or make it again",
                             path);
}
