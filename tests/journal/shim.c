/* Loaded into a test (LD_PRELOAD): makes the disk of the journal fail as the file named by OCPS_SHIM says. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

static int is_journal(const char *path) { return strstr(path, "/journal.db") != NULL; }

static int fd_is_journal(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_journal(path);
}

static int mode_is(const char *mode) {
    char text[32] = "";
    int (*real_open)(const char *, int, ...) = next("open");
    const char *control = getenv("OCPS_SHIM");
    int fd = control ? real_open(control, O_RDONLY) : -1;
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    return length > 0 && strcmp(text, mode) == 0;
}

static int sync_fails(int fd) {
    if (!fd_is_journal(fd)) return 0;
    while (mode_is("stall")) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    if (mode_is("sync")) { errno = EIO; return 1; }
    if (mode_is("readonly")) { errno = EROFS; return 1; }
    return 0;
}

int fsync(int fd) { return sync_fails(fd) ? -1 : ((int (*)(int))next("fsync"))(fd); }
int fdatasync(int fd) { return sync_fails(fd) ? -1 : ((int (*)(int))next("fdatasync"))(fd); }

static int write_fails(int fd) {
    if (!fd_is_journal(fd)) return 0;
    if (mode_is("full")) { errno = ENOSPC; return 1; }
    if (mode_is("readonly")) { errno = EROFS; return 1; }
    if (mode_is("write")) { errno = EIO; return 1; }
    return 0;
}

/* Half of what is written arrives, then the disk fails. */
static size_t arrives(int fd, size_t count) { return count > 1 && fd_is_journal(fd) && mode_is("torn") ? count / 2 : count; }

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = next("write");
    if (fd <= 2) return real(fd, bytes, count);
    if (write_fails(fd)) return -1;
    size_t some = arrives(fd, count);
    if (some == count) return real(fd, bytes, count);
    real(fd, bytes, some);
    errno = EIO;
    return -1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    ssize_t (*real)(int, const void *, size_t, off64_t) = next("pwrite64");
    if (write_fails(fd)) return -1;
    size_t some = arrives(fd, count);
    if (some == count) return real(fd, bytes, count, at);
    real(fd, bytes, some, at);
    errno = EIO;
    return -1;
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }

int ftruncate64(int fd, off64_t length) {
    return write_fails(fd) ? -1 : ((int (*)(int, off64_t))next("ftruncate64"))(fd, length);
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int open64(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    mode_t mode = va_arg(list, mode_t);
    va_end(list);
    if ((flags & O_ACCMODE) != O_RDONLY && is_journal(path) && mode_is("readonly")) { errno = EROFS; return -1; }
    return ((int (*)(const char *, int, ...))next("open64"))(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    mode_t mode = va_arg(list, mode_t);
    va_end(list);
    return open64(path, flags, mode);
}
