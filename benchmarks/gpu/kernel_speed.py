"""Our kernels beside the best of the device: bytes of a measured copy, measured multiply-adds."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np

from benchmarks.gpu.job import Job
from lrsclip_kernels import FUSE, RESAMPLE, ROOF, TOPK
from lrsclip_rt.benchmarking import BenchRow
from lrsclip_rt.cuda.device_fusion import DeviceFusion
from lrsclip_rt.cuda.device_resampling import DeviceResampler
from lrsclip_rt.cuda.device_search import DeviceRows
from lrsclip_rt.cuda.kernels import Argument
from lrsclip_rt.cuda.memory import DeviceBuffer
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.localization.hann import spans_on_grid
from lrsclip_rt.localization.windows import selo_windows
from lrsclip_rt.pixels import PixelSpec
from lrsclip_rt.resample_plan import BufferWindow, PixelBuffer, plan_windows, square_resize
from lrsclip_rt.tiles import Window

__all__ = ["heat_map", "kernel_speed", "searching"]


def kernel_speed(job: Job) -> None:
    """Both roofs, then batches of windows of the sizes in use."""
    machine = job.machine
    with machine.device.current():
        stream = Stream(machine.device.driver)
        copy_rate, add_rate = _copy_rate(job, stream), _multiply_add_rate(job, stream)
        print(f"{'copy':24} {copy_rate / 1e9:.0f} GB/s, multiply-adds {add_rate / 1e12:.2f} T/s")
        rows: list[Any] = [
            {"what": "roofs", "bytes_per_second": copy_rate, "multiply_adds_per_second": add_rate}
        ]
        for edge in (256, 512, 768) if not job.rehearsal else (64,):
            rows.append(_resample_row(job, stream, edge, copy_rate, add_rate))
        stream.free()
    job.record("gpu_kernels", rows, {})


def searching(job: Job) -> None:
    """Queries against rows that lie on the device: from the query's vector to rows and scores on the host."""
    machine = job.machine
    count, dim = job.size(1_000_000, 2000), job.size(512, 32)
    rng = np.random.default_rng(0)
    block = rng.standard_normal((min(count, 50_000), dim)).astype(np.float16)
    parts = [block] * (count // len(block))
    resident = DeviceRows(machine.device, parts, module=machine.module(TOPK))
    rows = []
    for queries in (1, 8, 64):
        asked = rng.standard_normal((queries, dim)).astype(np.float32)
        seconds = []
        for number in range(-3, job.size(50, 2)):
            start = time.perf_counter()
            resident.search(asked, 10)
            if number >= 0:
                seconds.append(time.perf_counter() - start)
        row = BenchRow.of(f"search {len(resident)} x {dim}, k 10", "fp16 rows", seconds, batch=queries)
        print(f"{row.what:34} {queries:4} queries {row.p50_ms:8.3f} ms")
        rows.append(row)
    resident.close()
    job.record("gpu_search", rows, {"rows": count, "dim": dim})


def heat_map(job: Job) -> None:
    """Scores of the protocol's windows to maps, up and down again."""
    side, texts = job.size(10_000, 600), job.size(16, 2)
    windows = selo_windows(side, side)
    cells = side // 8
    grid = spans_on_grid(windows, height=side, width=side, rows=cells, cols=cells)
    scores = np.random.default_rng(0).random((len(windows), texts), np.float32)
    fusion = DeviceFusion(job.machine.device, grid, module=job.machine.module(FUSE))
    seconds = []
    for number in range(-3, job.size(20, 2)):
        start = time.perf_counter()
        fusion.means(scores)
        if number >= 0:
            seconds.append(time.perf_counter() - start)
    fusion.close()
    row = BenchRow.of(f"heat maps of {len(windows)} windows, {cells} x {cells}", "fuse", seconds, batch=texts)
    print(f"{row.what:34} {texts} texts {row.p50_ms:8.3f} ms")
    job.record("gpu_heat_map", [row], {"side": side, "texts": texts})


def _copy_rate(job: Job, stream: Stream) -> float:
    """Bytes read and written in a second."""
    size = job.size(1 << 30, 1 << 16)
    source, target = (DeviceBuffer(job.machine.device.driver, size) for _ in range(2))
    stream.fill(source.address, 0x5A, size)
    seconds = job.machine.seconds(
        stream, lambda: stream.copy(source.address, target.address, size), rounds=job.size(20, 3)
    )
    source.free()
    target.free()
    return 2 * size / float(np.median(seconds))


def _multiply_add_rate(job: Job, stream: Stream) -> float:
    """32-bit integer multiply-adds in a second."""
    module = job.machine.module(ROOF)
    blocks, rounds, chains = job.size(64 * 132, 2), job.size(20_000, 10), 8
    sums = DeviceBuffer(job.machine.device.driver, 4 * blocks * ROOF.threads)
    arguments: list[Argument] = [
        ctypes.c_int(rounds),
        ctypes.c_int(0x1E3779B1),
        ctypes.c_uint64(sums.address),
    ]
    seconds = job.machine.seconds(
        stream,
        lambda: module.launch(
            "multiply_adds",
            grid=(blocks, 1, 1),
            block=(ROOF.threads, 1, 1),
            arguments=arguments,
            stream=stream,
        ),
        rounds=job.size(10, 2),
    )
    sums.free()
    return blocks * ROOF.threads * rounds * chains / float(np.median(seconds))


def _resample_row(job: Job, stream: Stream, edge: int, copy_rate: float, add_rate: float) -> dict[str, Any]:
    """A batch of windows of one scene; the floor is the larger of its bytes and its multiply-adds."""
    size, count, side = job.size(224, 32), job.size(256, 4), job.size(8192, 256)
    spec, driver = PixelSpec(size), job.machine.device.driver
    scene = DeviceBuffer(driver, 3 * side * side)
    stream.fill(scene.address, 0x5A, scene.size_bytes)
    buffer = PixelBuffer(scene.address, side, side, 3 * side, 3, (0, 1, 2))
    offsets = np.random.default_rng(edge).integers(0, side - edge + 1, (count, 2)).tolist()
    items = [
        BufferWindow(buffer, Window(col, row, edge, edge), square_resize(edge, edge, size))
        for col, row in offsets
    ]
    plan = plan_windows(items)
    adds = sum(
        3 * int((plan.windows[p]["lines"] * plan.windows[p]["outputs"] * plan.windows[p]["taps"]).sum())
        for p in ("first", "second")
    )
    output = DeviceBuffer(driver, 2 * 3 * size * size * count)
    moved = 3 * edge * edge * count + output.size_bytes
    resampler = DeviceResampler(job.machine.device, spec, "float16", module=job.machine.module(RESAMPLE))
    resampler.enqueue_windows(items, output.address, stream)
    seconds = job.machine.seconds(
        stream,
        lambda: resampler.launch_again(stream),
        rounds=job.size(20, 2),
    )
    stream.synchronize()
    for one in (scene, output):
        one.free()
    resampler.free()
    row = BenchRow.of(f"resample {edge} -> {size}", "fp16", seconds, batch=count)
    floor = max(moved / copy_rate, adds / add_rate)
    share = floor / (row.p50_ms / 1000)
    print(f"{row.what:24} {row.per_second:12.0f} windows/s, {100 * share:.0f} % of the roof")
    return {
        "what": row.what,
        "batch": count,
        "p50_ms": row.p50_ms,
        "p95_ms": row.p95_ms,
        "per_second": row.per_second,
        "bytes": moved,
        "multiply_adds": adds,
        "share_of_roof": share,
    }
