/* What HDF5 says of a failure, and verdicts that all ranks of a file share. */
#include "private.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- HDF5's reasons ---------------------------------------------------------------------------------------------- */

static herr_t first_reason(unsigned depth, const H5E_error2_t *record, void *data)
{
    if (depth == 0 && record->desc) snprintf(data, 512, "%s", record->desc);
    return 0;
}

/* The system's own words if HDF5 passes them on: "file write failed: time = ..., errno = 28, error message = 'No space
 * ...'". */
static const char *essence(char *reason)
{
    static const char mark[] = "error message = '";
    char *system = strstr(reason, mark);
    char *end = system ? strchr(system + sizeof mark - 1, '\'') : NULL;
    if (!end) return reason;
    *end = '\0';
    return system + sizeof mark - 1;
}

bool h5_ok(int64_t value, Error *err, const char *format, ...)
{
    if (value >= 0) return true;
    char text[1024], reason[512] = "no reason given";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first_reason, reason);
    H5Eclear2(H5E_DEFAULT);
    return error_fault(err, "%s (HDF5: %s)", text, essence(reason));
}

bool h5_agree(const H5File *file, bool ok, Error *err)
{
    return file->comm == MPI_COMM_NULL ? ok : error_agree(file->comm, ok, err);
}

bool h5_share(const H5File *file, bool ok, void *bytes, int64_t size, Error *err)
{
    if (!h5_agree(file, ok, err)) return false;
    if (file->comm == MPI_COMM_NULL) return true;
    for (int64_t done = 0; done < size; done += CALL_BYTES) {
        int64_t part = size - done < CALL_BYTES ? size - done : CALL_BYTES;
        CHECK_MPI(MPI_Bcast((char *)bytes + done, (int)part, MPI_BYTE, 0, file->comm));
    }
    return true;
}
