"""One training image and all that is said of it, as caches and made images keep it.

Free of torch: the processes that load images import it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Sample", "View"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of the training data and its texts.

    Attributes:
        key: Unique name.
        source: ``real``, ``tile``, ``scene`` or ``mosaic``.
        category: Class name, or empty.
        shorts: Distinct short captions.
        long: Long text, or empty.
        wrong: Long texts with one detail changed, each untrue of the image.
        rows: First row and number of rows in the cache, one row a view.
    """

    key: str
    source: str
    category: str
    shorts: tuple[str, ...]
    long: str
    wrong: tuple[str, ...] = ()
    rows: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Views of one sample, each an (S, S) RGB image."""

    sample: Sample
    images: tuple[Image.Image, ...]
