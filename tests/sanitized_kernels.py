"""A small sample of every kernel, for libraries that were built with sanitizers.

``python sanitized_kernels.py FOLDER`` loads ``resample.so``, ``topk.so`` and ``fuse.so`` from there. It runs
in a process of its own, because the sanitizers' runtime has to be loaded first and ends the process at its
first report.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from kernel_host import HostKernels
from kernel_launches import best_on_host, fused
from resample_cases import count_differing

from lrsclip_rt.localization.hann import hann_means, spans_on_grid
from lrsclip_rt.localization.windows import selo_windows


def main(folder: Path) -> None:
    assert count_differing(HostKernels(folder / "resample.so"), 30, 5) == 0

    rng = np.random.default_rng(6)
    topk = HostKernels(folder / "topk.so")
    for count, dim, queries, k in ((1, 8, 1, 1), (700, 72, 5, 260)):
        values = rng.integers(-3, 4, (count + queries, dim))
        rows, asked = values[:count], values[count:]
        expected = np.lexsort((np.tile(np.arange(count), (queries, 1)), -(asked @ rows.T)))[:, :k]
        ones = np.ones(count, np.float32), np.ones(queries, np.float32)
        half = best_on_host(topk, rows.astype(np.float16), asked.astype(np.float32), k)[0]
        whole = best_on_host(topk, rows.astype(np.int8), asked.astype(np.int8), k, scales=ones)[0]
        assert (half[:, :count] == expected).all()
        assert (whole[:, :count] == expected).all()

    windows = selo_windows(500, 420)
    grid = spans_on_grid(windows, height=500, width=420, rows=61, cols=53)
    scores = rng.uniform(-1, 1, (len(windows), 9)).astype(np.float32)
    found = fused(HostKernels(folder / "fuse.so"), grid, scores)
    np.testing.assert_allclose(found, hann_means(grid, scores), rtol=0, atol=1e-6)
    print("clean")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
