"""Image augmentation: what CLIP does, and what overhead imagery allows besides.

There is no up in a picture taken from above, so all eight turns and mirrors are as likely, unless a caption
says where something lies: see :func:`orientation_bound`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from lrsclip_rt.errors import InputError
from lrsclip_rt.pixels import cropped_from_image, resized_size
from lrsclip_rt.resampling import resized_window

__all__ = ["ORIENTATION_WORDS", "Augmentation", "augment", "orientation_bound"]

ORIENTATION_WORDS = (
    *("left", "leftmost", "leftward", "leftwards", "right", "rightmost", "rightward", "rightwards"),
    *("upper", "uppermost", "lower", "lowermost", "lowest", "top", "topmost", "bottom", "bottommost"),
    *("above", "below", "beneath", "horizontal", "horizontally", "vertical", "vertically"),
    *("clockwise", "anticlockwise", "counterclockwise"),
)
"""Words that a turn or a mirror can make untrue, besides north, south, east, west and what is made of them.

``above`` and ``right`` have other meanings too; a picture that stays upright for nothing loses little, one
whose caption becomes false teaches what is wrong.
"""

_COMPASS = r"(?:north|south|(?:(?:north|south)-?)?(?:east|west))(?:ern|erly|ward|wards|ernmost|bound)?"
_ORIENTED = re.compile(rf"(?<![a-z])(?:{'|'.join(ORIENTATION_WORDS)}|{_COMPASS})(?![a-z])")
_PADDINGS = ("reflect", "none")
_SMALLEST_INNER = 8
_LONG_RATIO = 8


def orientation_bound(text: str) -> bool:
    """Say whether a caption tells where something lies in the picture.

    Example:
        >>> [orientation_bound(t) for t in ("the Upper-left pond", "a northeastern road", "a bright lake")]
        [True, True, False]
    """
    return _ORIENTED.search(text.lower()) is not None


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What may be done to an image, in this order; the default is nothing at all.

    Attributes:
        crop_area: Least and largest share of the image's area that a random crop keeps. None: no random crop
            but the runtime's resize and centre crop.
        crop_aspect: Smallest and largest width / height of the random crop, before it is resized to a square.
        zoom_out: Chance to shrink the picture inside its frame: the same ground from higher up.
        zoom_out_most: Largest factor of that, at least 1.
        zoom_out_padding: What surrounds the shrunken picture: ``reflect`` its mirror images, ``none`` nothing
            (black, as the collar of a scene).
        turns: Turn by 0, 90, 180 or 270 degrees, each as likely.
        mirror: Chance to swap left and right.
        flip: Chance to swap top and bottom.
        brightness: Spread of the logarithm of the factor (two standard deviations); 0 leaves it alone.
        contrast: Likewise.
        saturation: Likewise. Hue is never changed: water must not turn red.
        blur: Chance of a Gaussian blur.
        blur_radius: Its least and largest radius [px].
        jpeg: Chance to be compressed as JPEG once more.
        jpeg_quality: Its lowest and highest quality, 1 to 95.

    Raises:
        InputError: If a chance lies outside 0 to 1, a range is empty or a value is out of its bounds.
    """

    crop_area: tuple[float, float] | None = None
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    zoom_out: float = 0.0
    zoom_out_most: float = 2.0
    zoom_out_padding: str = "reflect"
    turns: bool = False
    mirror: float = 0.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    blur: float = 0.0
    blur_radius: tuple[float, float] = (0.3, 1.2)
    jpeg: float = 0.0
    jpeg_quality: tuple[int, int] = (40, 95)

    def __post_init__(self) -> None:
        for name in ("zoom_out", "mirror", "flip", "blur", "jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be a chance from 0 to 1, got {getattr(self, name)}")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 4:
                raise InputError(f"{name} must be a spread from 0 to 4, got {getattr(self, name)}")
        area = (1.0, 1.0) if self.crop_area is None else self.crop_area
        _check_range("crop_area", area, 0.0, 1.0, above=True)
        _check_range("crop_aspect", self.crop_aspect, 0.0, 100.0, above=True)
        _check_range("blur_radius", self.blur_radius, 0.0, 100.0)
        _check_range("jpeg_quality", self.jpeg_quality, 1, 95)
        if not 1 <= self.zoom_out_most <= 16:
            raise InputError(f"zoom_out_most must be a factor from 1 to 16, got {self.zoom_out_most}")
        if self.zoom_out_padding not in _PADDINGS:
            raise InputError(
                f"zoom_out_padding must be one of {', '.join(_PADDINGS)}, got {self.zoom_out_padding!r}"
            )

    @classmethod
    def plain(cls) -> Augmentation:
        """Nothing: what the runtime sees."""
        return cls()

    @classmethod
    def clip(cls, smallest_area: float = 0.9) -> Augmentation:
        """CLIP's own: a random crop that is resized, and nothing besides."""
        return cls(crop_area=(smallest_area, 1.0))

    @classmethod
    def overhead(cls, smallest_area: float = 0.5) -> Augmentation:
        """For pictures taken from above: the choices of :func:`augment`."""
        return cls(
            crop_area=(smallest_area, 1.0),
            turns=True,
            mirror=0.5,
            brightness=0.3,
            contrast=0.3,
            saturation=0.4,
            blur=0.15,
        )

    @property
    def reorients(self) -> bool:
        """Whether it may turn, mirror or flip."""
        return self.turns or self.mirror > 0 or self.flip > 0

    def apply(
        self, image: Image.Image, rng: np.random.Generator, size: int, *, upright: bool = False
    ) -> Image.Image:
        """Augment an image.

        Args:
            image: RGB image of any size.
            rng: Source of all choices. What is switched off draws nothing from it.
            size: Output edge [px].
            upright: Neither turn nor mirror nor flip; all other choices stay the same.

        Returns:
            (size, size) RGB image.
        """
        image = self._framed(image, rng, size)
        image = self._oriented(image, rng, upright)
        image = self._recoloured(image, rng)
        if self.blur and rng.random() < self.blur:
            image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(*self.blur_radius))))
        if self.jpeg and rng.random() < self.jpeg:
            low, high = self.jpeg_quality
            image = _recompressed(image, int(rng.integers(low, high + 1)))
        return image

    def _framed(self, image: Image.Image, rng: np.random.Generator, size: int) -> Image.Image:
        box = None
        if self.crop_area is not None:
            box = _crop_box(image.width, image.height, rng, self.crop_area, self.crop_aspect)
        if not self.zoom_out or rng.random() >= self.zoom_out:
            return _resized(image, box, size)
        inner = max(min(size, _SMALLEST_INNER), round(size / rng.uniform(1.0, self.zoom_out_most)))
        left, top = (int(rng.integers(size - inner + 1)) for _ in range(2))
        samples = np.asarray(_resized(image, box, inner))
        rest = size - inner
        borders = ((top, rest - top), (left, rest - left), (0, 0))
        mode: Any = "constant" if self.zoom_out_padding == "none" else "reflect"
        return Image.fromarray(np.pad(samples, borders, mode=mode))

    def _oriented(self, image: Image.Image, rng: np.random.Generator, upright: bool) -> Image.Image:
        turns = int(rng.integers(4)) if self.turns else 0
        # Drawn in any case, so that an upright image meets the same colours as it would otherwise.
        mirrored = bool(self.mirror) and rng.random() < self.mirror
        flipped = bool(self.flip) and rng.random() < self.flip
        if upright:
            return image
        if turns:
            image = image.transpose(Image.Transpose(Image.Transpose.ROTATE_90 + turns - 1))
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if flipped:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        return image

    def _recoloured(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for enhancer, spread in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):
            if spread:
                image = enhancer(image).enhance(float(np.exp(rng.normal(0.0, spread / 2))))
        return image


def augment(
    image: Image.Image, rng: np.random.Generator, *, size: int, smallest_area: float = 0.5
) -> Image.Image:
    """Crop, turn, mirror and recolour an RGB image: :meth:`Augmentation.overhead`.

    Caches of augmented features rest on its choices, so they stay what they are to the last bit.

    Args:
        image: RGB image of any size.
        rng: Source of all choices.
        size: Output edge [px].
        smallest_area: Least share of the image's area that the crop keeps.

    Returns:
        (size, size) RGB image.
    """
    return Augmentation.overhead(smallest_area).apply(image, rng, size)


def _crop_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    share: tuple[float, float],
    aspects: tuple[float, float],
) -> tuple[float, float, float, float]:
    area = width * height * rng.uniform(*share)
    aspect = math.exp(rng.uniform(math.log(aspects[0]), math.log(aspects[1])))
    crop_width = min(width, math.sqrt(area * aspect))
    crop_height = min(height, math.sqrt(area / aspect))
    left = rng.uniform(0.0, width - crop_width)
    top = rng.uniform(0.0, height - crop_height)
    return left, top, left + crop_width, top + crop_height


def _resized(image: Image.Image, box: tuple[float, float, float, float] | None, size: int) -> Image.Image:
    if box is not None:
        return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    if max(image.size) < _LONG_RATIO * min(image.size):
        return Image.fromarray(cropped_from_image(image, size))
    # Resized whole, a very long image would take gigabytes; only the window that the crop keeps is made.
    height, width = resized_size(image.height, image.width, size)
    row_off, col_off = round((height - size) / 2), round((width - size) / 2)
    window = resized_window(
        np.asarray(image), height, width, row_off=row_off, col_off=col_off, rows=size, cols=size
    )
    return Image.fromarray(window)


def _recompressed(image: Image.Image, quality: int) -> Image.Image:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream, formats=("JPEG",)).convert("RGB")


def _check_range(
    name: str, given: tuple[float, float], low: float, high: float, *, above: bool = False
) -> None:
    within = len(given) == 2 and low <= given[0] <= given[1] <= high and not (above and given[0] == low)
    if not within:
        raise InputError(f"{name} must be two rising numbers from {low} to {high}, got {given}")
