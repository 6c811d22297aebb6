"""A libcuda made with gcc whose device memory is the host's: what is called through ctypes really happens.

Copies run at once. A graph is a number; launching it calls back into the test.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lrsclip_rt.cuda.driver import Driver

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
typedef unsigned long long u64;
static size_t limit = (size_t)1 << 40, used = 0;
static int devices = 1, major = 8, minor = 7, capturing = 0, graphs = 0, contexts = 0, handles = 0;
static int capture_fails = 0;
static long long launch[9];
void stub_launch(long long *to) { memcpy(to, launch, sizeof launch); }
static void (*launched)(int) = 0;
void stub_configure(int n, int a, int b, u64 bytes) { devices = n; major = a; minor = b; limit = bytes; }
void stub_on_launch(void (*f)(int)) { launched = f; }
void stub_fail_captures(int yes) { capture_fails = yes; }
int stub_capturing(void) { return capturing; }
u64 stub_used(void) { return used; }
int stub_contexts(void) { return contexts; }
int stub_handles(void) { return handles; }
static int take(void **p, size_t n) {
  if (used + n > limit) return 2;
  size_t *block = aligned_alloc(256, (n + 511) / 256 * 256);
  if (!block) return 2;
  *block = n; used += n; *p = (char *)block + 256; return 0;
}
static int give(void *p) { size_t *b = (size_t *)((char *)p - 256); used -= *b; free(b); return 0; }
int cuInit(unsigned f) { return devices ? 0 : 100; }
int cuDriverGetVersion(int *v) { *v = 12060; return 0; }
int cuGetErrorName(int s, const char **t) {
  *t = s == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : s == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
  return 0; }
int cuGetErrorString(int s, const char **t) {
  *t = s == 2 ? "out of memory" : s == 100 ? "no CUDA-capable device is detected" : "unknown error";
  return 0; }
int cuDeviceGetCount(int *n) { *n = devices; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetName(char *t, int n, int d) { strncpy(t, "Stub", n); return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? major : a == 76 ? minor : -1; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { contexts++; *c = &contexts; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { contexts--; return 0; }
int cuCtxPushCurrent_v2(void *c) { return c == &contexts ? 0 : 201; }
int cuCtxPopCurrent_v2(void **c) { *c = &contexts; return 0; }
int cuMemGetInfo_v2(size_t *f, size_t *t) { *f = limit - used; *t = limit; return 0; }
int cuMemAlloc_v2(u64 *p, size_t n) { void *q; int s = take(&q, n); if (!s) *p = (u64)q; return s; }
int cuMemFree_v2(u64 p) { return give((void *)p); }
int cuMemHostAlloc(void **p, size_t n, unsigned f) { *p = calloc(1, n); handles++; return 0; }
int cuMemFreeHost(void *p) { free(p); handles--; return 0; }
int cuMemcpyHtoDAsync_v2(u64 d, const void *s, size_t n, void *q) { memcpy((void *)d, s, n); return 0; }
int cuMemcpyDtoHAsync_v2(void *d, u64 s, size_t n, void *q) { memcpy(d, (void *)s, n); return 0; }
int cuStreamCreate(void **s, unsigned f) { if (f != 1) return 1; *s = malloc(1); handles++; return 0; }
int cuStreamSynchronize(void *s) { return 0; }
int cuStreamDestroy_v2(void *s) { free(s); handles--; return 0; }
int cuStreamBeginCapture_v2(void *s, int m) { capturing = 1; return 0; }
int cuStreamEndCapture(void *s, void **g) {
  capturing = 0; if (capture_fails) return 999; *g = (void *)(u64)++graphs; handles++; return 0; }
int cuEventCreate(void **e, unsigned f) { *e = malloc(1); handles++; return 0; }
int cuEventRecord(void *e, void *s) { return 0; }
int cuEventSynchronize(void *e) { return 0; }
int cuEventDestroy_v2(void *e) { free(e); handles--; return 0; }
int cuGraphInstantiateWithFlags(void **x, void *g, u64 f) { *x = g; handles++; return 0; }
int cuGraphLaunch(void *x, void *s) { if (launched) launched((int)(u64)x); return 0; }
int cuGraphExecDestroy(void *x) { handles--; return 0; }
int cuGraphDestroy(void *g) { handles--; return 0; }
int cuModuleLoadData(void **m, const void *image) { *m = malloc(1); handles++; return 0; }
int cuModuleGetFunction(void **f, void *m, const char *name) {
  *f = m; return strcmp(name, "known") ? 500 : 0; }
int cuModuleUnload(void *m) { free(m); handles--; return 0; }
int cuLaunchKernel(void *f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g,
                   unsigned h, void *s, void **params, void **extra) {
  long long seen[9] = {a, b, c, d, e, g, h, *(long long *)params[0], *(int *)params[1]};
  memcpy(launch, seen, sizeof seen); return extra != 0; }
"""


class CudaStub:
    """The stub, and the switches of it; ``library`` is a file of its own, since its counters are."""

    @staticmethod
    def compile(folder: Path) -> Path:
        """Make the library."""
        if shutil.which("gcc") is None:
            pytest.skip("gcc is not installed: it makes the stub of libcuda")
        source, library = folder / "cuda_stub.c", folder / "libcuda_stub.so"
        source.write_text(SOURCE)
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True, timeout=60
        )
        return library

    def __init__(self, library: Path) -> None:
        self.path = str(library)
        self.library = ctypes.CDLL(self.path)
        self.library.stub_configure.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_uint64)
        self.library.stub_used.restype = ctypes.c_uint64
        self._callback: object = None

    def driver(self) -> Driver:
        return Driver(self.path)

    def configure(
        self, *, devices: int = 1, capability: tuple[int, int] = (8, 7), memory_bytes: int = 1 << 40
    ) -> None:
        self.library.stub_configure(devices, *capability, memory_bytes)

    def on_launch(self, function: Callable[[int], None]) -> None:
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(function)
        self.library.stub_on_launch(self._callback)

    def fail_captures(self, yes: bool) -> None:
        self.library.stub_fail_captures(int(yes))

    def launched(self) -> tuple[int, ...]:
        """Grid, block, shared memory and the two arguments (64 and 32 bits) of the last kernel."""
        seen = (ctypes.c_int64 * 9)()
        self.library.stub_launch(seen)
        return tuple(seen)

    @property
    def capturing(self) -> bool:
        return bool(self.library.stub_capturing())

    @property
    def used_bytes(self) -> int:
        return int(self.library.stub_used())

    @property
    def open_handles(self) -> int:
        """Streams, events, graphs, modules and page-locked buffers that were not given back."""
        return int(self.library.stub_handles())

    @property
    def contexts(self) -> int:
        return int(self.library.stub_contexts())
