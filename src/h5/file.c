/* HDF5 files as wholes: how they are opened, and how a written one gets its final name. */
#define _GNU_SOURCE /* memfd_create, SEEK_DATA */
#include "private.h"

#include "version.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    ALIGN_FROM = 16 << 20, /* datasets at least this large start at a multiple of ALIGN_TO: the usual stripe */
    ALIGN_TO = 1 << 20,
    COPY_BYTES = 1 << 20,
    FLUSH_BYTES = 32 << 20, /* written between two hints to the disk */
};

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

/* ---- open -------------------------------------------------------------------------------------------------------- */

/* The name under which the file lies now. */
static const char *current_name(const H5File *file) { return file->writing ? file->temporary : file->path; }

/* Rank 0: a name that no other program writes at the same time. */
static bool choose_temporary(H5File *file, const char *folder, Error *err)
{
    const char *slash = strrchr(file->path, '/');
    uint32_t tag = 0;
    if (getrandom(&tag, sizeof tag, 0) != sizeof tag) return error_fault(err, "no random numbers: %s", strerror(errno));
    int length =
        folder ? snprintf(file->temporary, FILE_PATH, "%s/%s.%08x.tmp", folder, slash ? slash + 1 : file->path, tag)
               : snprintf(file->temporary, FILE_PATH, "%s.%08x.tmp", file->path, tag);
    return length < FILE_PATH || error_usage(err, "%s: the path is longer than %d bytes", file->path, FILE_PATH - 1);
}

static bool start(H5File *file, const char *path, MPI_Comm comm, bool writing, Error *err)
{
    *file = (H5File){ .comm = comm,
                      .meta = -1,
                      .data = -1,
                      .memory = -1,
                      .disk = -1,
                      .flushing = -1,
                      .writing = writing,
                      .call_bytes = CALL_BYTES };
    if (comm != MPI_COMM_NULL) CHECK_MPI(MPI_Comm_rank(comm, &file->rank));
    H5dont_atexit(); /* of a file that it could not close HDF5 would die there */
    CHECK(H5open() >= 0);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* errors are ours to tell */
    H5PLset_loading_state(0);              /* a file must not make us load code */
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
    CHECK(H5Pset_file_locking(list, false, true) >= 0); /* a reader of the final name must not stop us; .tmp is ours */
#endif
    if (file->writing) { /* metadata with checksums; nothing is written by opening and closing, as from V110 on */
        CHECK(H5Pset_libver_bounds(list, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0);
        CHECK(H5Pset_alignment(list, ALIGN_FROM, ALIGN_TO) >= 0);
    }
    if (parallel) {
        CHECK(H5Pset_fapl_mpio(list, file->comm, MPI_INFO_NULL) >= 0);
        CHECK(H5Pset_all_coll_metadata_ops(list, true) >= 0); /* one rank reads a header and broadcasts it */
    }
    return list;
}

/* Rank 0: what is wrong with a file that HDF5 is about to open, in the system's words. */
static bool is_readable(const char *path, int64_t *size, bool *sealed, Error *err)
{
    struct stat status;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return error_usage(err, "%s: cannot open: %s", path, strerror(errno));
    bool ok = fstat(descriptor, &status) == 0 || error_fault(err, "%s: %s", path, strerror(errno));
    if (ok && !S_ISREG(status.st_mode)) ok = error_usage(err, "%s: not a regular file", path);
    if (ok) {
        *size = status.st_size;
        htri_t hdf5 = H5Fis_hdf5(path);
        H5Eclear2(H5E_DEFAULT);
        ok = (hdf5 > 0 || error_usage(err, "%s: not an HDF5 file", path)) &&
             seal_verify(path, descriptor, *size, sealed, err);
    }
    close(descriptor);
    return ok;
}

/* Rank 0: HDF5 would not see that a seal is damaged such that it is not known as one. */
static bool check_end(const H5File *file, Error *err)
{
    haddr_t end = 0;
    if (file->sealed || !h5_ok(H5Fget_eoa(file->meta, &end), err, "%s: cannot find its end", file->path))
        return file->sealed;
    return (haddr_t)file->size <= end ||
           error_usage(err,
                       "%s: damaged: what follows the HDF5 data is not the seal of a catdpo file. Use another "
                       "copy, or make it again",
                       file->path);
}

bool h5_open(H5File *file, const char *path, MPI_Comm comm, Error *err)
{
    if (!start(file, path, comm, false, err)) return false;
    bool ok = true;
    if (file->rank == 0 && (ok = is_readable(path, &file->size, &file->sealed, err))) {
        hid_t list = access_list(file, false);
        file->meta = H5Fopen(path, H5F_ACC_RDONLY, list);
        Error damage = { 0 };
        if (!h5_ok(file->meta, &damage, "%s: damaged or truncated HDF5 file", path))
            ok = error_usage(err, "%s", damage.message);
        ok = ok && check_end(file, err);
        H5Pclose(list);
    }
    return h5_share(file, ok, &file->size, sizeof file->size, err);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Bytes [from, to) of one file to the same place of another. */
static bool copy_range(int source, int target, off_t from, off_t to, char *buffer)
{
    while (from < to) {
        ssize_t got = pread(source, buffer, to - from < COPY_BYTES ? to - from : COPY_BYTES, from);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = EIO; /* shorter than it was */
        if (got <= 0) return false;
        for (ssize_t done = 0; done < got;) {
            ssize_t put = pwrite(target, buffer + done, got - done, from + done);
            if (put < 0 && errno != EINTR) return false;
            if (put > 0) done += put;
        }
        from += got;
    }
    return true;
}

/* A whole file; holes stay holes. */
static bool copy_file(int source, int target)
{
    off_t end = lseek(source, 0, SEEK_END), data = 0, hole = 0;
    char *buffer = malloc(COPY_BYTES);
    bool ok = buffer && end >= 0 && ftruncate(target, 0) == 0 && ftruncate(target, end) == 0;
    while (ok && hole < end && (data = lseek(source, hole, SEEK_DATA)) >= 0) {
        hole = lseek(source, data, SEEK_HOLE);
        ok = hole > data && copy_range(source, target, data, hole, buffer);
    }
    if (ok && data < 0) ok = errno == ENXIO; /* nothing but a hole is left */
    int reason = errno;
    free(buffer);
    errno = reason;
    return ok;
}

/* Rank 0. */
static bool open_temporary(H5File *file, const char *folder, Error *err)
{
    if (!choose_temporary(file, folder, err)) return false;
    file->disk = open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return file->disk >= 0 || error_fault(err, "%s: cannot create: %s", file->temporary, strerror(errno));
}

/* HDF5 1.10 cannot give up a file that it fails to write to the end: closing it leaves wreckage behind that crashes
 * later. So rank 0 lays a file out in memory, where writing does not fail, and what came out is copied to the disk:
 * HDF5's descriptor of the .tmp is made one of a file that exists only in memory. */
static bool move_to_memory(H5File *file, const char *name, Error *err)
{
    int *descriptor;
    if (!h5_ok(H5Fget_vfd_handle(file->meta, H5P_DEFAULT, (void **)&descriptor), err, "%s: has no descriptor", name))
        return false;
    file->memory = memfd_create("catdpo", MFD_CLOEXEC);
    if (file->memory >= 0 && copy_file(file->disk, file->memory) && dup2(file->memory, *descriptor) >= 0) return true;
    return error_fault(err, "%s: cannot be laid out in memory: %s", name, strerror(errno));
}

bool h5_create(H5File *file, const char *path, const char *folder, MPI_Comm comm, Error *err)
{
    if (!start(file, path, comm, true, err)) return false;
    const char *name = file->temporary;
    bool ok = true;
    if (file->rank == 0 && (ok = open_temporary(file, folder, err))) {
        hid_t list = access_list(file, false), creation = H5Pcreate(H5P_FILE_CREATE);
        CHECK(creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0);
        file->meta = H5Fcreate(name, H5F_ACC_TRUNC, creation, list);
        ok = h5_ok(file->meta, err, "%s: cannot create", name) && move_to_memory(file, name, err);
        H5Pclose(creation);
        H5Pclose(list);
    }
    return h5_share(file, ok, file->temporary, sizeof file->temporary, err);
}

bool h5_modify(H5File *file, const char *path, const char *folder, MPI_Comm comm, Error *err)
{
    if (!start(file, path, comm, true, err)) return false;
    const char *name = file->temporary;
    bool ok = true;
    if (file->rank == 0) {
        int source = -1;
        ok = is_readable(path, &file->size, &file->sealed, err) && open_temporary(file, folder, err);
        if (ok && (source = open(path, O_RDONLY | O_CLOEXEC)) < 0)
            ok = error_fault(err, "%s: cannot open: %s", path, strerror(errno));
        if (ok && !copy_file(source, file->disk)) ok = error_fault(err, "%s: cannot write: %s", name, strerror(errno));
        if (source >= 0) close(source);
        if (ok) {
            hid_t list = access_list(file, false);
            file->meta = H5Fopen(name, H5F_ACC_RDWR, list);
            ok = h5_ok(file->meta, err, "%s: cannot open for writing", name) && move_to_memory(file, name, err);
            H5Pclose(list);
        }
    }
    return h5_share(file, ok, &file->size, sizeof file->size, err) &&
           h5_share(file, ok, file->temporary, sizeof file->temporary, err);
}

/* Rank 0 closes its side; what it wrote goes to the disk if it is to be kept. */
static bool close_meta(H5File *file, bool keep, Error *err)
{
    const char *name = current_name(file);
    bool ok = true;
    if (file->writing && keep && file->meta >= 0) ok = seal_begin(file, err);
    if (file->meta >= 0) ok = h5_ok(H5Fclose(file->meta), err, "%s: cannot close", name) && ok;
    if (file->writing && file->memory >= 0) {
        ok = ok && (!keep || seal_measure(file, file->memory, err));
        if (ok && keep && !copy_file(file->memory, file->disk))
            ok = error_fault(err, "%s: cannot write: %s", name, strerror(errno));
        close(file->memory);
    }
    if (file->disk >= 0 && close(file->disk) != 0 && ok && keep)
        ok = error_fault(err, "%s: cannot write: %s", name, strerror(errno));
    file->meta = -1;
    file->memory = file->disk = -1;
    return ok;
}

/* Closing a file that was filled in writes its first bytes again, as they are, and would leave wreckage behind if that
 * failed. By then every byte is written and synced, or does not matter: what follows goes to a file in memory.
 * (Descriptors are known only where MPI-IO uses the system's files; elsewhere nothing is diverted.) */
static void divert_writes(const H5File *file)
{
    char link[64];
    const char *name = current_name(file);
    struct stat target, found;
    DIR *descriptors = opendir("/proc/self/fd");
    int nowhere = memfd_create("catdpo", MFD_CLOEXEC);
    if (descriptors && nowhere >= 0 && stat(name, &target) == 0) {
        for (struct dirent *entry; (entry = readdir(descriptors));) {
            snprintf(link, sizeof link, "/proc/self/fd/%.20s", entry->d_name);
            if (stat(link, &found) == 0 && found.st_dev == target.st_dev && found.st_ino == target.st_ino)
                dup2(nowhere, atoi(entry->d_name));
        }
    }
    if (nowhere >= 0) close(nowhere);
    if (descriptors) closedir(descriptors);
}

static bool close_data(H5File *file, bool keep, Error *err)
{
    if (file->flushing >= 0) close(file->flushing);
    file->flushing = -1;
    if (file->data < 0) return true;
    bool ok =
        !file->writing || !keep || h5_ok(H5Fflush(file->data, H5F_SCOPE_GLOBAL), err, "%s: cannot write", file->path);
    if (file->writing) divert_writes(file);
    ok = h5_ok(H5Fclose(file->data), err, "%s: cannot close", file->path) && ok;
    file->data = -1;
    return ok;
}

/* Give the whole file to all ranks; one that is being read stays open on rank 0's side too. */
bool h5_open_data(H5File *file, Error *err)
{
    if (file->comm == MPI_COMM_NULL || file->data >= 0) return true;
    const char *name = current_name(file);
    if (!h5_agree(file, !file->writing || close_meta(file, true, err), err)) return false;
    hid_t list = access_list(file, true);
    file->data = H5Fopen(name, file->writing ? H5F_ACC_RDWR : H5F_ACC_RDONLY, list);
    bool ok = h5_ok(file->data, err, "%s: cannot open with MPI-IO (parallel.io chooses its component)", name);
    H5Pclose(list);
    if (ok && file->writing) file->flushing = open(name, O_WRONLY | O_CLOEXEC);
    return h5_agree(file, ok, err);
}

/* The disk need not wait for the end. Whatever this finds, the fsync of the commit has the last word. */
void h5_start_flushing(H5File *file, int64_t bytes)
{
    file->unflushed += bytes;
    if (file->flushing < 0 || file->unflushed < FLUSH_BYTES) return;
#ifdef SYNC_FILE_RANGE_WRITE
    (void)!sync_file_range(file->flushing, 0, 0, SYNC_FILE_RANGE_WRITE);
#endif
    file->unflushed = 0;
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
    if (!slash)
        strcpy(directory, ".");
    else if (slash == directory)
        slash[1] = '\0';
    else
        *slash = '\0';
    return sync_path(directory, O_DIRECTORY, err);
}

bool h5_commit(H5File *file, Error *err)
{
    CHECK(file->writing);
    const char *name = current_name(file);
    bool on_all = file->data >= 0;
    bool ok = h5_agree(file, close_data(file, true, err) && close_meta(file, true, err), err);
    if (ok) ok = h5_agree(file, file->rank != 0 || seal_append(file, name, err), err);
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
    const char *name = current_name(file);
    close_data(file, false, &unheard);
    close_meta(file, false, &unheard);
    free(file->scratch);
    file->scratch = NULL;
    file->scratch_bytes = 0;
    seal_free(file);
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
    return h5_write_string(file, "/", "format", format, err) &&
           h5_write_int64(file, "/", "format_version", version, err) &&
           h5_write_string(file, "/", "creator", "catdpo " CATDPO_VERSION, err) &&
           h5_write_string(file, "/", "created", created, err);
}

bool h5_check_format(H5File *file, const char *format, int64_t version, Error *err)
{
    char found[64];
    int64_t found_version;
    bool marked;
    if (!h5_has_attribute(file, "/", "format", &marked, err)) return false;
    if (!marked) {
        return error_usage(err,
                           "%s: not a %s file: an HDF5 file of another program (it has no root attribute \"format\")",
                           file->path, format);
    }
    if (!h5_read_string(file, "/", "format", found, sizeof found, err)) return false;
    if (strcmp(found, format) != 0)
        return error_usage(err, "%s: is a %s file; a %s file is needed", file->path, found, format);
    if (!h5_read_int64(file, "/", "format_version", 1, INT64_MAX, &found_version, err)) return false;
    if (found_version > version) {
        return error_usage(err, "%s: format version %lld; this program reads up to %lld: use a newer catdpo",
                           file->path, (long long)found_version, (long long)version);
    }
    return true;
}
