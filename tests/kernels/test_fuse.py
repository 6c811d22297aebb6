"""The fusion kernel on the host against the NumPy twin."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_host import HostKernels
from kernel_launches import fused

from lrsclip_rt.localization.fusion import fusion_grid_shape
from lrsclip_rt.localization.hann import hann_means, spans_on_grid
from lrsclip_rt.localization.windows import selo_windows
from lrsclip_rt.tiles import Window


@pytest.mark.parametrize(
    ("height", "width", "texts"), [(1000, 1301, 3), (257, 1001, 8), (40, 30, 1), (700, 600, 17)]
)
def test_protocol_windows_fuse_as_in_numpy(
    fuse_kernels: HostKernels, height: int, width: int, texts: int
) -> None:
    rows, cols = fusion_grid_shape(height, width)
    windows = selo_windows(height, width)
    grid = spans_on_grid(windows, height=height, width=width, rows=rows, cols=cols)
    scores = np.random.default_rng(height).normal(0.2, 0.1, (len(windows), texts)).astype(np.float32)
    found = fused(fuse_kernels, grid, scores)
    np.testing.assert_allclose(found, hann_means(grid, scores), rtol=0, atol=1e-6)


def test_random_windows_fuse_as_in_numpy_and_holes_are_missing(fuse_kernels: HostKernels) -> None:
    rng = np.random.default_rng(2)
    for number in range(40):
        height, width, rows, cols = (int(side) for side in rng.integers(1, 120, 4))
        windows = []
        for _ in range(int(rng.integers(1, 30))):
            size = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
            top, left = int(rng.integers(height - size[0] + 1)), int(rng.integers(width - size[1] + 1))
            windows.append(Window(left, top, size[1], size[0]))
        grid = spans_on_grid(windows, height=height, width=width, rows=rows, cols=cols)
        scores = rng.uniform(-1, 1, (len(windows), int(rng.integers(1, 12)))).astype(np.float32)
        expected = hann_means(grid, scores)
        found = fused(fuse_kernels, grid, scores, seed=number)
        assert (np.isnan(found) == np.isnan(expected)).all()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_result_does_not_depend_on_the_schedule(fuse_kernels: HostKernels) -> None:
    windows = selo_windows(900, 800)
    grid = spans_on_grid(windows, height=900, width=800, rows=60, cols=50)
    scores = np.random.default_rng(3).normal(size=(len(windows), 9)).astype(np.float32)
    first = fused(fuse_kernels, grid, scores)
    for seed in range(1, 6):
        assert (fused(fuse_kernels, grid, scores, seed=seed).view(np.uint32) == first.view(np.uint32)).all()
