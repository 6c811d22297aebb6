/* A libcuda for the host: device memory is the host's, copies run at once, and kernels are those that were
 * compiled for the host. What is called through ctypes really happens, so that everything above the driver
 * runs without a GPU. A module image is "\x7f" "ELF" "host:" and the path of a library of host-compiled kernels;
 * any other image has one kernel, `known`, whose launch is only noted. A graph is a number; launching it
 * calls back. stub_* are its switches and counters.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long long u64;
typedef const char *(*Launch)(const unsigned *grid, const unsigned *block, unsigned shared, u64 seed, void **arguments);

typedef struct {
    void *library;
} Module;

typedef struct {
    Launch launch;
    int noted;
} Function;

enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_IMAGE = 200, INVALID_CONTEXT = 201,
       NOT_FOUND = 500, LAUNCH_FAILED = 719, UNKNOWN = 999 };

static size_t limit = (size_t)1 << 40, used = 0;
static int devices = 1, major = 8, minor = 7, capturing = 0, graphs = 0, contexts = 0, handles = 0;
static int capture_fails = 0, launches = 0, integrated = 0;
static long long noted[9];
static void (*launched)(int) = 0;
static u64 seed = 0;
static Function functions[256];
static int function_count = 0;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void stub_configure(int n, int a, int b, u64 bytes) { devices = n; major = a; minor = b; limit = bytes; }
void stub_set_integrated(int yes) { integrated = yes; }
void stub_on_launch(void (*f)(int)) { launched = f; }
void stub_fail_captures(int yes) { capture_fails = yes; }
void stub_launch(long long *to) { memcpy(to, noted, sizeof noted); }
int stub_capturing(void) { return capturing; }
int stub_contexts(void) { return contexts; }
int stub_handles(void) { return handles; }
int stub_kernel_launches(void) { return launches; }
u64 stub_used(void) { return used; }

/* The size lies before each block, so that freeing it can be counted. */
static int take(void **p, size_t n) {
    if (n == 0) return INVALID;
    if (used + n > limit) return OUT_OF_MEMORY;
    size_t *block = aligned_alloc(256, 256 + (n + 255) / 256 * 256);
    if (!block) return OUT_OF_MEMORY;
    *block = n;
    used += n;
    *p = (char *)block + 256;
    memset(*p, 0xa5, n);
    return OK;
}

static int give(void *p) {
    size_t *block = (size_t *)((char *)p - 256);
    used -= *block;
    free(block);
    return OK;
}

static int made(void **p, size_t n) { *p = calloc(1, n); handles++; return *p ? OK : OUT_OF_MEMORY; }
static int gone(void *p) { free(p); handles--; return OK; }

int cuInit(unsigned flags) { return devices ? OK : NO_DEVICE; }
int cuDriverGetVersion(int *v) { *v = 12060; return OK; }
int cuGetErrorName(int s, const char **t) {
    *t = s == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : s == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE"
         : s == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : s == INVALID_IMAGE ? "CUDA_ERROR_INVALID_IMAGE"
         : s == NOT_FOUND ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR_UNKNOWN";
    return OK;
}
int cuGetErrorString(int s, const char **t) {
    *t = s == OUT_OF_MEMORY ? "out of memory" : s == NO_DEVICE ? "no CUDA-capable device is detected"
         : s == LAUNCH_FAILED ? "unspecified launch failure" : s == INVALID_IMAGE ? "device kernel image is invalid"
         : s == NOT_FOUND ? "named symbol not found" : "unknown error";
    return OK;
}
int cuDeviceGetCount(int *n) { *n = devices; return OK; }
int cuDeviceGet(int *d, int i) { *d = i; return OK; }
int cuDeviceGetName(char *t, int n, int d) { strncpy(t, "Stub", n); return OK; }
int cuDeviceGetPCIBusId(char *t, int n, int d) { strncpy(t, "0000:01:00.0", n); return OK; }
int cuDeviceGetAttribute(int *v, int attribute, int d) {
    switch (attribute) {
        case 16: *v = 4; return OK;             /* multiprocessors */
        case 18: *v = integrated; return OK;    /* shares its memory with the host */
        case 75: *v = major; return OK;
        case 76: *v = minor; return OK;
        case 97: *v = 163 << 10; return OK;     /* shared memory of a block that asks for it */
        default: return INVALID;
    }
}
int cuDevicePrimaryCtxRetain(void **c, int d) { contexts++; *c = &contexts; return OK; }
int cuDevicePrimaryCtxRelease_v2(int d) { contexts--; return OK; }
int cuCtxPushCurrent_v2(void *c) { return c == &contexts ? OK : INVALID_CONTEXT; }
int cuCtxPopCurrent_v2(void **c) { *c = &contexts; return OK; }
int cuMemGetInfo_v2(size_t *f, size_t *t) { *f = limit - used; *t = limit; return OK; }
int cuMemAlloc_v2(u64 *p, size_t n) { void *q; int s = take(&q, n); if (!s) *p = (u64)q; return s; }
int cuMemFree_v2(u64 p) { return give((void *)p); }
int cuMemHostAlloc(void **p, size_t n, unsigned flags) { return made(p, n); }
int cuMemHostGetDevicePointer_v2(u64 *p, void *host, unsigned flags) { *p = (u64)host; return OK; }
int cuMemFreeHost(void *p) { return gone(p); }
int cuMemcpyHtoDAsync_v2(u64 d, const void *s, size_t n, void *q) { memcpy((void *)d, s, n); return OK; }
int cuMemcpyDtoHAsync_v2(void *d, u64 s, size_t n, void *q) { memcpy(d, (void *)s, n); return OK; }
int cuMemcpyDtoDAsync_v2(u64 d, u64 s, size_t n, void *q) { memmove((void *)d, (void *)s, n); return OK; }
int cuMemsetD8Async(u64 d, unsigned char value, size_t n, void *q) { memset((void *)d, value, n); return OK; }
int cuStreamCreate(void **s, unsigned flags) { return flags == 1 ? made(s, 1) : INVALID; }
int cuStreamSynchronize(void *s) { return OK; }
int cuStreamDestroy_v2(void *s) { return gone(s); }
int cuStreamBeginCapture_v2(void *s, int mode) { capturing = 1; return OK; }
int cuStreamEndCapture(void *s, void **g) {
    capturing = 0;
    if (capture_fails) return UNKNOWN;
    *g = (void *)(u64)++graphs;
    handles++;
    return OK;
}
int cuEventCreate(void **e, unsigned flags) { return made(e, sizeof(struct timespec)); }
int cuEventRecord(void *e, void *s) { return clock_gettime(CLOCK_MONOTONIC, e) ? UNKNOWN : OK; }
int cuEventSynchronize(void *e) { return OK; }
int cuEventElapsedTime(float *ms, void *from, void *to) {
    const struct timespec *a = from, *b = to;
    *ms = (float)((b->tv_sec - a->tv_sec) * 1e3 + (b->tv_nsec - a->tv_nsec) * 1e-6);
    return OK;
}
int cuEventDestroy_v2(void *e) { return gone(e); }
int cuGraphInstantiateWithFlags(void **x, void *g, u64 flags) { *x = g; handles++; return OK; }
int cuGraphLaunch(void *x, void *s) { if (launched) launched((int)(u64)x); return OK; }
int cuGraphExecDestroy(void *x) { handles--; return OK; }
int cuGraphDestroy(void *g) { handles--; return OK; }

int cuModuleLoadData(void **m, const void *image) {
    static const char mark[] = "\x7f" "ELFhost:";
    Module *module;
    int status = made((void **)&module, sizeof *module);
    if (status) return status;
    if (memcmp(image, mark, sizeof mark - 1) == 0) {
        module->library = dlopen((const char *)image + sizeof mark - 1, RTLD_NOW | RTLD_LOCAL);
        if (!module->library) {
            fprintf(stderr, "%s\n", dlerror());
            gone(module);
            return INVALID_IMAGE;
        }
    }
    *m = module;
    return OK;
}
int cuModuleGetFunction(void **f, void *m, const char *name) {
    const Module *module = m;
    Function found = {0, strcmp(name, "known") == 0};
    char symbol[128];
    if (module->library) {
        snprintf(symbol, sizeof symbol, "launch_%s", name);
        found.launch = (Launch)dlsym(module->library, symbol);
    }
    if (!found.launch && (module->library || !found.noted)) return NOT_FOUND;
    pthread_mutex_lock(&lock);
    Function *place = &functions[function_count++ % 256];
    *place = found;
    pthread_mutex_unlock(&lock);
    *f = place;
    return OK;
}
/* The library stays: host-compiled kernels keep state of their own between launches. */
int cuModuleUnload(void *m) { return gone(m); }
int cuFuncSetAttribute(void *f, int attribute, int value) { return attribute == 8 ? OK : INVALID; }
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *s, void **arguments, void **extra) {
    const Function *function = f;
    if (extra) return INVALID;
    launches++;
    if (!function->launch) {
        long long seen[9] = {gx, gy, gz, bx, by, bz, shared, *(long long *)arguments[0], *(int *)arguments[1]};
        memcpy(noted, seen, sizeof noted);
        return OK;
    }
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    pthread_mutex_lock(&lock); /* one block of the shim runs in a process */
    const char *report = function->launch(grid, block, shared, seed++, arguments);
    if (report) fprintf(stderr, "%s\n", report);
    pthread_mutex_unlock(&lock);
    return report ? LAUNCH_FAILED : OK;
}
