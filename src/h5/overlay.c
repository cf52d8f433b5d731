/* HDF5's way to a file: a driver that keeps what HDF5 writes in front of the file below, in pages of memory.
 *
 * When a write fails, HDF5 1.10 cannot close the file: it keeps objects of it, and later calls crash on them. So
 * writing never fails in here: what is small (metadata) stays in memory until overlay_finish puts it where it
 * belongs, datasets' values go to the disk at once if the file below is nobody else's, and the first failure is kept
 * for overlay_finish to tell. What changed is known page by page, so that a file that grows need not be written again
 * (spares.c). HDF5's own driver for files in memory would hold all of a file, its unwritten parts too.
 *
 * On reading, HDF5 1.10 copies an element of variable-length text as long as the file's heap says into room for as many
 * bytes as the element says, or for HEAP_MOST: a file made to harm could overrun that. So heaps that could hold more
 * are not read unless asked for.
 */
#include "private.h"

#include "catdpo/core/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

enum { HEAP_MOST = 4096, DRIVER_NUMBER = 503 };

typedef struct Page {
    int64_t number; /* of PAGE bytes of the file */
    char *bytes;    /* owned */
} Page;

struct Overlay {
    int below;    /* descriptor, not owned */
    int64_t size; /* bytes of the file below that count: what lies behind them reads as zeros */
    bool direct;  /* datasets' values may be written to the file below */
    bool heaps;   /* large ones may be read: see HEAP_MOST */
    Page *page;   /* [count], ascending */
    int64_t count, room;
    int64_t end;  /* of the file: what HDF5 has allocated */
    int reason;   /* errno of the first write that failed; 0 */
    hid_t driver; /* HDF5 1.10 closes a file by it after giving it up itself */
};

/* ---- pages ------------------------------------------------------------------------------------------------------- */

/* The index of the first page that is not before `number`. */
static int64_t find_page(const Overlay *o, int64_t number)
{
    int64_t low = 0, high = o->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (o->page[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static char *held_page(const Overlay *o, int64_t number)
{
    int64_t i = find_page(o, number);
    return i < o->count && o->page[i].number == number ? o->page[i].bytes : NULL;
}

bool overlay_below(const Overlay *o, void *bytes, int64_t size, int64_t at)
{
    int64_t there = at < o->size ? (o->size - at < size ? o->size - at : size) : 0;
    int64_t got = there > 0 ? file_read(o->below, bytes, (size_t)there, at) : 0;
    if (got < 0) return false;
    memset((char *)bytes + got, 0, (size_t)(size - got));
    return true;
}

/* The page, as it lies in the file below if it is new; NULL with errno. */
static char *make_page(Overlay *o, int64_t number)
{
    int64_t i = find_page(o, number);
    if (i < o->count && o->page[i].number == number) return o->page[i].bytes;
    if (o->count == o->room) {
        int64_t room = o->room ? 2 * o->room : 64;
        Page *page = realloc(o->page, (size_t)room * sizeof *page);
        if (!page) return NULL;
        o->page = page;
        o->room = room;
    }
    char *bytes = malloc(PAGE);
    if (!bytes || !overlay_below(o, bytes, PAGE, number * PAGE)) {
        free(bytes);
        return NULL;
    }
    memmove(o->page + i + 1, o->page + i, (size_t)(o->count++ - i) * sizeof *o->page);
    o->page[i] = (Page){ number, bytes };
    return bytes;
}

/* A piece within one page. False with errno. */
static bool write_piece(Overlay *o, bool values, const char *bytes, int64_t size, int64_t at)
{
    char *page = values && o->direct ? held_page(o, at / PAGE) : make_page(o, at / PAGE);
    if (!page) return values && o->direct && file_write(o->below, bytes, (size_t)size, at);
    memcpy(page + at % PAGE, bytes, (size_t)size);
    return true;
}

static void write_bytes(Overlay *o, bool values, const char *bytes, int64_t size, int64_t at)
{
    while (size > 0) {
        int64_t piece = PAGE - at % PAGE, next = find_page(o, at / PAGE);
        if (values && o->direct) /* up to the next page that is held */
            piece = next == o->count                    ? size
                    : o->page[next].number == at / PAGE ? piece
                                                        : o->page[next].number * PAGE - at;
        if (piece > size) piece = size;
        errno = 0;
        if (!write_piece(o, values, bytes, piece, at) && !o->reason) o->reason = errno ? errno : ENOMEM;
        if (values && o->direct && at + piece > o->size) o->size = at + piece;
        bytes += piece, at += piece, size -= piece;
    }
}

static bool read_bytes(const Overlay *o, char *bytes, int64_t size, int64_t at)
{
    if (!overlay_below(o, bytes, size, at)) return false;
    for (int64_t i = find_page(o, at / PAGE); i < o->count && o->page[i].number * PAGE < at + size; i++) {
        int64_t begin = o->page[i].number * PAGE, from = begin > at ? begin : at,
                to = begin + PAGE < at + size ? begin + PAGE : at + size;
        memcpy(bytes + (from - at), o->page[i].bytes + (from - begin), (size_t)(to - from));
    }
    return true;
}

/* ---- HDF5's driver ----------------------------------------------------------------------------------------------- */

typedef struct DriverFile {
    H5FD_t head; /* HDF5's own */
    Overlay *overlay;
    haddr_t end; /* of what was written; more may be allocated */
} DriverFile;

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t list, haddr_t most)
{
    (void)name, (void)most;
    Overlay *const *overlay = H5Pget_driver_info(list);
    DriverFile *f = overlay ? calloc(1, sizeof *f) : NULL;
    if (!f) return NULL;
    f->overlay = *overlay;
    f->end = flags & H5F_ACC_TRUNC ? 0 : (haddr_t)f->overlay->size;
    return &f->head;
}

static herr_t driver_close(H5FD_t *file)
{
    free(file);
    return 0;
}

static int driver_compare(const H5FD_t *a, const H5FD_t *b)
{
    uintptr_t x = (uintptr_t)((const DriverFile *)a)->overlay, y = (uintptr_t)((const DriverFile *)b)->overlay;
    return (x > y) - (x < y);
}

static herr_t driver_query(const H5FD_t *file, unsigned long *flags)
{
    (void)file;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
    return 0;
}

static haddr_t driver_get_allocated(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return (haddr_t)((const DriverFile *)file)->overlay->end;
}

static herr_t driver_set_allocated(H5FD_t *file, H5FD_mem_t type, haddr_t address)
{
    (void)type;
    ((DriverFile *)file)->overlay->end = (int64_t)address;
    return 0;
}

static haddr_t driver_get_end(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const DriverFile *)file)->end;
}

/* Is this the beginning of a heap that could hold more than HEAP_MOST bytes in a piece? */
static bool is_large_heap(const char *bytes, size_t size)
{
    uint64_t heap;
    if (size != HEAP_MOST || memcmp(bytes, "GCOL\1\0\0\0", 8) != 0) return false;
    memcpy(&heap, bytes + 8, sizeof heap);
    return heap > HEAP_MOST;
}

static herr_t driver_read(H5FD_t *file, H5FD_mem_t type, hid_t list, haddr_t address, size_t size, void *bytes)
{
    (void)type, (void)list;
    DriverFile *f = (DriverFile *)file;
    if (address > INT64_MAX / 2 || size > INT64_MAX / 2) return -1;
    if (!read_bytes(f->overlay, bytes, (int64_t)size, (int64_t)address)) return -1;
    return f->overlay->heaps || !is_large_heap(bytes, size) ? 0 : -1;
}

static herr_t driver_write(H5FD_t *file, H5FD_mem_t type, hid_t list, haddr_t address, size_t size, const void *bytes)
{
    (void)list;
    DriverFile *f = (DriverFile *)file;
    if (address > INT64_MAX / 2 || size > INT64_MAX / 2) return -1;
    write_bytes(f->overlay, type == H5FD_MEM_DRAW, bytes, (int64_t)size, (int64_t)address);
    if (address + size > f->end) f->end = address + size;
    return 0;
}

static herr_t driver_truncate(H5FD_t *file, hid_t list, hbool_t closing)
{
    (void)list, (void)closing;
    DriverFile *f = (DriverFile *)file;
    f->end = (haddr_t)f->overlay->end;
    return 0;
}

static const H5FD_class_t driver = {
#if H5_VERSION_GE(1, 13, 0)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)DRIVER_NUMBER,
#endif
    .name = "catdpo",
    .maxaddr = (haddr_t)INT64_MAX / 2,
    .fc_degree = H5F_CLOSE_WEAK,
    .fapl_size = sizeof(Overlay *),
    .open = driver_open,
    .close = driver_close,
    .cmp = driver_compare,
    .query = driver_query,
    .get_eoa = driver_get_allocated,
    .set_eoa = driver_set_allocated,
    .get_eof = driver_get_end,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

bool overlay_use(Overlay *o, hid_t list)
{
    o->driver = H5FDregister(&driver);
    return o->driver >= 0 && H5Pset_driver(list, o->driver, &o) >= 0;
}

/* ---- before and after -------------------------------------------------------------------------------------------- */

Overlay *overlay_new(int below, int64_t size, bool direct)
{
    Overlay *o = calloc(1, sizeof *o);
    if (o) *o = (Overlay){ .below = below, .size = size, .direct = direct, .driver = -1 };
    return o;
}

void overlay_free(Overlay *o)
{
    for (int64_t i = 0; o && i < o->count; i++) free(o->page[i].bytes);
    if (o && o->driver >= 0) H5FDunregister(o->driver);
    if (o) free(o->page);
    free(o);
}

void overlay_read_heaps(Overlay *o, bool large) { o->heaps = large; }
int64_t overlay_end(const Overlay *o) { return o->end; }
int64_t overlay_count(const Overlay *o) { return o->count; }
int64_t overlay_page(const Overlay *o, int64_t i, const char **bytes)
{
    *bytes = o->page[i].bytes;
    return o->page[i].number;
}

bool overlay_cover(Overlay *o, int64_t from)
{
    for (int64_t number = from / PAGE; number * PAGE < o->end; number++)
        if (!make_page(o, number)) return false;
    return true;
}

bool overlay_finish(Overlay *o, int descriptor)
{
    errno = o->reason;
    if (o->reason) return false;
    for (int64_t i = 0; i < o->count; i++) {
        int64_t at = o->page[i].number * PAGE, size = o->end - at < PAGE ? o->end - at : PAGE;
        if (size > 0 && !file_write(descriptor, o->page[i].bytes, (size_t)size, at)) return false;
    }
    return ftruncate(descriptor, o->end) == 0;
}
