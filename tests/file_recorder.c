/* Records what a process does to the files below a folder, in order: creations, writes, truncations, syncs,
 * renames and removals. Preloaded into the process (LD_PRELOAD), so that SQLite's calls are seen like Python's.
 *
 * RECORDER_ROOT  the folder, absolute and without links
 * RECORDER_LOG   the log; a record is one line "op inode offset length path\n" and then `length` bytes:
 *
 *   C inode 0 0 path            a file was created          M inode 0 0 path    a folder was made
 *   W inode offset length -     bytes were written          T inode length 0 -  the file got this length
 *   S inode 0 0 -               a file or folder was synced
 *   U 0 0 0 path                a name was removed          R 0 0 length path   renamed; the bytes are the new path
 *   K 0 0 length -              a mark of the program       X 0 0 0 what        something this file does not know
 *
 * Writes through a shared mapping are not seen; a writable one is recorded as X, except SQLite's -shm, which is
 * rebuilt after every crash.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST_FDS 4096
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static char root[PATH_MAX];
static size_t root_length;
static struct { int used; int shm; unsigned long inode; } files[MOST_FDS];

static void put(const void *bytes, size_t count) {
    const char *at = bytes;
    while (count) {
        long done = syscall(SYS_write, log_fd, at, count);
        if (done <= 0) abort();
        at += done;
        count -= (size_t)done;
    }
}

static void record(char op, unsigned long inode, long offset, size_t length, const char *path, const void *bytes) {
    char head[PATH_MAX + 96];
    int n = snprintf(head, sizeof head, "%c %lu %ld %zu %s\n", op, inode, offset, length, path);
    put(head, (size_t)n);
    if (bytes) put(bytes, length);
}

__attribute__((constructor)) static void start(void) {
    const char *folder = getenv("RECORDER_ROOT"), *target = getenv("RECORDER_LOG");
    if (!folder || !target) return;
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, target, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (log_fd < 0) abort();
}

static int inside(const char *path) {
    return log_fd >= 0 && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* The absolute path of a name whose folder exists; empty where it is not below the root. */
static void locate(int at, const char *name, char *path) {
    char copy[PATH_MAX], folder[PATH_MAX];
    path[0] = 0;
    if (log_fd < 0 || !name || !*name) return;
    if (name[0] == '/' || at == AT_FDCWD) {
        snprintf(copy, sizeof copy, "%s", name);
    } else {
        char link[64], base[PATH_MAX / 2];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = readlink(link, base, sizeof base - 1);
        if (n < 0) return;
        base[n] = 0;
        snprintf(copy, sizeof copy, "%s/%.*s", base, PATH_MAX / 2 - 2, name);
    }
    char *slash = strrchr(copy, '/');
    const char *last = slash ? slash + 1 : copy;
    if (slash) *slash = 0;
    if (!realpath(slash ? (*copy ? copy : "/") : ".", folder)) return;
    if (strlen(folder) + strlen(last) + 2 > PATH_MAX) return;
    strcpy(path, folder);
    strcat(path, "/");
    strcat(path, last);
    if (!inside(path)) path[0] = 0;
}

static int tracked(int fd) { return fd >= 0 && fd < MOST_FDS && files[fd].used; }

static int opened(int fd, const char *path, int flags, int existed) {
    struct stat facts;
    if (fd < 0 || fd >= MOST_FDS || !path[0]) return fd;
    if (fstat(fd, &facts)) abort();
    pthread_mutex_lock(&lock);
    size_t n = strlen(path);
    files[fd].used = 1;
    files[fd].shm = n > 4 && !strcmp(path + n - 4, "-shm");
    files[fd].inode = facts.st_ino;
    if (!existed) record('C', facts.st_ino, 0, 0, path, NULL);
    else if (flags & O_TRUNC) record('T', facts.st_ino, 0, 0, "-", NULL);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(symbol, at, name, call)                                  \
    char path[PATH_MAX];                                              \
    mode_t mode = 0;                                                  \
    if (flags & (O_CREAT | O_TMPFILE)) {                              \
        va_list rest;                                                 \
        va_start(rest, flags);                                        \
        mode = va_arg(rest, mode_t);                                  \
        va_end(rest);                                                 \
    }                                                                 \
    locate(at, name, path);                                           \
    int existed = path[0] && !access(path, F_OK);                     \
    return opened(call, path, flags, existed);

int open(const char *name, int flags, ...) { OPEN(open, AT_FDCWD, name, REAL(open)(name, flags, mode)) }
int open64(const char *name, int flags, ...) { OPEN(open64, AT_FDCWD, name, REAL(open64)(name, flags, mode)) }
int openat(int at, const char *name, int flags, ...) { OPEN(openat, at, name, REAL(openat)(at, name, flags, mode)) }
int openat64(int at, const char *name, int flags, ...) { OPEN(openat64, at, name, REAL(openat64)(at, name, flags, mode)) }

int close(int fd) {
    if (fd >= 0 && fd < MOST_FDS) files[fd].used = 0;
    return REAL(close)(fd);
}

static ssize_t wrote(int fd, const void *bytes, ssize_t count, long offset) {
    if (count > 0 && tracked(fd)) {
        if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - count;
        pthread_mutex_lock(&lock);
        record('W', files[fd].inode, offset, (size_t)count, "-", bytes);
        pthread_mutex_unlock(&lock);
    }
    return count;
}

ssize_t write(int fd, const void *bytes, size_t count) { return wrote(fd, bytes, REAL(write)(fd, bytes, count), -1); }
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return wrote(fd, bytes, REAL(pwrite)(fd, bytes, count, offset), offset);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    return wrote(fd, bytes, REAL(pwrite64)(fd, bytes, count, offset), offset);
}

static int done(char op, int status, int fd, long offset) {
    if (!status && tracked(fd)) {
        pthread_mutex_lock(&lock);
        record(op, files[fd].inode, offset, 0, "-", NULL);
        pthread_mutex_unlock(&lock);
    }
    return status;
}

int ftruncate(int fd, off_t length) { return done('T', REAL(ftruncate)(fd, length), fd, length); }
int ftruncate64(int fd, off64_t length) { return done('T', REAL(ftruncate64)(fd, length), fd, length); }
int fsync(int fd) { return done('S', REAL(fsync)(fd), fd, 0); }
int fdatasync(int fd) { return done('S', REAL(fdatasync)(fd), fd, 0); }

static int truncated(const char *name, long length, int status) {
    char path[PATH_MAX];
    struct stat facts;
    locate(AT_FDCWD, name, path);
    if (!status && path[0] && !stat(path, &facts)) {
        pthread_mutex_lock(&lock);
        record('T', facts.st_ino, length, 0, "-", NULL);
        pthread_mutex_unlock(&lock);
    }
    return status;
}

int truncate(const char *name, off_t length) { return truncated(name, length, REAL(truncate)(name, length)); }
int truncate64(const char *name, off64_t length) { return truncated(name, length, REAL(truncate64)(name, length)); }

static int named(char op, int at, const char *name, int status, const char *other) {
    char path[PATH_MAX];
    struct stat facts = {0};
    locate(at, name, path);
    if (!status && path[0]) {
        if (op == 'M' && stat(path, &facts)) abort();
        pthread_mutex_lock(&lock);
        record(op, facts.st_ino, 0, other ? strlen(other) : 0, path, other);
        pthread_mutex_unlock(&lock);
    }
    return status;
}

int unlink(const char *name) { return named('U', AT_FDCWD, name, REAL(unlink)(name), NULL); }
int unlinkat(int at, const char *name, int flags) { return named('U', at, name, REAL(unlinkat)(at, name, flags), NULL); }
int rmdir(const char *name) { return named('U', AT_FDCWD, name, REAL(rmdir)(name), NULL); }
int mkdir(const char *name, mode_t mode) { return named('M', AT_FDCWD, name, REAL(mkdir)(name, mode), NULL); }
int mkdirat(int at, const char *name, mode_t mode) { return named('M', at, name, REAL(mkdirat)(at, name, mode), NULL); }

static int renamed(int at, const char *old, int to, const char *new, int status) {
    char target[PATH_MAX];
    locate(to, new, target);
    return named('R', at, old, status, target);
}

int rename(const char *old, const char *new) { return renamed(AT_FDCWD, old, AT_FDCWD, new, REAL(rename)(old, new)); }
int renameat(int at, const char *old, int to, const char *new) {
    return renamed(at, old, to, new, REAL(renameat)(at, old, to, new));
}

static void unknown(const char *what) {
    if (log_fd < 0) return;
    pthread_mutex_lock(&lock);
    record('X', 0, 0, 0, what, NULL);
    pthread_mutex_unlock(&lock);
}

#define REFUSE(type, name, parameters, arguments, fd)  \
    type name parameters {                             \
        if (tracked(fd)) unknown(#name);               \
        return REAL(name) arguments;                   \
    }
REFUSE(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), fd)
REFUSE(ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at), fd)
REFUSE(ssize_t, sendfile, (int fd, int from, off_t *at, size_t count), (fd, from, at, count), fd)
REFUSE(ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t count), (fd, from, at, count), fd)
REFUSE(ssize_t, copy_file_range, (int from, off64_t *a, int fd, off64_t *b, size_t count, unsigned flags), (from, a, fd, b, count, flags), fd)
REFUSE(int, fallocate, (int fd, int mode, off_t at, off_t count), (fd, mode, at, count), fd)
REFUSE(int, posix_fallocate, (int fd, off_t at, off_t count), (fd, at, count), fd)
REFUSE(int, posix_fallocate64, (int fd, off64_t at, off64_t count), (fd, at, count), fd)

static int is_written_unseen(int fd, int access, int flags) {
    return tracked(fd) && !files[fd].shm && (access & PROT_WRITE) && (flags & MAP_SHARED);
}

void *mmap(void *at, size_t count, int access, int flags, int fd, off_t offset) {
    if (is_written_unseen(fd, access, flags)) unknown("mmap");
    return REAL(mmap)(at, count, access, flags, fd, offset);
}
void *mmap64(void *at, size_t count, int access, int flags, int fd, off64_t offset) {
    if (is_written_unseen(fd, access, flags)) unknown("mmap64");
    return REAL(mmap64)(at, count, access, flags, fd, offset);
}

/* For the program itself, by ctypes: something that is said between two operations. */
void recorder_mark(const char *text) {
    if (log_fd < 0) return;
    pthread_mutex_lock(&lock);
    record('K', 0, 0, strlen(text), "-", text);
    pthread_mutex_unlock(&lock);
}
