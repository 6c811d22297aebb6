"""Decode and preprocess images ahead of the model, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.errors import ImageError

if TYPE_CHECKING:
    from lrsclip_rt.images import ImageSource
    from lrsclip_rt.pixels import PixelSpec

__all__ = ["DecodedBatch", "EmbeddedBatch", "PixelBatch", "stream_decoded", "stream_pixels"]

K = TypeVar("K")
V = TypeVar("V")
_MOST_DECODERS = 8


@dataclass(frozen=True, slots=True, eq=False)
class PixelBatch(Generic[K]):
    """Preprocessed images: ``pixels (n, 3, S, S) float32`` of ``keys``, and what failed among them."""

    keys: list[K]
    pixels: NDArray[np.float32]
    failures: list[tuple[K, ImageError]]


@dataclass(frozen=True, slots=True, eq=False)
class DecodedBatch(Generic[K]):
    """Decoded images: ``(H, W, 3) uint8`` of ``keys``, of any sizes, and what failed among them."""

    keys: list[K]
    images: list[NDArray[np.uint8]]
    failures: list[tuple[K, ImageError]]


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedBatch(Generic[K]):
    """Embedded images: ``embeddings (n, D) float32`` of ``keys``, and what failed among them."""

    keys: list[K]
    embeddings: NDArray[np.float32]
    failures: list[tuple[K, ImageError]]

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"EmbeddedBatch({len(self.keys)} images, {len(self.failures)} failed)"


def stream_pixels(
    items: Iterable[tuple[K, ImageSource]],
    spec: PixelSpec,
    *,
    batch_size: int,
    decoders: int | None = None,
) -> Iterator[PixelBatch[K]]:
    """Preprocess images with a pool of threads (Pillow works without the interpreter's lock).

    At most ``batch_size + 2 * decoders`` images are decoded and not yet handed out. The pool ends with the
    generator, also when its consumer stops early.

    Args:
        items: Pairs of a key and an image.
        spec: The preprocessing.
        batch_size: Images in a batch; the last may hold fewer.
        decoders: Threads; default one per CPU, 8 at most.

    Yields:
        Batches in the order of ``items``.
    """
    make = partial(_pixels_or_error, spec=spec)
    for keys, pixels, failures in _batches(items, make, batch_size=batch_size, decoders=decoders):
        rows = np.stack(pixels) if pixels else np.empty((0, 3, spec.size, spec.size), np.float32)
        yield PixelBatch(keys, rows, failures)


def stream_decoded(
    items: Iterable[tuple[K, ImageSource]], *, batch_size: int, decoders: int | None = None
) -> Iterator[DecodedBatch[K]]:
    """Decode images only, for a device that resizes them; otherwise as ``stream_pixels``."""
    for keys, images, failures in _batches(items, _rgb_or_error, batch_size=batch_size, decoders=decoders):
        yield DecodedBatch(keys, images, failures)


def _batches(
    items: Iterable[tuple[K, ImageSource]],
    make: Callable[[ImageSource], V | ImageError],
    *,
    batch_size: int,
    decoders: int | None,
) -> Iterator[tuple[list[K], list[V], list[tuple[K, ImageError]]]]:
    """Keys, what ``make`` made of their images, and what failed, in the order of ``items``."""
    workers = decoders or min(_MOST_DECODERS, available_cpus())
    keys: list[K] = []
    made: list[V] = []
    failures: list[tuple[K, ImageError]] = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="lrsclip-decode")
    try:
        for key, outcome in _in_order(pool, items, make, ahead=batch_size + 2 * workers):
            if isinstance(outcome, ImageError):
                failures.append((key, outcome))
            else:
                keys.append(key)
                made.append(outcome)
            if batch_size in (len(keys), len(failures)):
                yield keys, made, failures
                keys, made, failures = [], [], []
        if keys or failures:
            yield keys, made, failures
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor,
    items: Iterable[tuple[K, ImageSource]],
    make: Callable[[ImageSource], V | ImageError],
    *,
    ahead: int,
) -> Iterator[tuple[K, V | ImageError]]:
    waiting: deque[tuple[K, Future[V | ImageError]]] = deque()
    for key, source in items:
        waiting.append((key, pool.submit(make, source)))
        if len(waiting) >= ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


def _pixels_or_error(source: ImageSource, spec: PixelSpec) -> NDArray[np.float32] | ImageError:
    from lrsclip_rt.images import rgb_from_source
    from lrsclip_rt.pixels import pixels_from_image

    try:
        return pixels_from_image(rgb_from_source(source), spec)
    except ImageError as error:
        return error


def _rgb_or_error(source: ImageSource) -> NDArray[np.uint8] | ImageError:
    from lrsclip_rt.images import rgb_from_source

    try:
        return np.asarray(rgb_from_source(source), np.uint8)
    except ImageError as error:
        return error
