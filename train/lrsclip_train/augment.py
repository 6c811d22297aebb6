"""Image augmentation: what CLIP does, and what overhead imagery allows besides."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

__all__ = ["augment"]


def augment(
    image: Image.Image, rng: np.random.Generator, *, size: int, smallest_area: float = 0.5
) -> Image.Image:
    """Crop, turn, mirror and recolour an RGB image.

    There is no up in a picture taken from above, so all eight turns and mirrors are as likely.

    Args:
        image: RGB image of any size.
        rng: Source of all choices.
        size: Output edge [px].
        smallest_area: Least share of the image's area that the crop keeps.

    Returns:
        (size, size) RGB image.
    """
    box = _crop_box(image.width, image.height, rng, smallest_area)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    turns = int(rng.integers(4))
    if turns:
        image = image.transpose(Image.Transpose(Image.Transpose.ROTATE_90 + turns - 1))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhancer, spread in (
        (ImageEnhance.Brightness, 0.3),
        (ImageEnhance.Contrast, 0.3),
        (ImageEnhance.Color, 0.4),
    ):
        image = enhancer(image).enhance(float(np.exp(rng.normal(0.0, spread / 2))))
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2))))
    return image


def _crop_box(
    width: int, height: int, rng: np.random.Generator, smallest: float
) -> tuple[float, float, float, float]:
    area = width * height * rng.uniform(smallest, 1.0)
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    crop_width = min(width, math.sqrt(area * aspect))
    crop_height = min(height, math.sqrt(area / aspect))
    left = rng.uniform(0.0, width - crop_width)
    top = rng.uniform(0.0, height - crop_height)
    return left, top, left + crop_width, top + crop_height
