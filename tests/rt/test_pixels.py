"""The preprocessing equals torchvision's on Pillow images, and the NumPy twin equals Pillow, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.errors import ImageError, InputError
from lrsclip_rt.images import rgb_from_source
from lrsclip_rt.pixels import (
    CLIP_MEAN,
    CLIP_STD,
    PixelSpec,
    pixels_from_array,
    pixels_from_image,
    resized_size,
)
from lrsclip_rt.resampling import resample_table, resized_window, vertical_first

SPEC = PixelSpec(224)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")


@pytest.fixture(scope="module")
def transforms() -> Any:
    imports = pytest.importorskip("lrsclip_train.open_clip_import", reason="needs the training package")
    try:
        imports.import_open_clip()
    except ImportError as error:
        pytest.skip(str(error))
    from torchvision import transforms

    return transforms


def torchvision_pixels(transforms: Any, image: Image.Image, spec: PixelSpec) -> NDArray[np.float32]:
    steps = [
        transforms.Resize(spec.size, transforms.InterpolationMode.BICUBIC, antialias=True),
        transforms.CenterCrop(spec.size),
        transforms.ToTensor(),
        transforms.Normalize(spec.mean, spec.std),
    ]
    pixels: NDArray[np.float32] = transforms.Compose(steps)(image).numpy()
    return pixels


def random_case(rng: np.random.Generator, largest_output: int) -> tuple[Image.Image, PixelSpec]:
    """A random size (small, ordinary, thin, or up to 5000 x 300), mode, content and model.

    torchvision resizes the whole image before the crop; outputs above ``largest_output`` only cost it time.
    """
    size = int(rng.choice([32, 96, 224, 224, 336]))
    while True:
        kind = rng.integers(5)
        if kind == 0:
            height, width = (int(side) for side in rng.integers(1, 40, 2))
        elif kind == 1:
            height, width = (int(side) for side in rng.integers(1, 700, 2))
        elif kind == 2:
            height, width = int(rng.integers(1, 12)), int(rng.integers(1, 900))
        elif kind == 3:
            height, width = int(rng.integers(60, 301)), int(rng.integers(300, 5001))
        else:
            height, width = size, size + int(rng.integers(0, 4))
        if rng.integers(2):
            height, width = width, height
        new_height, new_width = resized_size(height, width, size)
        if new_height * new_width <= largest_output:
            break
    mode = str(rng.choice(MODES))
    image = Image.new(mode, (width, height))
    samples = np.asarray(Image.new(mode if mode != "1" else "L", (1, 1)))
    noise = rng.integers(0, 256, (height, width, *samples.shape[2:]), dtype=np.uint8)
    if rng.integers(2):  # saturated edges make the bicubic overshoot, which has to be clipped alike
        noise = np.where(noise > 127, 255, 0).astype(np.uint8)
    image = Image.frombytes(mode if mode != "1" else "L", image.size, noise.tobytes())
    if mode in ("P", "PA"):
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    mean, std = (CLIP_MEAN, CLIP_STD) if rng.integers(2) else ((0.5, 0.4, 0.3), (0.5, 0.25, 0.3))
    return image.convert("1") if mode == "1" else image, PixelSpec(size, mean, std)


def differing_values(transforms: Any, image: Image.Image, spec: PixelSpec) -> int:
    expected = torchvision_pixels(transforms, image.convert("RGB"), spec)
    upright = rgb_from_source(image)
    pixels = pixels_from_image(upright, spec)
    assert pixels.shape == expected.shape
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    from_array = pixels_from_array(np.asarray(upright), spec)
    return int((pixels != expected).sum() + (from_array != expected).sum())


def test_200_random_sizes_and_modes_equal_torchvision(transforms: Any) -> None:
    rng = np.random.default_rng(11)
    for number in range(200):
        image, spec = random_case(rng, 5_000_000)
        found = f"case {number}: {image.mode} {image.size} to {spec.size}"
        assert differing_values(transforms, image, spec) == 0, found


@pytest.mark.slow
def test_2000_random_sizes_and_modes_equal_torchvision(transforms: Any) -> None:
    rng = np.random.default_rng(12)
    assert sum(differing_values(transforms, *random_case(rng, 40_000_000)) for _ in range(2000)) == 0


@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (1, 2),
        (2, 1),
        (3, 700),
        (700, 3),
        (5000, 300),
        (300, 5000),
        (223, 224),
        (225, 224),
        (224, 224),
    ],
    ids=str,
)
def test_the_extreme_sizes_equal_torchvision(transforms: Any, size: tuple[int, int]) -> None:
    samples = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert differing_values(transforms, Image.fromarray(samples), SPEC) == 0


@pytest.mark.parametrize(("height", "width"), [(8, 11), (8, 13), (11, 8), (13, 8), (9, 8), (8, 8)])
def test_the_crop_is_centred_and_halves_round_to_even(height: int, width: int) -> None:
    samples = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = pixels_from_array(samples, PixelSpec(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    offset = {0: 0, 1: 0, 3: 2, 5: 2}  # of 0.5, 1.5 and 2.5
    top, left = offset[height - 8], offset[width - 8]
    expected = samples[top : top + 8, left : left + 8].astype(np.float32) / np.float32(255)
    assert (pixels == expected.transpose(2, 0, 1)).all()


def test_the_longer_side_is_rounded_down() -> None:
    assert resized_size(9, 13, 224) == (224, 323)  # 323.56
    assert resized_size(13, 9, 224) == (323, 224)
    assert resized_size(7, 7, 224) == (224, 224)
    assert resized_size(1, 3, 224) == (224, 672)


def test_one_colour_stays_one_colour_and_is_normalised_in_float32() -> None:
    colour = (200, 100, 7)
    pixels = pixels_from_image(Image.new("RGB", (37, 91), colour), SPEC)
    for channel, value in enumerate(colour):
        shifted = np.float32(value) / np.float32(255) - np.float32(CLIP_MEAN[channel])
        assert (pixels[channel] == shifted / np.float32(CLIP_STD[channel])).all()


def test_every_sample_value_is_normalised_like_torchvision(transforms: Any) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    samples = np.stack([ramp, ramp.T, ramp[::-1]], axis=2)
    expected = torchvision_pixels(transforms, Image.fromarray(samples), PixelSpec(16))
    assert (pixels_from_array(samples, PixelSpec(16)) == expected).all()


@pytest.mark.parametrize("size", [(200_000, 1), (1, 200_000), (90_000, 40)], ids=str)
def test_a_very_long_image_costs_no_more_memory_than_its_crop(size: tuple[int, int]) -> None:
    # The whole resized image would take up to 40 GB.
    image = Image.new("RGB", size, (10, 20, 30))
    pixels = pixels_from_image(image, SPEC)
    assert pixels.shape == (3, 224, 224)
    assert (pixels == pixels[:, :1, :1]).all()


def test_a_strided_array_is_as_good_as_a_plain_one() -> None:
    samples = np.random.default_rng(3).integers(0, 256, (60, 80, 4), dtype=np.uint8)
    view = samples[::-1, ::2, :3]
    assert (pixels_from_array(view, SPEC) == pixels_from_array(view.copy(), SPEC)).all()


def test_the_input_is_left_as_it_was() -> None:
    samples = np.random.default_rng(4).integers(0, 256, (30, 300, 3), dtype=np.uint8)
    before = samples.copy()
    image = Image.fromarray(samples)
    pixels_from_array(samples, SPEC)
    pixels_from_image(image, SPEC)
    assert (samples == before).all()
    assert (np.asarray(image) == before).all()


SIDES = st.integers(1, 90)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(SIDES, SIDES, SIDES, SIDES, st.randoms(use_true_random=False))
def test_the_numpy_twin_equals_pillow(height: int, width: int, rows: int, cols: int, random: Any) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    samples = rng.choice(np.array([0, 1, 128, 254, 255], np.uint8), (height, width, 3))
    whole = np.asarray(Image.fromarray(samples).resize((cols, rows), Image.Resampling.BICUBIC))
    top, left = int(rng.integers(rows)), int(rng.integers(cols))
    bottom, right = int(rng.integers(top, rows)) + 1, int(rng.integers(left, cols)) + 1
    window = resized_window(
        samples, rows, cols, row_off=top, col_off=left, rows=bottom - top, cols=right - left
    )
    assert (window == whole[top:bottom, left:right]).all()


@pytest.mark.parametrize("major", [12, 13])
def test_the_twin_follows_the_pass_order_of_each_pillow(major: int) -> None:
    samples = np.random.default_rng(5).integers(0, 256, (400, 90, 3), dtype=np.uint8)
    image = Image.fromarray(samples)
    # One pass at a time leaves Pillow no choice.
    between = (90, 133) if major == 13 else (30, 400)
    expected = np.asarray(
        image.resize(between, Image.Resampling.BICUBIC).resize((30, 133), Image.Resampling.BICUBIC)
    )
    window = resized_window(samples, 133, 30, row_off=0, col_off=0, rows=133, cols=30, pillow_major=major)
    assert (window == expected).all()
    assert vertical_first(400, 90, 133, 30, pillow_major=major) == (major == 13)


def test_only_high_images_that_shrink_are_resampled_vertically_first() -> None:
    sizes = [(400, 90, 133, 30), (180, 90, 60, 30), (181, 90, 60, 30), (90, 400, 30, 133), (20, 5, 40, 10)]
    assert [vertical_first(*size, pillow_major=13) for size in sizes] == [True, False, True, False, False]
    assert not any(vertical_first(*size, pillow_major=12) for size in sizes)


@pytest.mark.parametrize(("length", "out"), [(1, 224), (5000, 224), (224, 224), (7, 3), (90_000, 17)])
def test_the_weights_of_an_output_sample_sum_to_one(length: int, out: int) -> None:
    table = resample_table(length, out)
    assert np.abs(table.weights.sum(axis=1, dtype=np.int64) - (1 << 22)).max() <= table.weights.shape[1]
    assert table.first.min() >= 0
    part = resample_table(length, out, 2, 3)
    taps = part.weights.shape[1]
    assert part.first[0] == table.first[2]
    assert (part.weights[0] == table.weights[2, :taps]).all()


def test_an_image_that_is_not_rgb_is_refused() -> None:
    with pytest.raises(ImageError, match="has mode L, expected RGB; pass it through rgb_from_source"):
        pixels_from_image(Image.new("L", (5, 5)), SPEC)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)],
    ids=["grey", "four bands", "float"],
)
def test_an_array_that_is_not_rgb_is_refused(array: Any) -> None:
    with pytest.raises(ImageError, match="expected"):
        pixels_from_array(array, SPEC)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3)], ids=str)
def test_an_array_without_pixels_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ImageError, match="at least 1 x 1"):
        pixels_from_array(np.zeros(shape, np.uint8), SPEC)


@pytest.mark.parametrize(
    ("size", "mean", "std"),
    [
        (0, CLIP_MEAN, CLIP_STD),
        (224, (0.5, 0.5), CLIP_STD),
        (224, CLIP_MEAN, (0.5, 0.0, 0.5)),
        (224, CLIP_MEAN, (0.5, 1e-60, 0.5)),
        (224, (float("nan"), 0.5, 0.5), CLIP_STD),
    ],
)
def test_an_unusable_spec_is_refused(size: int, mean: Any, std: Any) -> None:
    with pytest.raises(InputError, match="must be"):
        PixelSpec(size, mean, std)
