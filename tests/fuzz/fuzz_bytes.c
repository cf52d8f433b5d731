/* Raw bytes: the first byte of the input chooses a format, the rest are edits of a valid file, [place 3 bytes, kind,
 * value]. Checksums of metadata are made right again (unless the first byte says no), as a writer who means harm would,
 * and the file has no seal, so that wrong bytes reach HDF5.
 *
 * HDF5 1.10 dies of some such files, of one and the same not always: so each file is read by a child. If that dies
 * inside of libhdf5, the file is counted as HDF5's own finding; the counts are printed at the end. Whatever else a
 * child dies of is a finding of this target. */
#define _GNU_SOURCE
#include "fuzz.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <sanitizer/common_interface_defs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FORMATS_MOST = 16, BLOCKS_MOST = 512, EDITS_MOST = 16, BLOCK_MOST = 4096, SEAL_FOOT = 48, FRAMES = 64 };
enum { OTHER = 3, IN_HDF5 = 4 }; /* exit statuses of the child */

/* libhdf5's own, exported: Jenkins' lookup3. */
uint32_t H5_checksum_metadata(const void *data, size_t length, uint32_t seed);

typedef struct Block {
    uint32_t begin, sum;
} Block; /* bytes [begin, sum) have their checksum at sum */

typedef struct Valid {
    uint8_t *bytes;
    size_t size, sealed; /* without and with the seal */
    int block_count;
    Block block[BLOCKS_MOST];
} Valid;

static Valid valid[FORMATS_MOST];
static long read_files, hdf5_died;

/* ---- valid files ---- */

/* Blocks are found by their checksums: whatever begins with a signature and is followed by its own checksum. */
static void find_blocks(Valid *v)
{
    static const char *const signatures[] = { "\211HDF", "OHDR", "OCHK", "FRHP", "FHIB", "BTHD", "BTLF", "BTIN", "FSHD",
                                              "FSSE",    "SMTB", "SMLI", "FAHD", "FADB", "EAHD", "EAIB", "EADB" };
    for (uint32_t at = 0; at + 12 < v->size; at++)
        for (size_t s = 0; s < sizeof signatures / sizeof *signatures; s++) {
            if (memcmp(v->bytes + at, signatures[s], 4) != 0) continue;
            for (uint32_t end = at + 8; end + 4 <= v->size && end < at + BLOCK_MOST; end++) {
                uint32_t stored;
                memcpy(&stored, v->bytes + end, 4);
                if (H5_checksum_metadata(v->bytes + at, end - at, 0) != stored) continue;
                if (v->block_count < BLOCKS_MOST) v->block[v->block_count++] = (Block){ at, end };
                break;
            }
        }
}

static void print_counts(void) { fprintf(stderr, "%ld files read; libhdf5 died of %ld more\n", read_files, hdf5_died); }

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    char path[FILE_PATH];
    fuzz_start();
    CHECK(format_count <= FORMATS_MOST);
    for (int i = 0; i < format_count; i++) {
        Valid *v = &valid[i];
        int64_t size;
        formats[i].make(fuzz_path(path, "valid.h5"));
        v->bytes = fuzz_bytes(path, &v->sealed);
        memcpy(&size, v->bytes + v->sealed - SEAL_FOOT, sizeof size);
        CHECK(size > 0 && (size_t)size < v->sealed);
        v->size = (size_t)size;
        find_blocks(v);
        CHECK(v->block_count > 0);
    }
    atexit(print_counts);
    return 0;
}

/* ---- the child ---- */

/* The sanitizers are linked in front of the program's own objects, of which this is the first. */
static bool is_ours(const void *address, const Dl_info *info)
{
    Dl_info self;
    return dladdr((const void *)LLVMFuzzerInitialize, &self) && self.dli_fbase == info->dli_fbase &&
           address >= (const void *)LLVMFuzzerInitialize;
}

/* Was libhdf5 at work, with nothing but the C library and the sanitizers above it? */
__attribute__((noinline)) static bool is_in_hdf5(void)
{
    void *frame[FRAMES];
    int count = backtrace(frame, FRAMES);
    for (int i = 2; i < count; i++) { /* behind this function and its caller */
        Dl_info info;
        if (!dladdr(frame[i], &info)) continue;
        if (is_ours(frame[i], &info)) return false;
        if (info.dli_fname && strstr(info.dli_fname, "libhdf5")) return true;
    }
    return false;
}

__attribute__((noinline)) static void on_report(void) { _exit(is_in_hdf5() ? IN_HDF5 : OTHER); }

__attribute__((noinline)) static void on_signal(int number)
{
    (void)number;
    _exit(is_in_hdf5() ? IN_HDF5 : OTHER);
}

typedef struct Reading {
    const FuzzFormat *format;
    const char *path;
} Reading;

static void read_file(void *context)
{
    const Reading *r = context;
    for (const int *s = (int[]){ SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL, SIGALRM, 0 }; *s; s++) signal(*s, on_signal);
    __sanitizer_set_death_callback(on_report);
    format_read(r->format, r->path);
}

/* ---- edits ---- */

/* Half of the edits go into blocks of metadata, where they matter. */
static void edit(Recipe *r, const Valid *v, uint8_t *bytes)
{
    unsigned where = (unsigned)recipe_byte(r) << 16 | (unsigned)recipe_byte(r) << 8;
    where |= recipe_byte(r);
    const Block *b = &v->block[where / 2 % (unsigned)v->block_count];
    size_t at =
        where & 1 ? where / 2 % v->size : b->begin + 4 + where / 2 / (unsigned)v->block_count % (b->sum - b->begin - 4);
    uint8_t kind = recipe_byte(r);
    uint64_t number = recipe_number(r);
    size_t width = (size_t)1 << kind % 4;
    if (at + width > v->size) at = v->size - width;
    if (kind & 64)
        bytes[at] ^= (uint8_t)(1 << kind / 4 % 8);
    else if (kind & 128)
        bytes[at] = (uint8_t)(bytes[at] + number);
    else
        memcpy(bytes + at, &number, width);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[FILE_PATH];
    Recipe r = { data, size };
    uint8_t choice = recipe_byte(&r);
    const Valid *v = &valid[choice % format_count];
    const FuzzFormat *format = &formats[choice % format_count];
    uint8_t *bytes = malloc(v->sealed);
    CHECK(bytes);
    memcpy(bytes, v->bytes, v->sealed);
    size_t length = choice >= 225 ? v->sealed : v->size;
    for (int i = 0; i < EDITS_MOST && r.left > 0; i++) edit(&r, v, bytes);
    for (int i = v->block_count - 1; i >= 0 && choice < 200; i--) {
        uint32_t sum = H5_checksum_metadata(bytes + v->block[i].begin, v->block[i].sum - v->block[i].begin, 0);
        memcpy(bytes + v->block[i].sum, &sum, 4);
    }
    if (choice >= 250) length = v->sealed * (size_t)(choice - 249) / 8;
    fuzz_write(fuzz_path(path, "spoilt.h5"), bytes, length);
    int status = fuzz_child(read_file, &(Reading){ format, path });
    if (status == IN_HDF5)
        hdf5_died++;
    else if (status == 0)
        read_files++;
    else {
        fuzz_write(path, bytes, length); /* the child may have written to it */
        format_read(format, path);       /* which should die of it, with a report */
        fatal(__FILE__, __LINE__, "a child ended with status %d", status);
    }
    free(bytes);
    return 0;
}
