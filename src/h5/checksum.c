/* Checksums independent of the distribution. Little-endian memory, as the files. */
#include "catdpo/h5/checksum.h"

#include "catdpo/core/simd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- sums -------------------------------------------------------------------------------------------------------- */

static inline uint64_t mix(uint32_t word, uint64_t index)
{
    uint64_t z = word + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

SIMD_CLONES
uint64_t checksum_words(const void *words, int64_t count, uint64_t first, uint64_t step)
{
    const uint32_t *word = words;
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += mix(word[i], first + (uint64_t)i * step);
    return sum;
}

/* As checksum_words, with memory_step words from one to the next. */
static uint64_t checksum_spread(const uint32_t *word, int64_t memory_step, int64_t count, uint64_t first, uint64_t step)
{
    if (memory_step == 1) return checksum_words(word, count, first, step);
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += mix(word[i * memory_step], first + (uint64_t)i * step);
    return sum;
}

/* The same for bytes, each a word of its own. */
static uint64_t checksum_bytes(const uint8_t *byte, int64_t memory_step, int64_t count, uint64_t first, uint64_t step)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += mix(byte[i * memory_step], first + (uint64_t)i * step);
    return sum;
}

/* All held indices of one axis, the other indices being fixed: base is the linear index of index 0 on this axis. */
static uint64_t checksum_axis(const SlabAxis *axis, uint64_t base, uint64_t stride, size_t size, const char *memory)
{
    int words = (int)(size / 4);
    int64_t held = slab_axis_count(axis);
    uint64_t sum = 0;
    for (int64_t at = 0; at < held; at += axis->block) {
        int64_t run = held - at < axis->block ? held - at : axis->block;
        uint64_t first = base + (uint64_t)slab_index(axis, at) * stride;
        const char *start = memory + slab_offset(axis, at) * (int64_t)size;
        if (size == 1) sum += checksum_bytes((const uint8_t *)start, axis->step, run, first, stride);
        for (int w = 0; w < words; w++)
            sum += checksum_spread((const uint32_t *)(const void *)start + w, axis->step * words, run,
                                   first * words + w, stride * words);
    }
    return sum;
}

uint64_t checksum_slab(const Slab *slab, DataType type, const void *values)
{
    size_t size = data_size(type);
    if (slab_count(slab) == 0) return 0;

    uint64_t stride[SLAB_AXES], sum = 0; /* of the whole tensor, row-major, in elements */
    int64_t held[SLAB_AXES], at[SLAB_AXES] = { 0 };
    int inner = slab->axes - 1; /* the axis that is dense in memory, if there is one: its loop is the fast one */
    for (int i = slab->axes - 1; i >= 0; i--) {
        stride[i] = i == slab->axes - 1 ? 1 : stride[i + 1] * (uint64_t)slab->axis[i + 1].extent;
        held[i] = slab_axis_count(&slab->axis[i]);
        if (slab->axis[i].step == 1 && held[i] > 1) inner = i;
    }
    held[inner] = 1;
    for (;;) {
        uint64_t base = 0;
        int64_t offset = 0;
        for (int i = 0; i < slab->axes; i++) {
            if (i == inner) continue;
            base += (uint64_t)slab_index(&slab->axis[i], at[i]) * stride[i];
            offset += slab_offset(&slab->axis[i], at[i]);
        }
        sum +=
            checksum_axis(&slab->axis[inner], base, stride[inner], size, (const char *)values + offset * (int64_t)size);
        int i = slab->axes - 1;
        while (i >= 0 && ++at[i] == held[i]) at[i--] = 0;
        if (i < 0) return sum;
    }
}

void checksum_sum(int count, uint64_t sums[], MPI_Comm comm)
{
    if (count > 0) CHECK_MPI(MPI_Allreduce(MPI_IN_PLACE, sums, count, MPI_UINT64_T, MPI_SUM, comm));
}

/* ---- digests ----------------------------------------------------------------------------------------------------- */

typedef struct Entry {
    const char *name;
    uint64_t checksum;
} Entry;

static int by_name(const void *a, const void *b) { return strcmp(((const Entry *)a)->name, ((const Entry *)b)->name); }

static uint64_t fnv1a(uint64_t hash, const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) hash = (hash ^ *c) * 0x100000001b3u;
    return hash;
}

bool weights_digest(int count, const char *const names[], const uint64_t checksums[], char digest[WEIGHTS_DIGEST])
{
    Entry *entry = malloc((count > 0 ? count : 1) * sizeof *entry);
    if (!entry) return false;
    for (int i = 0; i < count; i++) entry[i] = (Entry){ names[i], checksums[i] };
    qsort(entry, count, sizeof *entry, by_name);
    uint64_t hash = 0xcbf29ce484222325u;
    for (int i = 0; i < count; i++) {
        char line[WEIGHTS_DIGEST + 2];
        snprintf(line, sizeof line, "=%016llx\n", (unsigned long long)entry[i].checksum);
        hash = fnv1a(fnv1a(hash, entry[i].name), line);
    }
    snprintf(digest, WEIGHTS_DIGEST, "%016llx", (unsigned long long)hash);
    free(entry);
    return true;
}
