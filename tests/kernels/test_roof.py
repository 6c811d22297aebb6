"""The kernel that benchmarks hold others against does the multiply-adds that are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from kernel_host import kernels_from_source

from lrsclip_kernels import ROOF, SOURCES


def test_every_multiply_add_is_done(tmp_path: Path) -> None:
    kernels = kernels_from_source(ROOF, tmp_path)
    rounds, factor = 9, 0x1E3779B1
    sums = np.full(2 * ROOF.threads, 7, np.uint32)
    kernels.launch("multiply_adds", (2, 1, 1), ROOF.threads, [np.int32(rounds), np.uint32(factor), sums])
    threads = np.arange(ROOF.threads, dtype=np.uint64)[:, None]
    totals = threads + np.arange(8, dtype=np.uint64)
    for number in range(rounds):
        totals = (totals * np.uint64(factor) + np.uint64(number)) & np.uint64(0xFFFFFFFF)
    expected = np.bitwise_xor.reduce(totals, axis=1)
    assert (sums.reshape(2, -1) == expected).all()


def test_it_is_of_no_product() -> None:
    assert ROOF not in SOURCES
