"""What runs on a GPU, on one: kernels against their twins, and a model against the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lrsclip_rt.backends import BACKENDS, why_not
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import DependencyError

pytestmark = pytest.mark.gpu


def test_images_are_resized_to_the_bytes_of_the_reference(machine: Any) -> None:
    from benchmarks.gpu.checks import check_resampling

    assert [row["differing"] for row in check_resampling(machine, images=300, largest=700)] == [0, 0]


def test_resident_rows_are_searched_exactly(machine: Any) -> None:
    from benchmarks.gpu.checks import check_search

    assert [row["differing"] for row in check_search(machine, count=20_000, dim=512, k=100)] == [0, 0, 0]


def test_maps_are_fused_within_a_millionth(machine: Any) -> None:
    from benchmarks.gpu.checks import check_fusion

    assert [row["differing"] for row in check_fusion(machine, side=2500, texts=9)] == [0]


def test_onnxruntime_answers_there_as_on_the_cpu(machine: Any) -> None:
    refused = why_not(BACKENDS["onnxruntime-cuda"])
    if isinstance(refused, DependencyError):
        pytest.skip(str(refused))
    assert refused is None
    images = [np.random.default_rng(n).integers(0, 256, (90 + n, 120, 3), dtype=np.uint8) for n in range(5)]
    on_gpu = load(backend="onnxruntime", precision="fp32", device="cuda")
    found = on_gpu.embed_images(images), on_gpu.embed_texts(["a harbour", "a forest beside a lake"])
    plain = load(backend="onnxruntime", precision="fp32", device="cpu")
    expected = plain.embed_images(images), plain.embed_texts(["a harbour", "a forest beside a lake"])
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine * theirs).sum(axis=1).min() > 0.9999
