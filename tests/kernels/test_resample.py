"""The resample kernels on the host: Pillow's bytes, the reference's normalised values, any schedule."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from kernel_host import HostKernels, KernelError, compile_for_host, skip_a_barrier
from kernel_launches import resampled
from resample_cases import Case, case_from_pixels, count_differing, differing_bytes, random_batch

from lrsclip_kernels import RESAMPLE
from lrsclip_rt.pixels import PixelSpec, pixels_from_array
from lrsclip_rt.resample_plan import (
    BufferWindow,
    PixelBuffer,
    Resize,
    plan_windows,
    square_resize,
    values_from_spec,
)
from lrsclip_rt.resampling import resized_window, vertical_first
from lrsclip_rt.tiles import Window


def plain_case(height: int, width: int, size: int, *, seed: int = 0) -> Case:
    """A whole RGB image under the model's own rule."""
    samples = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = PixelBuffer(samples.ctypes.data, height, width, 3 * width, 3, (0, 1, 2))
    item = BufferWindow(buffer, Window(0, 0, width, height), square_resize(height, width, size))
    return Case(item, (samples,), samples)


def test_300_random_windows_equal_pillow(resample_kernels: HostKernels) -> None:
    assert count_differing(resample_kernels, 300, 1) == 0


@pytest.mark.slow
def test_10000_random_windows_equal_pillow(resample_kernels: HostKernels) -> None:
    assert count_differing(resample_kernels, 10_000, 2) == 0


@pytest.mark.parametrize(
    "size", [(768, 512), (1, 1), (1, 300), (300, 1), (2000, 9), (224, 224), (150, 150)], ids=str
)
def test_sizes_of_the_model_equal_pillow(resample_kernels: HostKernels, size: tuple[int, int]) -> None:
    edge = 32 if max(size) > 8 * min(size) else 224  # Pillow resizes the whole of a long image
    assert differing_bytes(resample_kernels, [plain_case(*size, edge)]) == 0


@pytest.mark.parametrize("major", [12, 13])
@pytest.mark.parametrize("size", [(400, 90), (90, 400)], ids=str)
def test_the_order_of_the_passes_follows_each_pillow(
    resample_kernels: HostKernels, size: tuple[int, int], major: int
) -> None:
    case = plain_case(*size, 32)
    resize = case.item.resize
    assert vertical_first(*size, resize.height, resize.width, pillow_major=major) == (
        size[0] == 400 and major == 13
    )
    found = resampled(resample_kernels, plan_windows([case.item], pillow_major=major))
    expected = resized_window(
        case.rectangle,
        resize.height,
        resize.width,
        row_off=resize.row_off,
        col_off=resize.col_off,
        rows=32,
        cols=32,
        pillow_major=major,
    )
    assert (found[0].transpose(1, 2, 0) == expected).all()


def test_a_long_image_costs_what_its_crop_costs() -> None:
    # Pillow would make 224 x 2,240,000 px of it.
    buffer = PixelBuffer(1, 40, 400_000, 1_200_000, 3, (0, 1, 2))
    item = BufferWindow(buffer, Window(0, 0, 400_000, 40), square_resize(40, 400_000, 224))
    plan = plan_windows([item])
    assert plan.scratch_pixels == 40 * 224
    assert plan.first_grid == (1, 7, 1)
    tall = BufferWindow(
        PixelBuffer(1, 400_000, 40, 120, 3, (0, 1, 2)),
        Window(0, 0, 40, 400_000),
        square_resize(400_000, 40, 224),
    )
    assert plan_windows([tall]).scratch_pixels < 50 * 224


def test_normalised_values_are_those_of_the_reference_in_float32_and_rounded_in_float16(
    resample_kernels: HostKernels,
) -> None:
    spec = PixelSpec(48)
    cases = [plain_case(70, 90, 48, seed=1), plain_case(48, 48, 48, seed=2), plain_case(31, 20, 48, seed=3)]
    expected = np.stack([pixels_from_array(case.rectangle, spec) for case in cases])
    plan = plan_windows([case.item for case in cases])
    single = resampled(resample_kernels, plan, values_from_spec(spec))
    assert single.dtype == np.float32
    assert (single.view(np.uint32) == expected.view(np.uint32)).all()
    half = resampled(resample_kernels, plan, values_from_spec(spec).astype(np.float16))
    assert (half.view(np.uint16) == expected.astype(np.float16).view(np.uint16)).all()


@pytest.mark.parametrize("sample_bytes", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_stretched_and_masked_pixels_are_resized_as_they_are_shown(
    resample_kernels: HostKernels, sample_bytes: int, masked: bool
) -> None:
    rng = np.random.default_rng(8)
    window, resize = (
        Window(5, 3, 70, 60),
        Resize(60, 70, 4, 9, 33, 47),
    )  # no axis changes: samples pass unmixed
    shrunk = Resize(40, 50, 1, 2, 33, 47)
    cases = [
        case_from_pixels(rng, (70, 80), window, wanted, sample_bytes=sample_bytes, masked=masked)
        for wanted in (resize, shrunk)
    ]
    assert differing_bytes(resample_kernels, cases) == 0
    plan = plan_windows([cases[0].item])
    shown = cases[0].rectangle[4:37, 9:56]
    assert (resampled(resample_kernels, plan)[0].transpose(1, 2, 0) == shown).all()


def test_every_schedule_gives_the_same_result(resample_kernels: HostKernels) -> None:
    cases = random_batch(np.random.default_rng(4), 4)
    assert [differing_bytes(resample_kernels, cases, seed=seed) for seed in range(0, 60, 2)] == [0] * 30


def test_every_barrier_is_needed(tmp_path: Path) -> None:
    copy, barriers = skip_a_barrier(RESAMPLE, tmp_path)
    kernels = HostKernels(compile_for_host(copy, RESAMPLE.kernels(), tmp_path, options=["-O1"]))
    case = plain_case(200, 300, 32)  # lines of more than one piece
    assert differing_bytes(kernels, [case]) == 0
    assert barriers == 2
    skipped = ctypes.c_int.in_dll(kernels.library, "skipped_barrier")
    for number in range(barriers):
        skipped.value = number
        with pytest.raises(KernelError, match=r"race: |never written"):
            differing_bytes(kernels, [case])
