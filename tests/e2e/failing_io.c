/* Fault injection: makes the n-th call fail that changes something below a folder. Loaded by LD_PRELOAD.
 *
 * FAILING_IO_FOLDER  the folder; calls elsewhere, and those on sockets, pass untouched
 * FAILING_IO_RECORD  a file that is memory-mapped (struct record): which call is to fail, which were made
 * FAILING_IO_HOW     error: fails with FAILING_IO_ERRNO and changes nothing
 *                    torn:  half of the bytes are written, then the process exits
 *                    gone:  the process exits before the call
 * FAILING_IO_LASTS   1: every call from the n-th on fails; with ENOSPC the first one, if a write, is short
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXIT_CODE 77
#define NAMED_MAX (1 << 16)

struct record {
    _Atomic uint64_t at; /* n, from 1; 0: no call fails. May be changed while the process runs. */
    _Atomic uint64_t calls;
    _Atomic uint64_t failed; /* the first call that failed, 0 for none */
    char names[NAMED_MAX];   /* one letter per call */
};

enum action { PASS, FAIL, SHORT, TORN };

static struct record *record;
static char folder[4096];
static size_t folder_length;
static int how_torn, how_gone, lasts, error;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

__attribute__((constructor)) static void begin(void) {
    snprintf(folder, sizeof folder, "%s", setting("FAILING_IO_FOLDER"));
    folder_length = strlen(folder);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, setting("FAILING_IO_RECORD"), O_RDWR | O_CLOEXEC, 0);
    if (fd < 0 || folder_length == 0) return;
    void *mapped = mmap(NULL, sizeof(struct record), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    how_torn = strcmp(setting("FAILING_IO_HOW"), "torn") == 0;
    how_gone = strcmp(setting("FAILING_IO_HOW"), "gone") == 0;
    error = atoi(setting("FAILING_IO_ERRNO"));
    lasts = strcmp(setting("FAILING_IO_LASTS"), "1") == 0;
    if (mapped != MAP_FAILED) record = mapped;
}

static int is_below(const char *path) {
    return strncmp(path, folder, folder_length) == 0 && (path[folder_length] == '/' || path[folder_length] == 0);
}

static int is_ours(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static void die(void) { syscall(SYS_exit_group, EXIT_CODE); }

/* Counts a call below the folder and decides what happens to it. */
static enum action decide(int ours, char name, int writes) {
    if (!record || !ours) return PASS;
    uint64_t n = atomic_fetch_add(&record->calls, 1) + 1;
    if (n <= NAMED_MAX) record->names[n - 1] = name;
    uint64_t at = atomic_load(&record->at);
    if (at == 0 || n < at || (n > at && !lasts)) return PASS;
    /* Deleting needs no space. */
    if (error == ENOSPC && name == 'u') return PASS;
    uint64_t none = 0;
    int first = atomic_compare_exchange_strong(&record->failed, &none, n);
    if (how_gone) die();
    if (how_torn) return TORN;
    return first && lasts && writes && error == ENOSPC ? SHORT : FAIL;
}

#define FAILED (errno = error, -1)

/* A call that succeeds or fails as a whole. */
#define WHOLE(ours, name, call)              \
    do {                                     \
        enum action action = decide(ours, name, 0); \
        if (action == FAIL) return FAILED;  \
        int result = (int)(call);            \
        if (action == TORN) die();          \
        return result;                       \
    } while (0)

/* A call that writes `size` bytes or fewer: `call` writes `count` of them. */
#define WRITING(fd, name, size, call)                          \
    do {                                                       \
        enum action action = decide(is_ours(fd), name, size > 1); \
        if (action == FAIL) return FAILED;                    \
        size_t count = action == PASS ? size : size / 2;      \
        ssize_t result = call;                                 \
        if (action == TORN) die();                            \
        return result;                                         \
    } while (0)

ssize_t write(int fd, const void *bytes, size_t size) {
    WRITING(fd, 'w', size, syscall(SYS_write, fd, bytes, count));
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) {
    WRITING(fd, 'p', size, syscall(SYS_pwrite64, fd, bytes, count, offset));
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return pwrite64(fd, bytes, size, offset); }

ssize_t writev(int fd, const struct iovec *parts, int number) {
    enum action action = decide(is_ours(fd), 'v', number > 0);
    if (action == FAIL) return FAILED;
    if (action == PASS) return syscall(SYS_writev, fd, parts, number);
    ssize_t result = syscall(SYS_write, fd, parts[0].iov_base, parts[0].iov_len / 2);
    if (action == TORN) die();
    return result;
}

int fsync(int fd) { WHOLE(is_ours(fd), 's', syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { WHOLE(is_ours(fd), 'd', syscall(SYS_fdatasync, fd)); }

int ftruncate64(int fd, off64_t size) { WHOLE(is_ours(fd), 't', syscall(SYS_ftruncate, fd, size)); }
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
    WHOLE(is_ours(fd), 'a', syscall(SYS_fallocate, fd, mode, offset, size));
}
int fallocate(int fd, int mode, off_t offset, off_t size) { return fallocate64(fd, mode, offset, size); }

int renameat(int from, const char *old, int to, const char *new) {
    WHOLE(is_below(old) || is_below(new), 'r', syscall(SYS_renameat2, from, old, to, new, 0));
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int mkdir(const char *path, mode_t mode) { WHOLE(is_below(path), 'm', syscall(SYS_mkdirat, AT_FDCWD, path, mode)); }

int unlinkat(int at_fd, const char *path, int flags) {
    WHOLE(is_below(path) || (path[0] != '/' && is_ours(at_fd)), 'u', syscall(SYS_unlinkat, at_fd, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

static int open_at(int at_fd, const char *path, int flags, mode_t mode) {
    WHOLE((flags & O_CREAT) && is_below(path), 'c', syscall(SYS_openat, at_fd, path, flags, mode));
}

#define MODE(flags)                                     \
    mode_t mode = 0;                                    \
    if ((flags) & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) { \
        va_list rest;                                   \
        va_start(rest, flags);                          \
        mode = va_arg(rest, mode_t);                    \
        va_end(rest);                                   \
    }

int openat64(int at_fd, const char *path, int flags, ...) { MODE(flags); return open_at(at_fd, path, flags, mode); }
int openat(int at_fd, const char *path, int flags, ...) { MODE(flags); return open_at(at_fd, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags); return open_at(AT_FDCWD, path, flags, mode); }
int open(const char *path, int flags, ...) { MODE(flags); return open_at(AT_FDCWD, path, flags, mode); }
