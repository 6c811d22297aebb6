"""Real images and texts on which 8-bit precisions find their ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.probe import PROBE_TEXTS
from lrsclip_rt.errors import ImageError, InputError

if TYPE_CHECKING:
    from lrsclip_rt.bundle import ModelSpec
    from lrsclip_rt.datasets import CaptionedImage, PairSet
    from lrsclip_rt.tokenizer import TokenBatch

__all__ = ["DEFAULT_IMAGES", "LEAST_IMAGES", "Calibration", "calibration_from_folder"]

DEFAULT_IMAGES = 256
LEAST_IMAGES = 64
"""With fewer, the largest activations of a deployment are not among those seen."""

# Of normalised pixels: about two of 255 grey levels.
_FLAT = 0.03

_PAIRS = "pairs.jsonl"
_LONG_TOKENS = 77
_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Images and texts as the graphs read them.

    Attributes:
        pixels: (n, 3, S, S) float32, normalised.
        texts: m encoded texts, short and long.
        failures: Images that could not be read, each with the reason.
        text_source: Where the texts come from, in words.
    """

    pixels: NDArray[np.float32]
    texts: TokenBatch
    failures: tuple[tuple[Path, ImageError], ...]
    text_source: str

    def notes(self) -> Mapping[str, Any]:
        """What a bundle records: counts alone, no names of files."""
        lengths = self.texts.eot + 1
        return {
            "images": len(self.pixels),
            "unreadable_images": len(self.failures),
            "texts": len(lengths),
            "longest_text_tokens": int(lengths.max()),
            "text_source": self.text_source,
        }


def calibration_from_folder(
    folder: Path | str, spec: ModelSpec, vocabulary: Path, *, count: int = DEFAULT_IMAGES, seed: int = 0
) -> Calibration:
    """Choose, decode and encode.

    The same folder and seed give the same choice. Unreadable images are passed over for the next ones.

    Args:
        folder: With ``pairs.jsonl`` (its ``train`` split where it has one, with its captions), or any
            folder of images, whose texts are then those of the built-in probe.
        spec: The model, for its preprocessing.
        vocabulary: The model's vocabulary file.
        count: Images to use; fewer where the folder holds fewer.
        seed: Of the choice.

    Raises:
        InputError: If the folder is none, fewer than :data:`LEAST_IMAGES` images of it are readable, or
            most of them show nothing.
    """
    from lrsclip_rt.tokenizer import Tokenizer

    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; expected {_PAIRS} with images, or a folder of images")
    if count < LEAST_IMAGES:
        raise InputError(f"{count} calibration images are too few, expected at least {LEAST_IMAGES}")
    rng = np.random.default_rng(seed)
    pairs = _pair_set(root) if (root / _PAIRS).is_file() else None
    paths = list(_paths(root, pairs))
    order = rng.permutation(len(paths))
    chosen, pixels, failures = _first_readable([paths[i] for i in order], spec, count)
    if len(chosen) < LEAST_IMAGES:
        shown = "; ".join(str(error) for _, error in failures[:3])
        raise InputError(
            f"{root} has {len(chosen)} readable images of {len(paths)}, expected at least {LEAST_IMAGES} for "
            f"a calibration. Give a folder with more" + (f" ({shown})" if shown else "")
        )
    flat = int((pixels.std(axis=(2, 3)).max(axis=1) < _FLAT).sum())
    if flat > len(pixels) // 2:
        raise InputError(
            f"{flat} of {len(pixels)} images of {root} are nearly one colour. Ranges found on them would cut "
            "real images off: give images as the model will see them"
        )
    if pairs is None:
        texts, origin = list(PROBE_TEXTS), "built-in texts: the folder has no captions"
    else:
        items = [pairs.items[order[i]] for i in chosen]
        texts, origin = _captions(items, rng), f"captions of {_PAIRS}"
    batch = Tokenizer(vocabulary).encode_batch(texts)
    if pairs is not None and int(batch.eot.max()) < _LONG_TOKENS:
        # A text tower is calibrated for long texts too, and their positions are seen nowhere else.
        batch = Tokenizer(vocabulary).encode_batch([*texts, *PROBE_TEXTS])
        origin += f", none beyond {_LONG_TOKENS} tokens: and built-in texts"
    return Calibration(pixels, batch, tuple(failures), origin)


def _pair_set(root: Path) -> PairSet:
    from lrsclip_rt.datasets import pair_set_from_folder

    pairs = pair_set_from_folder(root)
    has_train = any(item.split == "train" for item in pairs.items)
    return pair_set_from_folder(root, split="train") if has_train else pairs


def _paths(root: Path, pairs: PairSet | None) -> Iterator[Path]:
    if pairs is not None:
        yield from map(pairs.image_path, pairs.items)
        return
    from lrsclip_rt.images import iter_image_paths

    yield from iter_image_paths([root])


def _first_readable(
    paths: list[Path], spec: ModelSpec, count: int
) -> tuple[list[int], NDArray[np.float32], list[tuple[Path, ImageError]]]:
    """Places in ``paths`` and pixels of the first ``count`` readable images, and what failed before."""
    from lrsclip_rt.image_stream import stream_pixels

    chosen: list[int] = []
    pixels: list[NDArray[np.float32]] = []
    failures: list[tuple[Path, ImageError]] = []
    for batch in stream_pixels(enumerate(paths), spec.pixel_spec, batch_size=_BATCH):
        failures += [(paths[key], error) for key, error in batch.failures]
        needed = count - len(chosen)
        chosen += batch.keys[:needed]
        pixels.append(batch.pixels[:needed])
        if len(chosen) == count:
            break
    empty = np.empty((0, 3, spec.image_size, spec.image_size), np.float32)
    return chosen, np.concatenate(pixels) if pixels else empty, failures


def _captions(items: list[CaptionedImage], rng: np.random.Generator) -> list[str]:
    """One caption an image, by turns a short and a long one where it has both; distinct texts."""
    texts: list[str] = []
    for index, item in enumerate(items):
        long = item.long is not None and (index % 2 == 1 or not item.short)
        texts.append(str(item.long) if long else item.short[int(rng.integers(len(item.short)))])
    return list(dict.fromkeys(texts))
