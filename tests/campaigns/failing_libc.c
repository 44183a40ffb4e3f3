/* Makes the n-th write below a folder fail, whoever makes it: Python, TensorStore, another library.
 *
 * Preloaded (LD_PRELOAD); a process says by fail_set what shall fail, asks by fail_count how many
 * writes it has made, and gets by fail_log a line for the path of each. Names that cannot be made fail by any error, bytes only by full disks.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long number, count;
static int error_number, also_bytes, log_file = -1;

void fail_set(const char *below, long which, int error) {
    strncpy(folder, below, PATH_MAX - 1);
    number = which;
    error_number = error;
    also_bytes = error == ENOSPC || error == EDQUOT;
    __sync_lock_test_and_set(&count, 0);
}

long fail_count(void) { return count; }

void fail_log(int file) { log_file = file; }

static int meets(const char *path) {
    if (!folder[0] || !path || strncmp(path, folder, strlen(folder))) return 0;
    if (log_file >= 0) dprintf(log_file, "%s\n", path);
    if (__sync_add_and_fetch(&count, 1) != number) return 0;
    errno = error_number;
    return 1;
}

static int meets_at(int at, const char *path) {
    char link[64], whole[2 * PATH_MAX], base[PATH_MAX];
    if (!folder[0] || !path || path[0] == '/' || at == AT_FDCWD) return meets(path);
    snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t length = readlink(link, base, sizeof base - 1);
    if (length < 0) return 0;
    base[length] = 0;
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    return meets(whole);
}

static int meets_bytes(int file) {
    int before = errno;
    int met = also_bytes && meets_at(file, "");
    if (!met) errno = before;
    return met;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRITES(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & O_CREAT))
#define MODE(last) va_list rest; va_start(rest, last); mode_t mode = va_arg(rest, mode_t); va_end(rest)

int open(const char *path, int flags, ...) {
    MODE(flags);
    return WRITES(flags) && meets(path) ? -1 : NEXT(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE(flags);
    return WRITES(flags) && meets(path) ? -1 : NEXT(open64)(path, flags, mode);
}
int openat(int at, const char *path, int flags, ...) {
    MODE(flags);
    return WRITES(flags) && meets_at(at, path) ? -1 : NEXT(openat)(at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) {
    MODE(flags);
    return WRITES(flags) && meets_at(at, path) ? -1 : NEXT(openat64)(at, path, flags, mode);
}
int mkdir(const char *path, mode_t mode) { return meets(path) ? -1 : NEXT(mkdir)(path, mode); }
int mkdirat(int at, const char *path, mode_t mode) {
    return meets_at(at, path) ? -1 : NEXT(mkdirat)(at, path, mode);
}
int rename(const char *from, const char *to) { return meets(to) ? -1 : NEXT(rename)(from, to); }
int renameat(int a, const char *from, int b, const char *to) {
    return meets_at(b, to) ? -1 : NEXT(renameat)(a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    return meets_at(b, to) ? -1 : NEXT(renameat2)(a, from, b, to, flags);
}
ssize_t write(int file, const void *bytes, size_t size) {
    return meets_bytes(file) ? -1 : NEXT(write)(file, bytes, size);
}
ssize_t pwrite(int file, const void *bytes, size_t size, off_t place) {
    return meets_bytes(file) ? -1 : NEXT(pwrite)(file, bytes, size, place);
}
ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t place) {
    return meets_bytes(file) ? -1 : NEXT(pwrite64)(file, bytes, size, place);
}
ssize_t writev(int file, const struct iovec *parts, int size) {
    return meets_bytes(file) ? -1 : NEXT(writev)(file, parts, size);
}
ssize_t pwritev(int file, const struct iovec *parts, int size, off_t place) {
    return meets_bytes(file) ? -1 : NEXT(pwritev)(file, parts, size, place);
}
ssize_t pwritev64(int file, const struct iovec *parts, int size, off64_t place) {
    return meets_bytes(file) ? -1 : NEXT(pwritev64)(file, parts, size, place);
}
int fsync(int file) { return meets_bytes(file) ? -1 : NEXT(fsync)(file); }
int fdatasync(int file) { return meets_bytes(file) ? -1 : NEXT(fdatasync)(file); }
int ftruncate(int file, off_t size) { return meets_bytes(file) ? -1 : NEXT(ftruncate)(file, size); }
int ftruncate64(int file, off64_t size) {
    return meets_bytes(file) ? -1 : NEXT(ftruncate64)(file, size);
}
