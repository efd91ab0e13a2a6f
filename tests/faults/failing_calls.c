/* Lets calls that change files fail, or the process die, at a chosen one. For LD_PRELOAD.
 *
 * Calls on paths below a root are counted: opening for writing, writing, flushing, renaming, making
 * and removing. `fault_arm(root, mode, at)` starts counting from 1; at call number `at` the mode
 * takes place. Unlike patched Python functions this reaches writers in C and Rust too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { COUNT, FULL, REFUSED, KILLED, INTERRUPTED, TERMINATED };
enum kind { OPEN, WRITE, FLUSH, RENAME, MAKE, REMOVE, CUT };

static char root[PATH_MAX];
static enum mode mode;
static long at = -1, seen;
static int hit = -1;
static long by_kind[7];

void fault_arm(const char *path, int new_mode, long number) {
  snprintf(root, sizeof root, "%s", path);
  mode = new_mode;
  at = number;
  seen = 0;
  hit = -1;
  memset(by_kind, 0, sizeof by_kind);
}

void fault_disarm(void) { root[0] = 0; }

long fault_seen(int kind) { return kind < 0 ? seen : by_kind[kind]; }

/* Kind of the call that failed; -1 for none. */
int fault_hit(void) { return hit; }

static int below_root(const char *path) {
  char full[PATH_MAX];
  const size_t length = strlen(root);
  if (!length || !path) return 0;
  if (path[0] != '/') {
    if (!getcwd(full, sizeof full)) return 0;
    const size_t used = strlen(full);
    snprintf(full + used, sizeof full - used, "/%s", path);
    path = full;
  }
  return !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static int at_below_root(int folder, const char *path) {
  char name[64], full[PATH_MAX];
  if (!root[0] || !path) return 0;
  if (path[0] == '/' || folder == AT_FDCWD) return below_root(path);
  snprintf(name, sizeof name, "/proc/self/fd/%d", folder);
  const ssize_t used = readlink(name, full, sizeof full - 1);
  if (used < 0) return 0;
  full[used] = 0;
  return below_root(full);
}

static int file_below_root(int file) {
  char name[64], full[PATH_MAX];
  if (!root[0]) return 0;
  snprintf(name, sizeof name, "/proc/self/fd/%d", file);
  const ssize_t used = readlink(name, full, sizeof full - 1);
  if (used < 0) return 0;
  full[used] = 0;
  return below_root(full);
}

/* What a full disk refuses goes on being refused; a refused permission is one call's. */
static int fails(enum kind kind) {
  ++seen;
  ++by_kind[kind];
  if (seen < at || at < 0) return 0;
  if (mode == KILLED && seen == at) kill(getpid(), SIGKILL);
  if (seen == at) hit = kind;
  if (mode == INTERRUPTED && seen == at) kill(getpid(), SIGINT);
  if (mode == TERMINATED && seen == at) kill(getpid(), SIGTERM);
  if (mode == FULL && kind != REMOVE && kind != RENAME && kind != CUT) return ENOSPC;
  if (mode == REFUSED && seen == at) return EACCES;
  return 0;
}

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define FAIL_IF(touches, kind) \
  if (touches) { \
    const int code = fails(kind); \
    if (code) { \
      errno = code; \
      return -1; \
    } \
  }

#define WRITING(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define OPENER(name) \
  int name(const char *path, int flags, ...) { \
    va_list rest; \
    va_start(rest, flags); \
    const mode_t bits = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    REAL(name); \
    FAIL_IF(WRITING(flags) && below_root(path), OPEN) \
    return real(path, flags, bits); \
  }
OPENER(open)
OPENER(open64)

#define OPENER_AT(name) \
  int name(int folder, const char *path, int flags, ...) { \
    va_list rest; \
    va_start(rest, flags); \
    const mode_t bits = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    REAL(name); \
    FAIL_IF(WRITING(flags) && at_below_root(folder, path), OPEN) \
    return real(folder, path, flags, bits); \
  }
OPENER_AT(openat)
OPENER_AT(openat64)

ssize_t write(int file, const void *data, size_t size) {
  REAL(write);
  if (file_below_root(file)) {
    /* The disk fills up, and the process dies, in the middle of what is written. */
    if (seen + 1 == at && size > 1 && (mode == FULL || mode == KILLED)) {
      const ssize_t part = real(file, data, size / 2);
      if (mode == KILLED) kill(getpid(), SIGKILL);
      ++seen;
      ++by_kind[WRITE];
      return part;
    }
    const int code = fails(WRITE);
    if (code) {
      errno = code;
      return -1;
    }
  }
  return real(file, data, size);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
  REAL(writev);
  FAIL_IF(file_below_root(file), WRITE)
  return real(file, parts, count);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t place) {
  REAL(pwrite64);
  FAIL_IF(file_below_root(file), WRITE)
  return real(file, data, size, place);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t place) {
  REAL(pwrite);
  FAIL_IF(file_below_root(file), WRITE)
  return real(file, data, size, place);
}

int fsync(int file) {
  REAL(fsync);
  FAIL_IF(file_below_root(file), FLUSH)
  return real(file);
}

int ftruncate64(int file, off64_t size) {
  REAL(ftruncate64);
  FAIL_IF(file_below_root(file), CUT)
  return real(file, size);
}

int ftruncate(int file, off_t size) {
  REAL(ftruncate);
  FAIL_IF(file_below_root(file), CUT)
  return real(file, size);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  FAIL_IF(below_root(to), RENAME)
  return real(from, to);
}

int renameat(int first, const char *from, int second, const char *to) {
  REAL(renameat);
  FAIL_IF(at_below_root(second, to), RENAME)
  return real(first, from, second, to);
}

int renameat2(int first, const char *from, int second, const char *to, unsigned flags) {
  REAL(renameat2);
  FAIL_IF(at_below_root(second, to), RENAME)
  return real(first, from, second, to, flags);
}

int mkdir(const char *path, mode_t bits) {
  REAL(mkdir);
  FAIL_IF(below_root(path), MAKE)
  return real(path, bits);
}

int mkdirat(int folder, const char *path, mode_t bits) {
  REAL(mkdirat);
  FAIL_IF(at_below_root(folder, path), MAKE)
  return real(folder, path, bits);
}

int unlink(const char *path) {
  REAL(unlink);
  FAIL_IF(below_root(path), REMOVE)
  return real(path);
}

int unlinkat(int folder, const char *path, int flags) {
  REAL(unlinkat);
  FAIL_IF(at_below_root(folder, path), REMOVE)
  return real(folder, path, flags);
}

int rmdir(const char *path) {
  REAL(rmdir);
  FAIL_IF(below_root(path), REMOVE)
  return real(path);
}
