/* Large allocations, views of them, and the table of bytes by kind. */
#include "catdpo/core/memory.h"

#include "catdpo/core/memory_limit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- allocation ---- */

/* Stands right before what memory_allocate hands out. */
typedef union Header {
    struct {
        void *base;    /* of the mapping, or of the block on the heap */
        size_t mapped; /* bytes of the mapping; 0: on the heap */
    };
    char padding[MEMORY_ALIGNMENT];
} Header;

/* Large memory is mapped: its pages are zero and take room only once they are used. */
static Header *map_pages(size_t size)
{
    enum { HUGE_PAGE = 2 << 20 };
    size_t mapped = size + 2 * HUGE_PAGE;
    char *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    char *start = base + HUGE_PAGE + (HUGE_PAGE - (uintptr_t)base % HUGE_PAGE) % HUGE_PAGE;
#ifdef MADV_HUGEPAGE
    (void)!madvise(start, size, MADV_HUGEPAGE); /* fewer page faults; fine without */
#endif
    Header *header = (Header *)start - 1;
    header->base = base;
    header->mapped = mapped;
    return header;
}

static Header *take_from_heap(size_t size)
{
    void *base = NULL;
    if (posix_memalign(&base, MEMORY_ALIGNMENT, sizeof(Header) + size) != 0) return NULL;
    memset(base, 0, sizeof(Header) + size);
    ((Header *)base)->base = base;
    return base;
}

void *memory_allocate(int64_t bytes, const char *what, Error *err)
{
    enum { LARGE = 4 << 20 };
    CHECK(bytes >= 0);
    char amount[16], left[16];
    int64_t available = INT64_MAX;
    MemoryLimit tightest;
    /* Linux promises more than it has and kills the process that believes it */
    if (bytes >= LARGE) tightest = memory_tightest("/proc", &available);
    if (bytes > available) {
        error_fault(err, "no memory left for %s of %s: %s leaves %s", memory_text((double)bytes, amount), what,
                    tightest.name, memory_text((double)available, left));
        return NULL;
    }
    Header *header = bytes < LARGE ? take_from_heap((size_t)bytes) : map_pages((size_t)bytes);
    if (header) return header + 1;
    error_fault(err, "no memory left for %s of %s", memory_text((double)bytes, amount), what);
    return NULL;
}

void memory_free(void *memory)
{
    if (!memory) return;
    Header *header = (Header *)memory - 1;
    if (header->mapped > 0)
        munmap(header->base, header->mapped);
    else
        free(header->base);
}

void *arena_take(Arena *arena, int64_t count, size_t size)
{
    CHECK(count >= 0);
    void *view = arena->base ? arena->base + arena->used : NULL;
    arena->used += (count * (int64_t)size + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
    return view;
}

float *arena_floats(Arena *arena, int64_t count) { return arena_take(arena, count, sizeof(float)); }

/* ---- table ---- */

void memory_note(MemoryTable *table, const char *kind, int64_t bytes)
{
    int k = 0;
    while (k < table->count && strcmp(table->row[k].kind, kind) != 0) k++;
    CHECK(k < MEMORY_KINDS);
    if (k == table->count) {
        table->count++;
        table->row[k].kind = kind;
        table->row[k].bytes = 0;
    }
    table->row[k].bytes += bytes;
}

static int64_t memory_total(const MemoryTable *table)
{
    int64_t total = 0;
    for (int k = 0; k < table->count; k++) total += table->row[k].bytes;
    return total;
}

const char *memory_text(double bytes, char text[16])
{
    static const char *const units[] = { "B", "kB", "MB", "GB", "TB", "PB" };
    int unit = 0;
    while (bytes >= 999.5 && unit < 5) bytes /= 1000, unit++;
    int decimals = unit == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2;
    snprintf(text, 16, "%.*f %s", decimals, bytes, units[unit]);
    return text;
}

const char *memory_line(const MemoryTable *table, char *text, size_t size)
{
    char amount[16];
    size_t used = 0;
    int shown = 0;
    if (size > 0) text[0] = '\0';
    for (int k = 0; k < table->count && used < size; k++) {
        if (table->row[k].bytes == 0) continue;
        used += (size_t)snprintf(text + used, size - used, "%s%s %s", shown++ ? " + " : "", table->row[k].kind,
                                 memory_text((double)table->row[k].bytes, amount));
    }
    if (shown > 1 && used < size)
        snprintf(text + used, size - used, " = %s", memory_text((double)memory_total(table), amount));
    return text;
}

int64_t memory_peak(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
    return (int64_t)usage.ru_maxrss;
#else
    return (int64_t)usage.ru_maxrss * 1024;
#endif
}

int64_t memory_resident(void)
{
    long long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    bool known = file && fscanf(file, "%lld %lld", &total, &resident) == 2;
    if (file) fclose(file);
    return known ? resident * sysconf(_SC_PAGESIZE) : memory_peak();
}
