/* Large allocations, views of them, and the table of bytes by kind. */
#include "catdpo/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* ---- allocation ---- */

/* Bytes that the system could still give, or INT64_MAX if it does not tell. Linux promises more than it has and kills
 * the process that believes it. */
static int64_t memory_available(void)
{
    int64_t available = INT64_MAX;
    FILE *file = fopen("/proc/meminfo", "r");
    char line[128];
    unsigned long long kilobytes;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1) available = (int64_t)kilobytes * 1024;
    if (file) fclose(file);
    return available;
}

void *memory_allocate(int64_t bytes, const char *what, Error *err)
{
    enum { HUGE_PAGE = 2 << 20 };
    CHECK(bytes >= 0);
    bool huge = bytes >= 2 * HUGE_PAGE;
    size_t size = bytes > 0 ? (size_t)bytes : 1, alignment = huge ? HUGE_PAGE : MEMORY_ALIGNMENT;
    void *memory = NULL;
    if ((huge && bytes > memory_available()) || posix_memalign(&memory, alignment, size) != 0) {
        char amount[16];
        error_fault(err, "no memory left for %s of %s", memory_text((double)bytes, amount), what);
        return NULL;
    }
#ifdef MADV_HUGEPAGE
    if (huge) (void)!madvise(memory, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE); /* fewer page faults; fine without */
#endif
    return memset(memory, 0, size);
}

void memory_free(void *memory) { free(memory); }

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

int64_t memory_total(const MemoryTable *table)
{
    int64_t total = 0;
    for (int k = 0; k < table->count; k++) total += table->row[k].bytes;
    return total;
}

const char *memory_text(double bytes, char text[16])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
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

void memory_peak_all(MPI_Comm comm, double *sum, double *largest)
{
    double mine = (double)memory_peak();
    CHECK_MPI(MPI_Allreduce(&mine, sum, 1, MPI_DOUBLE, MPI_SUM, comm));
    CHECK_MPI(MPI_Allreduce(&mine, largest, 1, MPI_DOUBLE, MPI_MAX, comm));
}
