/* HDF5 files as wholes: how they are opened, and how a written one gets its final name. */
#define _GNU_SOURCE /* copy_file_range */
#include "h5_private.h"

#include "version.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    CALL_BYTES = 64 << 20,       /* a rank's share of one collective call; MPI-IO counts in int */
    ALIGN_FROM = 16 << 20,       /* datasets at least this large start at a multiple of ALIGN_TO: the usual stripe */
    ALIGN_TO = 1 << 20,
    COPY_BYTES = 1 << 20,
};

/* ---- HDF5's reasons ---------------------------------------------------------------------------------------------- */

static herr_t first_reason(unsigned depth, const H5E_error2_t *record, void *data)
{
    if (depth == 0 && record->desc) snprintf(data, 512, "%s", record->desc);
    return 0;
}

/* The system's own words if HDF5 passes them on: "file write failed: time = ..., errno = 28, error message = 'No space ...'". */
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

/* ---- open -------------------------------------------------------------------------------------------------------- */

static void temporary_name(const H5File *file, char name[FILE_PATH + 4])
{
    snprintf(name, FILE_PATH + 4, "%s%s", file->path, file->writing ? ".tmp" : "");
}

static bool start(H5File *file, const char *path, MPI_Comm comm, bool writing, Error *err)
{
    *file = (H5File){ .comm = comm, .meta = -1, .data = -1, .writing = writing, .call_bytes = CALL_BYTES };
    if (comm != MPI_COMM_NULL) CHECK_MPI(MPI_Comm_rank(comm, &file->rank));
    CHECK(H5open() >= 0);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);  /* errors are ours to tell */
    H5PLset_loading_state(0);               /* a file must not make us load code */
    if (strlen(path) >= sizeof file->path) {
        file->writing = false;
        return error_usage(err, "%.200s...: the path is longer than %d bytes", path, FILE_PATH - 1);
    }
    strcpy(file->path, path);
    return true;
}

/* File access: with MPI-IO on comm, or the plain driver. */
static hid_t access_list(const H5File *file, bool parallel)
{
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    CHECK(list >= 0);
#if H5_VERSION_GE(1, 10, 7) && !(H5_VERS_MAJOR == 1 && H5_VERS_MINOR == 12 && H5_VERS_RELEASE == 0)
    CHECK(H5Pset_file_locking(list, false, true) >= 0);  /* a reader of the final name must not stop us; .tmp is ours */
#endif
    if (file->writing) {  /* formats whose metadata carry checksums */
        CHECK(H5Pset_libver_bounds(list, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0);
        CHECK(H5Pset_alignment(list, ALIGN_FROM, ALIGN_TO) >= 0);
    }
    if (parallel) {
        CHECK(H5Pset_fapl_mpio(list, file->comm, MPI_INFO_NULL) >= 0);
        CHECK(H5Pset_all_coll_metadata_ops(list, true) >= 0);  /* one rank reads a header and broadcasts it */
    }
    return list;
}

/* Rank 0: what is wrong with a file that HDF5 is about to open, in the system's words. */
static bool is_readable(const char *path, int64_t *size, Error *err)
{
    struct stat status;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return error_usage(err, "%s: cannot open: %s", path, strerror(errno));
    bool ok = fstat(descriptor, &status) == 0 || error_fault(err, "%s: %s", path, strerror(errno));
    if (ok && !S_ISREG(status.st_mode)) ok = error_usage(err, "%s: not a regular file", path);
    close(descriptor);
    if (!ok) return false;
    *size = status.st_size;
    htri_t hdf5 = H5Fis_hdf5(path);
    H5Eclear2(H5E_DEFAULT);
    return hdf5 > 0 || error_usage(err, "%s: not an HDF5 file", path);
}

bool h5_open(H5File *file, const char *path, MPI_Comm comm, Error *err)
{
    if (!start(file, path, comm, false, err)) return false;
    bool ok = true;
    if (file->rank == 0 && (ok = is_readable(path, &file->size, err))) {
        hid_t list = access_list(file, false);
        file->meta = H5Fopen(path, H5F_ACC_RDONLY, list);
        H5Pclose(list);
        Error damage = { 0 };
        if (!h5_ok(file->meta, &damage, "%s: damaged or truncated HDF5 file", path)) ok = error_usage(err, "%s", damage.message);
    }
    return h5_share(file, ok, &file->size, sizeof file->size, err);
}

bool h5_create(H5File *file, const char *path, MPI_Comm comm, Error *err)
{
    if (!start(file, path, comm, true, err)) return false;
    bool ok = true;
    if (file->rank == 0) {
        char name[FILE_PATH + 4];
        temporary_name(file, name);
        unlink(name);  /* a new file: whoever still writes the old one cannot disturb it */
        hid_t list = access_list(file, false), creation = H5Pcreate(H5P_FILE_CREATE);
        CHECK(creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0);
        file->meta = H5Fcreate(name, H5F_ACC_EXCL, creation, list);
        H5Pclose(creation);
        H5Pclose(list);
        ok = h5_ok(file->meta, err, "%s: cannot create", name);
    }
    return h5_agree(file, ok, err);
}

static bool copy_bytes(int from, int to)
{
    ssize_t moved;
    while ((moved = copy_file_range(from, NULL, to, NULL, 1 << 30, 0)) > 0) continue;  /* shares blocks where it can */
    if (moved == 0) return true;
    if (errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) return false;
    char *buffer = malloc(COPY_BYTES);
    if (!buffer) return false;
    while ((moved = read(from, buffer, COPY_BYTES)) > 0)
        for (ssize_t done = 0; done < moved;) {
            ssize_t written = write(to, buffer + done, moved - done);
            if (written < 0) { moved = -1; break; }
            done += written;
        }
    int reason = errno;
    free(buffer);
    errno = reason;
    return moved == 0;
}

static bool copy_file(const char *path, const char *copy, Error *err)
{
    int from = open(path, O_RDONLY | O_CLOEXEC);
    if (from < 0) return error_fault(err, "%s: cannot open: %s", path, strerror(errno));
    unlink(copy);
    int to = open(copy, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool ok = to >= 0 || error_fault(err, "%s: cannot create: %s", copy, strerror(errno));
    if (ok && !copy_bytes(from, to)) ok = error_fault(err, "%s: cannot write: %s", copy, strerror(errno));
    if (to >= 0 && close(to) != 0 && ok) ok = error_fault(err, "%s: cannot write: %s", copy, strerror(errno));
    close(from);
    return ok;
}

bool h5_modify(H5File *file, const char *path, MPI_Comm comm, Error *err)
{
    if (!start(file, path, comm, true, err)) return false;
    bool ok = true;
    if (file->rank == 0) {
        char name[FILE_PATH + 4];
        temporary_name(file, name);
        ok = is_readable(path, &file->size, err) && copy_file(path, name, err);
        if (ok) {
            hid_t list = access_list(file, false);
            file->meta = H5Fopen(name, H5F_ACC_RDWR, list);
            H5Pclose(list);
            ok = h5_ok(file->meta, err, "%s: cannot open for writing", name);
        }
    }
    return h5_share(file, ok, &file->size, sizeof file->size, err);
}

/* Close rank 0's side and give the whole to all ranks; a file being read stays open on both sides. */
bool h5_open_data(H5File *file, Error *err)
{
    if (file->comm == MPI_COMM_NULL || file->data >= 0) return true;
    char name[FILE_PATH + 4];
    temporary_name(file, name);
    bool ok = true;
    if (file->rank == 0 && file->writing) {
        ok = h5_ok(H5Fflush(file->meta, H5F_SCOPE_GLOBAL), err, "%s: cannot write", name);
        ok = h5_ok(H5Fclose(file->meta), err, "%s: cannot close", name) && ok;
        file->meta = -1;
    }
    if (!h5_agree(file, ok, err)) return false;
    hid_t list = access_list(file, true);
    file->data = H5Fopen(name, file->writing ? H5F_ACC_RDWR : H5F_ACC_RDONLY, list);
    H5Pclose(list);
    return h5_agree(file, h5_ok(file->data, err, "%s: cannot open with MPI-IO", name), err);
}

/* ---- commit and close -------------------------------------------------------------------------------------------- */

/* Bytes (or a directory's entries) on the disk. Some file systems have no fsync for directories. */
static bool sync_path(const char *path, int flags, Error *err)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | flags);
    if (descriptor < 0) return error_fault(err, "%s: cannot open: %s", path, strerror(errno));
    bool ok = fsync(descriptor) == 0 || ((flags & O_DIRECTORY) && (errno == EINVAL || errno == ENOTSUP));
    if (!ok) error_fault(err, "%s: cannot flush to disk: %s", path, strerror(errno));
    close(descriptor);
    return ok;
}

static bool rename_file(const char *from, const char *to, Error *err)
{
    if (rename(from, to) != 0) return error_fault(err, "%s: cannot rename to %s: %s", from, to, strerror(errno));
    char directory[FILE_PATH];
    snprintf(directory, sizeof directory, "%s", to);
    char *slash = strrchr(directory, '/');
    if (!slash) strcpy(directory, ".");
    else if (slash == directory) slash[1] = '\0';
    else *slash = '\0';
    return sync_path(directory, O_DIRECTORY, err);
}

/* Close what this rank has open; an error must not keep the other side open. */
static bool close_sides(H5File *file, Error *err)
{
    bool ok = true;
    if (file->data >= 0) {
        if (file->writing) ok = h5_ok(H5Fflush(file->data, H5F_SCOPE_GLOBAL), err, "%s: cannot write", file->path);
        ok = h5_ok(H5Fclose(file->data), err, "%s: cannot close", file->path) && ok;
    }
    if (file->meta >= 0) {
        if (file->writing) ok = h5_ok(H5Fflush(file->meta, H5F_SCOPE_GLOBAL), err, "%s: cannot write", file->path) && ok;
        ok = h5_ok(H5Fclose(file->meta), err, "%s: cannot close", file->path) && ok;
    }
    file->data = file->meta = -1;
    return ok;
}

bool h5_commit(H5File *file, Error *err)
{
    CHECK(file->writing);
    char name[FILE_PATH + 4];
    temporary_name(file, name);
    bool on_all = file->data >= 0;
    bool ok = h5_agree(file, close_sides(file, err), err);
    /* what a rank wrote may still be in its own node's memory */
    if (ok) ok = h5_agree(file, !(on_all || file->rank == 0) || sync_path(name, 0, err), err);
    if (ok) {
        ok = h5_agree(file, file->rank != 0 || rename_file(name, file->path, err), err);
        file->writing = !ok;
    }
    h5_close(file);
    return ok;
}

void h5_close(H5File *file)
{
    Error unheard = { 0 };
    char name[FILE_PATH + 4];
    temporary_name(file, name);
    if (file->comm != MPI_COMM_NULL || file->meta >= 0) close_sides(file, &unheard);
    if (file->writing && file->rank == 0) unlink(name);
    file->writing = false;
}

/* ---- what a file is ---------------------------------------------------------------------------------------------- */

bool h5_write_format(H5File *file, const char *format, int64_t version, Error *err)
{
    char created[32] = "";
    time_t now = time(NULL);
    struct tm utc;
    CHECK(gmtime_r(&now, &utc) && strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", &utc) > 0);
    return h5_write_string(file, "/", "format", format, err) && h5_write_int64(file, "/", "format_version", version, err)
        && h5_write_string(file, "/", "creator", "catdpo " CATDPO_VERSION, err)
        && h5_write_string(file, "/", "created", created, err);
}

bool h5_check_format(H5File *file, const char *format, int64_t version, Error *err)
{
    char found[64];
    int64_t found_version;
    bool marked;
    if (!h5_has_attribute(file, "/", "format", &marked, err)) return false;
    if (!marked) {
        return error_usage(err, "%s: not a %s file: an HDF5 file of another program (it has no root attribute \"format\")",
                           file->path, format);
    }
    if (!h5_read_string(file, "/", "format", found, sizeof found, err)) return false;
    if (strcmp(found, format) != 0) return error_usage(err, "%s: is a %s file; a %s file is needed", file->path, found, format);
    if (!h5_read_int64(file, "/", "format_version", 1, INT64_MAX, &found_version, err)) return false;
    if (found_version > version) {
        return error_usage(err, "%s: format version %lld; this program reads up to %lld: use a newer catdpo", file->path,
                           (long long)found_version, (long long)version);
    }
    return true;
}
