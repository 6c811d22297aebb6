"""Launches of the three kernel families on NumPy arrays; nothing beside a result may be written."""

from __future__ import annotations

from typing import Any

import numpy as np
from kernel_host import HostKernels
from numpy.typing import NDArray

from lrsclip_kernels import RESAMPLE, TOPK
from lrsclip_kernels.launches import (
    topk_blocks,
    topk_capacity,
    topk_merge_shared_bytes,
    topk_shared_bytes,
)
from lrsclip_rt.localization.hann import TILE_CELLS, GridSpans, spans_by_tile
from lrsclip_rt.resample_plan import SHARED_BYTES, ResamplePlan

MARGIN = 64
"""Values before and after a result."""

LEVELS = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
"""Every value stays as it is."""

Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows and scores, ``(Q, k)`` each."""


def resampled(
    kernels: HostKernels, plan: ResamplePlan, values: NDArray[Any] = LEVELS, *, seed: int = 0
) -> NDArray[Any]:
    """Both passes: (N, 3, rows, cols) of the values' dtype. Nothing beside the result is written."""
    scratch = np.full(plan.scratch_pixels + 2 * MARGIN, 0xDEADBEEF, np.uint32)
    size = int(np.prod(plan.output_shape))
    blank = values.dtype.type(77)
    output = np.full(size + 2 * MARGIN, blank)
    suffix = {"uint8": "u8", "float32": "f32", "float16": "f16"}[values.dtype.name]
    inner = scratch[MARGIN:]
    kernels.launch(
        f"resample_first_u{8 * plan.sample_bytes}",
        plan.first_grid,
        RESAMPLE.threads,
        [plan.windows, plan.tables, inner],
        shared_bytes=SHARED_BYTES,
        seed=seed,
    )
    kernels.launch(
        f"resample_second_{suffix}",
        plan.second_grid,
        RESAMPLE.threads,
        [plan.windows, plan.tables, inner, np.ascontiguousarray(values), output[MARGIN:]],
        shared_bytes=SHARED_BYTES,
        seed=seed + 1,
    )
    for array, length, mark in ((scratch, plan.scratch_pixels, 0xDEADBEEF), (output, size, blank)):
        assert (array[:MARGIN] == mark).all()
        assert (array[MARGIN + length :] == mark).all()
    return output[MARGIN : MARGIN + size].reshape(plan.output_shape)


def best_on_host(
    kernels: HostKernels,
    rows: NDArray[np.float16] | NDArray[np.int8],
    queries: NDArray[np.float32] | NDArray[np.int8],
    k: int,
    *,
    scales: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    passing: NDArray[np.bool_] | None = None,
    rows_per_block: int = 400,
    base: int = 0,
    seed: int = 0,
) -> Ranking:
    """Both passes; ``scales`` of rows and queries for int8."""
    count, dim = rows.shape
    capacity = topk_capacity(k)
    grid = topk_blocks(count, rows_per_block, len(queries))
    partial = np.full((grid[0], len(queries), k), 0xDEADBEEF, np.uint64)
    mask = None if passing is None else passing.astype(np.uint8)
    sizes = [np.int64(count), np.int32(dim)]
    numbers = [np.int32(len(queries)), np.int32(k), np.int32(capacity), np.int64(rows_per_block)]
    if scales is None:
        name, arguments = "f16", [rows, mask, *sizes, queries, *numbers, partial]
    else:
        name, arguments = "i8", [rows, scales[0], mask, *sizes, queries, scales[1], *numbers, partial]
    shared = topk_shared_bytes(capacity, "f16" if scales is None else "i8")
    kernels.launch(f"topk_{name}", grid, TOPK.threads, arguments, shared_bytes=shared, seed=seed)
    found = np.full((len(queries), k), -7, np.int64), np.full((len(queries), k), 7, np.float32)
    merged = [partial, np.int32(grid[0]), *numbers[:3], np.int64(base), *found]
    shared = topk_merge_shared_bytes(capacity)
    kernels.launch("topk_merge", (len(queries), 1, 1), TOPK.threads, merged, shared_bytes=shared, seed=seed)
    return found


def fused(
    kernels: HostKernels, grid: GridSpans, scores: NDArray[np.float32], *, seed: int = 0
) -> NDArray[np.float32]:
    """(T, rows, cols) float32."""
    starts, numbers = spans_by_tile(grid)
    texts = scores.shape[1]
    size = texts * grid.rows * grid.cols
    memory = np.full(size + 2 * MARGIN, np.float32(77))
    blocks = (-(-grid.cols // TILE_CELLS), -(-grid.rows // TILE_CELLS), -(-texts // 8))
    sizes = [np.int32(texts), np.int32(grid.rows), np.int32(grid.cols), np.float32(np.nan)]
    lists = [grid.spans, grid.factors, starts, numbers, np.ascontiguousarray(scores)]
    arguments = [*lists, *sizes, memory[MARGIN:]]
    kernels.launch("fuse_windows", blocks, (TILE_CELLS, TILE_CELLS, 1), arguments, seed=seed)
    assert (memory[:MARGIN] == 77).all()
    assert (memory[MARGIN + size :] == 77).all()
    return memory[MARGIN : MARGIN + size].reshape(texts, grid.rows, grid.cols)
