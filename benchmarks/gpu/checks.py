"""What has to hold on a device before anything is timed there: our kernels against their twins on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.machine import Machine
from lrsclip_kernels import FUSE, RESAMPLE, TOPK
from lrsclip_rt.archive.segments import int8_from_rows
from lrsclip_rt.cuda.device_fusion import DeviceFusion
from lrsclip_rt.cuda.device_resampling import DeviceResampler
from lrsclip_rt.cuda.device_search import DeviceRows
from lrsclip_rt.cuda.memory import DeviceBuffer, PinnedBuffer
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.localization.hann import hann_means, spans_on_grid
from lrsclip_rt.localization.windows import selo_windows
from lrsclip_rt.pixels import PixelSpec, pixels_from_array

__all__ = ["check_fusion", "check_resampling", "check_search"]

Row = dict[str, Any]


def check_resampling(
    machine: Machine, *, images: int, largest: int, size: int = 224, seed: int = 0
) -> list[Row]:
    """Images of random sizes against the reference preprocessing, bit by bit."""
    rng = np.random.default_rng(seed)
    spec = PixelSpec(size)
    rows = []
    for dtype in ("float32", "float16"):
        differing = done = 0
        with machine.device.current():
            stream = Stream(machine.device.driver)
            resampler = DeviceResampler(machine.device, spec, dtype, module=machine.module(RESAMPLE))
            while done < images:
                sides = rng.integers(1, largest + 1, (min(32, images - done), 2))
                # Pillow makes a whole image of a long one before it cuts.
                sides[:, 1] = np.clip(sides[:, 1], sides[:, 0] // 8 + 1, 8 * sides[:, 0])
                batch = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sides.tolist()]
                found = _resampled(machine, resampler, batch, spec, dtype, stream)
                expected = np.stack([pixels_from_array(image, spec) for image in batch]).astype(dtype)
                bits = f"uint{8 * expected.itemsize}"
                differing += int((found.view(bits) != expected.view(bits)).sum())
                done += len(batch)
            resampler.free()
            stream.free()
        rows.append({"what": f"resample to {dtype}", "cases": done, "differing": differing})
    return rows


def check_search(machine: Machine, *, count: int, dim: int, k: int, seed: int = 1) -> list[Row]:
    """Exactly representable float16 rows and int8 rows against a full sort, ties and all."""
    rng = np.random.default_rng(seed)
    rows = (rng.integers(-2, 3, (count, dim)) / 16).astype(np.float16)
    queries = (rng.integers(-2, 3, (9, dim)) / 16).astype(np.float32)
    scores = (queries.astype(np.float64) @ rows.astype(np.float64).T).astype(np.float32)
    module = machine.module(TOPK)
    resident = DeviceRows(machine.device, [rows], module=module)
    found = [_wrong(resident, queries, scores, k, None)]
    passing = rng.random(count) < 0.1
    found.append(_wrong(resident, queries, scores, k, passing))
    resident.close()
    codes, scales = int8_from_rows(rows)
    asked, asked_scales = int8_from_rows(queries.astype(np.float16))
    sums = (asked.astype(np.int64) @ codes.astype(np.int64).T).astype(np.float32)
    resident = DeviceRows(machine.device, [codes], scales=[scales], module=module)
    found.append(_wrong(resident, queries, sums * scales * asked_scales[:, None], k, None))
    resident.close()
    names = ("top-k of float16 rows", "top-k of passing rows", "top-k of int8 rows")
    return [
        {"what": what, "cases": len(queries), "differing": wrong}
        for what, wrong in zip(names, found, strict=True)
    ]


def check_fusion(machine: Machine, *, side: int, texts: int, seed: int = 2) -> list[Row]:
    """Heat maps of the protocol's windows: cells beyond 1e-6 of the twin."""
    windows = selo_windows(side, side)
    cells = max(1, side // 8)
    grid = spans_on_grid(windows, height=side, width=side, rows=cells, cols=cells)
    scores = np.random.default_rng(seed).normal(0.2, 0.1, (len(windows), texts)).astype(np.float32)
    fusion = DeviceFusion(machine.device, grid, module=machine.module(FUSE))
    differing = int((np.abs(fusion.means(scores) - hann_means(grid, scores)) > 1e-6).sum())
    fusion.close()
    return [{"what": "fusion", "cases": cells * cells * texts, "differing": differing}]


def _resampled(
    machine: Machine,
    resampler: DeviceResampler,
    batch: list[NDArray[np.uint8]],
    spec: PixelSpec,
    dtype: str,
    stream: Stream,
) -> NDArray[Any]:
    shape = (len(batch), 3, spec.size, spec.size)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    output, answer = DeviceBuffer(machine.device.driver, size), PinnedBuffer(machine.device.driver, size)
    stream.fill(output.address, 0xA5, size)
    resampler.enqueue_images(batch, output.address, stream)
    stream.download(output, answer, size)
    stream.synchronize()
    found: NDArray[Any] = answer.view(dtype, shape).copy()
    output.free()
    answer.free()
    return found


def _wrong(
    resident: DeviceRows,
    queries: NDArray[np.float32],
    scores: NDArray[np.float32],
    k: int,
    passing: NDArray[np.bool_] | None,
) -> int:
    """Queries whose rows or scores differ in any bit."""
    wrong = 0
    numbers = np.arange(scores.shape[1]) if passing is None else np.flatnonzero(passing)
    for ranked, of_query in zip(resident.search(queries, k, passing=passing), scores, strict=True):
        order = numbers[np.lexsort((numbers, -of_query[numbers]))[:k]]
        same = np.array_equal(ranked.rows, order) and np.array_equal(ranked.scores, of_query[order])
        wrong += not same
    return wrong
