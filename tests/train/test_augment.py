"""Augmentation: each switch, what upright keeps, and the choices that cached features rest on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from lrsclip_rt.errors import InputError
from lrsclip_rt.pixels import PixelSpec, cropped_from_image, pixels_from_image
from lrsclip_train.augment import ORIENTATION_WORDS, Augmentation, augment, orientation_bound


def picture(height: int = 60, width: int = 80, seed: int = 0) -> Image.Image:
    """Smooth, coloured and like none of its turns and mirrors."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (5, 7, 3)).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def samples(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def eight_orientations(array: np.ndarray) -> list[np.ndarray]:
    return [np.rot90(side, k) for side in (array, array[:, ::-1]) for k in range(4)]


def first_augment(image: Image.Image, rng: np.random.Generator, size: int, smallest: float) -> Image.Image:
    """The choices and their order that caches of augmented features were made with."""
    area = image.width * image.height * rng.uniform(smallest, 1.0)
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    width, height = min(image.width, math.sqrt(area * aspect)), min(image.height, math.sqrt(area / aspect))
    left, top = rng.uniform(0.0, image.width - width), rng.uniform(0.0, image.height - height)
    box = (left, top, left + width, top + height)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    turns = int(rng.integers(4))
    image = Image.fromarray(np.rot90(np.asarray(image), turns))
    if rng.random() < 0.5:
        image = Image.fromarray(np.asarray(image)[:, ::-1])
    for kind, spread in (("Brightness", 0.15), ("Contrast", 0.15), ("Color", 0.2)):
        image = getattr(ImageEnhance, kind)(image).enhance(float(np.exp(rng.normal(0.0, spread))))
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2))))
    return image


def test_augment_makes_the_choices_it_always_made() -> None:
    for seed in range(60):
        image = picture(40 + seed, 90 - seed, seed)
        for smallest in (0.5, 0.2):
            rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
            made = augment(image, rng, size=32, smallest_area=smallest)
            assert np.array_equal(samples(made), samples(first_augment(image, other, 32, smallest)))
            assert rng.random() == other.random()


def test_plain_is_what_the_runtime_sees_and_draws_nothing() -> None:
    rng = np.random.default_rng(7)
    for height, width in ((60, 80), (32, 32), (90, 31)):
        image = picture(height, width)
        made = Augmentation.plain().apply(image, rng, 32)
        assert np.array_equal(np.asarray(made), cropped_from_image(image, 32))
    assert rng.random() == np.random.default_rng(7).random()


def test_a_very_long_image_is_cut_as_in_the_runtime_without_resizing_it_whole() -> None:
    image = picture(3, 20_000)
    seen = pixels_from_image(image, PixelSpec(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    made = np.asarray(Augmentation.plain().apply(image, np.random.default_rng(0), 32))
    assert np.array_equal(np.rint(seen * 255).astype(np.uint8), made.transpose(2, 0, 1))


def test_a_crop_of_everything_is_a_resize_and_a_smaller_one_magnifies() -> None:
    image = picture(64, 64)
    whole = Augmentation(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0)).apply(
        image, np.random.default_rng(0), 32
    )
    assert np.array_equal(samples(whole), samples(image.resize((32, 32), Image.Resampling.BICUBIC)))
    ramp = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2))
    for seed in range(40):
        quarter = Augmentation(crop_area=(0.25, 0.25), crop_aspect=(1.0, 1.0))
        made = samples(quarter.apply(ramp, np.random.default_rng(seed), 64))
        assert abs((made.max() - made.min()) - 127) <= 4  # half of each side


def test_turns_and_mirrors_reach_all_eight_orientations_and_nothing_else() -> None:
    image = picture(32, 32)
    eight = eight_orientations(samples(image))
    reached = set()
    for seed in range(80):
        made = samples(Augmentation(turns=True, mirror=0.5).apply(image, np.random.default_rng(seed), 32))
        (which,) = [i for i, array in enumerate(eight) if np.array_equal(array, made)]
        reached.add(which)
    assert reached == set(range(8))
    for option, expected in (("mirror", samples(image)[:, ::-1]), ("flip", samples(image)[::-1])):
        made = Augmentation(**{option: 1.0}).apply(image, np.random.default_rng(0), 32)
        assert np.array_equal(samples(made), expected)


def test_upright_leaves_the_orientation_alone_and_changes_no_other_choice() -> None:
    options = Augmentation(
        crop_area=(0.3, 1.0), turns=True, mirror=0.5, flip=0.3, brightness=0.4, saturation=0.4
    )
    turned = 0
    for seed in range(30):
        upright = options.apply(picture(), np.random.default_rng(seed), 32, upright=True)
        free = samples(options.apply(picture(), np.random.default_rng(seed), 32))
        assert any(np.array_equal(free, array) for array in eight_orientations(samples(upright)))
        turned += not np.array_equal(free, samples(upright))
        fixed = Augmentation(crop_area=(0.3, 1.0)).apply(picture(), np.random.default_rng(seed), 32)
        # Recoloured, but with the same ground in the same place.
        a, b = samples(upright).mean(2).ravel(), samples(fixed).mean(2).ravel()
        assert np.corrcoef(a, b)[0, 1] > 0.9
    assert turned > 15


def test_zooming_out_shrinks_the_picture_and_pads_it_as_asked() -> None:
    image = Image.new("RGB", (64, 64), (200, 100, 50))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        black = samples(Augmentation(zoom_out=1.0, zoom_out_padding="none").apply(image, rng, 64))
        rows, cols = (np.flatnonzero(black.sum(axis=(2, axis)) > 0) for axis in (1, 0))
        inner = len(rows)
        assert 32 <= inner <= 64
        assert len(cols) == inner
        assert (black[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] == (200, 100, 50)).all()
        assert black.sum() == inner * inner * 350
        mirrored = Augmentation(zoom_out=1.0).apply(image, np.random.default_rng(seed), 64)
        assert (samples(mirrored) == (200, 100, 50)).all()
    assert samples(Augmentation(zoom_out=1.0, zoom_out_most=16).apply(image, rng, 1)).shape == (1, 1, 3)


def test_colours_blur_and_compression_change_what_they_should() -> None:
    image = picture(32, 32)
    before = samples(image)
    grey = before.mean()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        brighter = samples(Augmentation(brightness=0.5).apply(image, rng, 32))
        factor = brighter.sum() / before.sum()
        assert np.abs(brighter - np.minimum(before * factor, 255)).max() < 0.2 * 255
        flat = samples(Augmentation(contrast=0.5).apply(image, rng, 32))
        assert abs(flat.mean() - grey) < 12
        blurred = samples(Augmentation(blur=1.0).apply(image, rng, 32))
        assert np.abs(np.diff(blurred, axis=1)).sum() < np.abs(np.diff(before, axis=1)).sum()
    poor = Augmentation(jpeg=1.0, jpeg_quality=(5, 5)).apply(image, rng, 32)
    good = Augmentation(jpeg=1.0, jpeg_quality=(95, 95)).apply(image, rng, 32)
    assert 0 < np.abs(samples(good) - before).mean() < np.abs(samples(poor) - before).mean() < 40
    shade = Image.new("RGB", (8, 8), (90, 90, 90))
    assert np.array_equal(samples(Augmentation(saturation=2.0).apply(shade, rng, 8)), samples(shade))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mirror": 1.5}, "mirror must be a chance"),
        ({"blur": float("nan")}, "blur must be a chance"),
        ({"contrast": -0.1}, "contrast must be a spread"),
        ({"crop_area": (0.0, 1.0)}, "crop_area must be two rising numbers"),
        ({"crop_area": (0.9, 0.5)}, "crop_area must be two rising numbers"),
        ({"crop_aspect": (0.5,)}, "crop_aspect must be two"),
        ({"jpeg_quality": (0, 50)}, "jpeg_quality must be two"),
        ({"zoom_out_most": 0.5}, "zoom_out_most must be a factor"),
        ({"zoom_out_padding": "wrap"}, "must be one of reflect, none"),
    ],
)
def test_options_outside_their_bounds_are_refused(options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmentation(**options)


def test_captions_that_say_where_something_lies_are_recognised() -> None:
    bound = [f"a pond {word} of it" for word in ORIENTATION_WORDS]
    bound += [f"the {word} bank" for word in ("north", "south", "east", "west", "North-West", "southeastern")]
    bound += ["In the upper-left corner, a farm.", "top_right", "westward.", "the northernmost", "eastbound"]
    assert [text for text in bound if not orientation_bound(text)] == []
    free = [
        "a bright road",
        "stop signs",
        "the laptop",
        "alright",
        "restaurant",
        "a beast",
        "a yeast",
        "",
        "flower",
    ]
    free += ["many green trees are in a piece of forest .", "followers", "a topography", "the westwing"]
    assert [text for text in free if orientation_bound(text)] == []
    assert Augmentation.overhead().reorients
    assert not Augmentation.clip().reorients
