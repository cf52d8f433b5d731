/* HDF5 files as wholes: how they are opened, and how a written one gets its final name. */
#define _GNU_SOURCE /* memfd_create, sync_file_range */
#include "private.h"

#include "catdpo/core/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    ALIGN_FROM = 16 << 20, /* datasets at least this large start at a multiple of ALIGN_TO: the usual stripe */
    ALIGN_TO = 1 << 20,
    FLUSH_BYTES = 32 << 20, /* written between two hints to the disk */
};

/* ---- open -------------------------------------------------------------------------------------------------------- */

/* The name under which the file lies now. */
static const char *current_name(const H5File *file)
{
    return file->writing && *file->temporary ? file->temporary : file->path;
}

static bool start(H5File *file, const char *path, MPI_Comm comm, bool writing, Error *err)
{
    *file = (H5File){
        .comm = comm, .meta = -1, .data = -1, .disk = -1, .flushing = -1, .writing = writing, .call_bytes = CALL_BYTES
    };
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

/* File access: with MPI-IO on comm, or through rank 0's overlay. */
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
    } else {
        CHECK(overlay_use(file->overlay, list));
    }
    return list;
}

/* Rank 0: open a file that is about to be read, and say what is wrong with it in the system's words. */
static bool open_readable(H5File *file, const char *path, Error *err)
{
    struct stat status;
    file->disk = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->disk < 0) return error_usage(err, "%s: cannot open: %s", path, strerror(errno));
    if (fstat(file->disk, &status) != 0) return error_fault(err, "%s: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return error_usage(err, "%s: not a regular file (a pipe cannot be read as HDF5: write it to a file first)",
                           path);
    htri_t hdf5 = H5Fis_hdf5(path);
    H5Eclear2(H5E_DEFAULT);
    file->size = status.st_size;
    return (hdf5 > 0 || error_usage(err, "%s: not an HDF5 file", path)) &&
           seal_verify(path, file->disk, &file->size, &file->sealed, err);
}

/* Rank 0: let HDF5 have the file `name`, of which file->disk has `size` bytes. */
static bool open_meta(H5File *file, const char *name, unsigned flags, int64_t size, bool direct, Error *err)
{
    file->overlay = overlay_new(file->disk, size, direct);
    if (!file->overlay) return error_fault(err, "%s: no memory to open it", name);
    hid_t list = access_list(file, false), creation = H5Pcreate(H5P_FILE_CREATE);
    CHECK(creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0);
    file->meta = flags & H5F_ACC_TRUNC ? H5Fcreate(name, flags, creation, list) : H5Fopen(name, flags, list);
    H5Pclose(creation);
    H5Pclose(list);
    Error damage = { 0 };
    const char *format = flags & H5F_ACC_TRUNC ? "%s: cannot create"
                         : file->writing       ? "%s: cannot open for writing"
                                               : "%s: damaged or truncated HDF5 file";
    if (h5_ok(file->meta, &damage, format, name)) return true;
    return file->writing ? error_fault(err, "%s", damage.message) : error_usage(err, "%s", damage.message);
}

/* Rank 0: HDF5 would not see that a seal is damaged such that it is not known as one. */
static bool check_end(const H5File *file, Error *err)
{
    return file->sealed || file->size <= overlay_end(file->overlay) ||
           error_usage(err,
                       "%s: damaged: what follows the HDF5 data is not the seal of a catdpo file. Use another "
                       "copy, or make it again",
                       file->path);
}

bool h5_open(H5File *file, const char *path, MPI_Comm comm, Error *err)
{
    if (!start(file, path, comm, false, err)) return false;
    bool ok = true;
    if (file->rank == 0)
        ok = open_readable(file, path, err) && open_meta(file, path, H5F_ACC_RDONLY, file->size, false, err) &&
             check_end(file, err);
    return h5_share(file, ok, &file->size, sizeof file->size, err);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Rank 0. */
static bool open_temporary(H5File *file, const char *folder, Error *err)
{
    if (!file_temporary(file->path, folder, file->temporary, FILE_PATH, err)) return false;
    file->disk = open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return file->disk >= 0 || error_fault(err, "%s: cannot create: %s", file->temporary, strerror(errno));
}

bool h5_create(H5File *file, const char *path, const char *folder, MPI_Comm comm, Error *err)
{
    if (!start(file, path, comm, true, err)) return false;
    bool ok = file->rank != 0 ||
              (open_temporary(file, folder, err) && open_meta(file, file->temporary, H5F_ACC_TRUNC, 0, true, err));
    return h5_share(file, ok, file->temporary, sizeof file->temporary, err);
}

/* Rank 0: a copy of the file without its seal. */
static bool copy_to_temporary(H5File *file, const char *folder, Error *err)
{
    if (!open_readable(file, file->path, err)) return false;
    int source = file->disk;
    file->disk = -1;
    bool ok = open_temporary(file, folder, err) &&
              ((file_copy(source, file->disk) && ftruncate(file->disk, file->size) == 0) ||
               error_fault(err, "%s: cannot write: %s", file->temporary, strerror(errno)));
    close(source);
    return ok;
}

bool h5_modify(H5File *file, const char *path, const char *folder, MPI_Comm comm, Error *err)
{
    if (!start(file, path, comm, true, err)) return false;
    bool ok = file->rank != 0 || (copy_to_temporary(file, folder, err) &&
                                  open_meta(file, file->temporary, H5F_ACC_RDWR, file->size, true, err));
    return h5_share(file, ok, &file->size, sizeof file->size, err) &&
           h5_share(file, ok, file->temporary, sizeof file->temporary, err);
}

bool h5_extend(H5File *file, Spares *spares, Error *err)
{
    if (!start(file, spares_path(spares), MPI_COMM_NULL, true, err)) return false;
    file->spares = spares;
    return spares_open(spares, &file->disk, &file->size, err) &&
           open_meta(file, file->path, H5F_ACC_RDWR, file->size, false, err);
}

/* Rank 0: what HDF5 wrote, on the disk, with what the seal needs. */
static bool keep_meta(H5File *file, Error *err)
{
    uint64_t words;
    if (file->spares)
        return spares_fill(file->spares, file->overlay, file->disk, file->temporary, &words, err) &&
               seal_begin_whole(file, overlay_end(file->overlay), words, err);
    if (!overlay_finish(file->overlay, file->disk))
        return error_fault(err, "%s: cannot write: %s", file->temporary, strerror(errno));
    return seal_measure(file, file->disk, err);
}

/* Rank 0 closes its side; what it wrote goes to the disk if it is to be kept. */
static bool close_meta(H5File *file, bool keep, Error *err)
{
    const char *name = current_name(file);
    bool ok = true, laid_out = file->writing && file->meta >= 0;
    if (laid_out && keep && !file->spares) ok = seal_begin(file, err);
    bool closed = file->meta < 0 || h5_ok(H5Fclose(file->meta), err, "%s: cannot close", name);
    ok = ok && closed;
    if (laid_out && keep) ok = ok && keep_meta(file, err);
    if (closed) { /* what HDF5 could not be made to close it may use again */
        if (file->disk >= 0 && close(file->disk) != 0 && ok && keep)
            ok = error_fault(err, "%s: cannot write: %s", name, strerror(errno));
        overlay_free(file->overlay);
    }
    file->overlay = NULL;
    file->meta = -1;
    file->disk = -1;
    return ok;
}

/* Closing a file that was filled in writes its first bytes again, as they are. If that failed, HDF5 would keep objects
 * of the file, and later calls would crash on them. By then every byte is written and synced, or does not matter: what
 * follows goes to a file in memory. (Descriptors are known only where MPI-IO uses the system's files; elsewhere nothing
 * is diverted.) */
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

bool h5_commit(H5File *file, Error *err)
{
    CHECK(file->writing);
    bool on_all = file->data >= 0;
    bool ok = h5_agree(file, close_data(file, true, err) && close_meta(file, true, err), err);
    const char *name = current_name(file);
    if (ok) ok = h5_agree(file, file->rank != 0 || seal_append(file, name, err), err);
    /* what a rank wrote may still be in its own node's memory */
    if (ok && on_all) ok = h5_agree(file, file_sync(name, err), err);
    if (ok) {
        ok = h5_agree(file,
                      file->rank != 0 ||
                          (file->spares ? spares_replace(file->spares, err) : file_replace(name, file->path, err)),
                      err);
        file->writing = !ok;
    }
    h5_close(file);
    return ok;
}

bool h5_commit_if(bool ok, H5File *file, Error *err)
{
    if (ok) return h5_commit(file, err);
    h5_close(file);
    return false;
}

void h5_close(H5File *file)
{
    Error ignored = { 0 };
    close_data(file, false, &ignored);
    close_meta(file, false, &ignored);
    free(file->scratch);
    file->scratch = NULL;
    file->scratch_bytes = 0;
    seal_free(file);
    if (file->writing && file->spares)
        spares_abandon(file->spares);
    else if (file->writing && file->rank == 0 && *file->temporary)
        unlink(file->temporary);
    file->spares = NULL;
    file->writing = false;
}
