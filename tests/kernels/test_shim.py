"""The shim itself: what a kernel may rely on, and every mistake that it has to report."""

from __future__ import annotations

import re

import numpy as np
import pytest
from kernel_host import HostKernels, KernelError, compile_for_host

from lrsclip_kernels import RESAMPLE

SOURCE = """
#include "DEVICE"

#define KERNEL extern "C" __global__ void

KERNEL reversed(const int* values, int* out) {
    const Shared<int> kept = shared_at<int>(0);
    const int i = threadIdx.x, n = blockDim.x;
    kept[i] = values[blockIdx.x * n + i];
    __syncthreads();
    out[blockIdx.x * n + i] = kept[n - 1 - i];
}
KERNEL indices(unsigned int* out) {
    const unsigned int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned int all = blockDim.x * blockDim.y * blockDim.z;
    out[block * all + thread] += 1 + block * all + thread;
}
KERNEL arrivals(int* counter, int* blocks, int* threads) {
    if (threadIdx.x == 0) blocks[blockIdx.x] = counter[0]++;
    threads[blockIdx.x * blockDim.x + threadIdx.x] = counter[1]++;
}
KERNEL counted(int* out) {
    const Shared<int> count = shared_at<int>(0);
    if (threadIdx.x == 0) count[0] = 0;
    __syncthreads();
    const int place = atomic_add(count, 0, 2);
    out[place / 2] = place;
    __syncthreads();
    if (threadIdx.x == 0) out[blockDim.x] = count[0];
}
KERNEL halves(const unsigned short* bits, float* out, int count) {
    for (int i = threadIdx.x; i < count; i += blockDim.x) out[i] = float_from_half(bits[i]);
}
KERNEL products(const int* a, const int* b, int* out) {
    out[threadIdx.x] = __dp4a(a[threadIdx.x], b[threadIdx.x], 7);
}

KERNEL written_twice() { shared_at<int>(0)[0] = threadIdx.x; }
KERNEL read_too_soon(int* out) {
    const Shared<int> kept = shared_at<int>(0);
    kept[threadIdx.x] = 1;
    out[threadIdx.x] = kept[(threadIdx.x + 1) % blockDim.x];
}
KERNEL written_too_soon(int* out) {
    const Shared<int> kept = shared_at<int>(0);
    kept[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = kept[(threadIdx.x + 1) % blockDim.x];
    kept[threadIdx.x] = 2;
}
KERNEL counted_and_read(int* out) {
    const Shared<int> count = shared_at<int>(0);
    if (threadIdx.x == 0) count[0] = 0;
    __syncthreads();
    atomic_add(count, 0, 1);
    out[threadIdx.x] = count[0];
}
KERNEL never_written(int* out) { out[threadIdx.x] = shared_at<int>(0)[threadIdx.x]; }
KERNEL left_from_the_block_before(int* out) {
    const Shared<int> kept = shared_at<int>(0);
    if (gridDim.x == 1) kept[threadIdx.x] = 1;
    else out[threadIdx.x] = kept[threadIdx.x];
}
KERNEL beyond() { shared_at<int>(0)[threadIdx.x + 1] = 1; }
KERNEL before() { shared_at<int>(0)[static_cast<int>(threadIdx.x) - 1] = 1; }
KERNEL misaligned() { if (threadIdx.x == 0) shared_at<Two>(4)[0] = Two{1, 2}; }
KERNEL some_wait() { if (threadIdx.x < 3) __syncthreads(); }
KERNEL wait_apart() {
    if (threadIdx.x < 3) __syncthreads();
    else
        __syncthreads();
}
KERNEL deep(int* out, int levels) {
    volatile int frame[64] = {};
    frame[levels % 64] = levels;
    if (levels > 0) deep(out, levels - 1);
    out[0] = frame[levels % 64];
}
"""
NAMES = re.findall(r"^KERNEL (\w+)", SOURCE, re.MULTILINE)


@pytest.fixture(scope="module", params=["own switch", "ucontext"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    folder = tmp_path_factory.mktemp("shim")
    source = folder / "shim_kernels.cu"
    source.write_text(SOURCE.replace("DEVICE", str(RESAMPLE.path.parent / "device.cuh")))
    options = ["-O1"] + (["-DLRSCLIP_UCONTEXT"] if request.param == "ucontext" else [])
    return HostKernels(compile_for_host(source, NAMES, folder, options=options))


def test_values_cross_a_barrier_between_threads(kernels: HostKernels) -> None:
    values = np.arange(5 * 64, dtype=np.int32)
    out = np.zeros_like(values)
    kernels.launch("reversed", (5, 1, 1), 64, [values, out], shared_bytes=256)
    assert (out.reshape(5, 64) == values.reshape(5, 64)[:, ::-1]).all()


def test_every_thread_of_every_block_runs_once(kernels: HostKernels) -> None:
    out = np.zeros(3 * 2 * 4 * 30, np.uint32)
    kernels.launch("indices", (3, 2, 4), (5, 3, 2), [out])
    assert (out == np.arange(1, len(out) + 1)).all()


def test_the_seed_shuffles_blocks_and_threads_and_repeats(kernels: HostKernels) -> None:
    def run(seed: int) -> tuple[list[int], list[int]]:
        blocks, threads = np.zeros(20, np.int32), np.zeros(20 * 32, np.int32)
        kernels.launch("arrivals", (20, 1, 1), 32, [np.zeros(2, np.int32), blocks, threads], seed=seed)
        return blocks.tolist(), threads.tolist()

    first = run(1)
    assert sorted(first[0]) == list(range(20))
    assert sorted(first[1]) == list(range(640))
    assert first[0] != list(range(20))
    assert first[1][:32] != sorted(first[1][:32])
    assert run(1) == first
    assert run(2) != first


def test_additions_of_all_threads_count(kernels: HostKernels) -> None:
    out = np.zeros(65, np.int32)
    kernels.launch("counted", (1, 1, 1), 64, [out], shared_bytes=4)
    assert out.tolist() == list(range(0, 130, 2))


def test_every_float16_is_converted_as_numpy_does(kernels: HostKernels) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    out = np.zeros(65536, np.float32)
    kernels.launch("halves", (1, 1, 1), 32, [bits, out, np.int32(65536)])
    expected = bits.view(np.float16).astype(np.float32)
    numbers = ~np.isnan(expected)
    assert (out[numbers].view(np.uint32) == expected[numbers].view(np.uint32)).all()
    assert np.isnan(out[~numbers]).all()


def test_products_of_four_signed_bytes_are_summed(kernels: HostKernels) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(-128, 128, (2, 64, 4), dtype=np.int8)
    out = np.zeros(64, np.int32)
    kernels.launch("products", (1, 1, 1), 64, [a, b, out])
    assert (out == 7 + (a.astype(np.int32) * b).sum(axis=1)).all()


@pytest.mark.parametrize(
    ("kernel", "report"),
    [
        ("written_twice", "race: write of byte 0, written by thread"),
        ("read_too_soon", r"race: read of byte|never written|race: write of byte"),
        ("written_too_soon", r"race: (write of byte \d+, read|read of byte \d+, written)"),
        ("counted_and_read", r"race: (read of byte 0, an atomic's|addition at byte 0, used)"),
        ("never_written", r"read of byte \d+, never written"),
        ("beyond", "write of 4 bytes at byte 256 of 256 bytes of shared memory"),
        ("before", "write of 4 bytes at byte 18446744073709551612 of 256 bytes"),
        ("misaligned", "write at byte 4 of shared memory, aligned to 8"),
        ("some_wait", r"thread 0 waits at the barrier of line \d+, thread \d+ has ended"),
        ("wait_apart", r"thread 0 waits at the barrier of line \d+, thread \d+ at the barrier of line"),
    ],
)
def test_a_mistake_is_reported_in_every_schedule(kernels: HostKernels, kernel: str, report: str) -> None:
    takes_output = f"KERNEL {kernel}(int* out)" in SOURCE
    for seed in range(10):
        arguments = [np.zeros(64, np.int32)] if takes_output else []
        with pytest.raises(KernelError, match=report):
            kernels.launch(kernel, (2, 1, 1), 64, arguments, shared_bytes=256, seed=seed)


def test_shared_memory_does_not_outlive_a_block(kernels: HostKernels) -> None:
    out = np.zeros(64, np.int32)
    kernels.launch("left_from_the_block_before", (1, 1, 1), 64, [out], shared_bytes=256)
    with pytest.raises(KernelError, match="never written"):
        kernels.launch("left_from_the_block_before", (2, 1, 1), 64, [out], shared_bytes=256)


def test_a_launch_after_a_mistake_is_as_good_as_any(kernels: HostKernels) -> None:
    with pytest.raises(KernelError):
        kernels.launch("written_twice", (1, 1, 1), 64, [], shared_bytes=4)
    test_values_cross_a_barrier_between_threads(kernels)


def test_stacks_hold_what_a_kernel_may_need(kernels: HostKernels) -> None:
    out = np.zeros(1, np.int32)
    kernels.launch("deep", (1, 1, 1), 8, [out, np.int32(200)])
    assert out[0] == 200


@pytest.mark.parametrize(("grid", "threads"), [((0, 1, 1), 32), ((1, 1, 1), 0), ((1, 1, 1), 1025)])
def test_a_launch_that_no_device_takes_is_refused(
    kernels: HostKernels, grid: tuple[int, int, int], threads: int
) -> None:
    with pytest.raises(KernelError, match=r"grid has no block|1 to 1024 threads"):
        kernels.launch("written_twice", grid, threads, [], shared_bytes=4)
