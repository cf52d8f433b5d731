/* Loaded before a rank's own libraries: a file system without locks, as Lustre is when it is mounted without flock. The
 * error is CATDPO_TEST_ERRNO. */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS /* fcntl and fcntl64 are two names here */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>

static int refuse(void)
{
    const char *text = getenv("CATDPO_TEST_ERRNO");
    errno = text ? atoi(text) : ENOLCK;
    return -1;
}

int flock(int descriptor, int operation)
{
    (void)descriptor;
    (void)operation;
    return refuse();
}

static int control(const char *name, int descriptor, int command, void *argument)
{
    union {
        void *object;
        int (*call)(int, int, ...);
    } real = { dlsym(RTLD_NEXT, name) };
    int locks = command == F_SETLK || command == F_SETLKW || command == F_GETLK || command == F_OFD_SETLK ||
                command == F_OFD_SETLKW || command == F_OFD_GETLK;
    return locks ? refuse() : real.call(descriptor, command, argument);
}

int fcntl(int descriptor, int command, ...)
{
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return control("fcntl", descriptor, command, argument);
}

int fcntl64(int descriptor, int command, ...)
{
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return control("fcntl64", descriptor, command, argument);
}
