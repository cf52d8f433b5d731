/* A valid file of the format FORMAT, spoilt through HDF5 as the input says, given to the program's reader. */
#include "fuzz.h"

#include <stdlib.h>

static const FuzzFormat *format;
static uint8_t *valid;
static size_t valid_size;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    char path[FILE_PATH];
    fuzz_start();
    format = format_named(FORMAT);
    format->make(fuzz_path(path, "valid.h5"));
    valid = fuzz_bytes(path, &valid_size);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[FILE_PATH];
    Recipe recipe = { data, size };
    fuzz_write(fuzz_path(path, "spoilt.h5"), valid, valid_size);
    recipe_spoil(&recipe, path);
    format_read(format, path);
    return 0;
}
