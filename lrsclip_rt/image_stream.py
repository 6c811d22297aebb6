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
    from typing import TypeAlias

    from lrsclip_rt.images import StreamSource
    from lrsclip_rt.pixels import PixelSpec

    _Placed: TypeAlias = tuple[StreamSource, NDArray[np.float32]]

__all__ = ["DecodedBatch", "EmbeddedBatch", "PixelBatch", "stream_decoded", "stream_pixels"]

K = TypeVar("K")
S = TypeVar("S")
V = TypeVar("V")
_MOST_DECODERS = 8
_MOST_ROWS = 256
"""Images that memory is taken for at once; ``batch_size`` may be far more than there are."""


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
    items: Iterable[tuple[K, StreamSource]],
    spec: PixelSpec,
    *,
    batch_size: int,
    decoders: int | None = None,
) -> Iterator[PixelBatch[K]]:
    """Preprocess images with a pool of threads (Pillow works without the interpreter's lock).

    At most ``batch_size + 2 * decoders`` images are decoded and not yet handed out. The pool ends with the
    generator, also when its consumer stops early.

    Args:
        items: Pairs of a key and an image, or a function that gives the image and is called in the pool.
        spec: The preprocessing.
        batch_size: Items of a batch; the last may hold fewer. Those that fail leave it smaller.
        decoders: Threads; default one per CPU, 8 at most.

    Yields:
        Batches in the order of ``items``.
    """
    # Every image is written straight to its row of the batch; gathering rows would copy each once more.
    rows = min(batch_size, _MOST_ROWS)
    blocks: deque[NDArray[np.float32]] = deque()

    def placed() -> Iterator[tuple[K, _Placed]]:
        for index, (key, source) in enumerate(items):
            row = index % batch_size % rows
            if row == 0:
                blocks.append(np.empty((rows, 3, spec.size, spec.size), np.float32))
            yield key, (source, blocks[-1][row])

    make = partial(_pixels_or_error, spec=spec)
    for group in _groups(placed(), make, batch_size=batch_size, decoders=decoders):
        used = [blocks.popleft() for _ in range(-(-len(group) // rows))]
        pixels = (used[0] if len(used) == 1 else np.concatenate(used))[: len(group)]
        keys, kept, failures = _sorted_out(group)
        yield PixelBatch(keys, pixels if not failures else pixels[kept], failures)


def stream_decoded(
    items: Iterable[tuple[K, StreamSource]], *, batch_size: int, decoders: int | None = None
) -> Iterator[DecodedBatch[K]]:
    """Decode images only, for a device that resizes them; otherwise as ``stream_pixels``."""
    for group in _groups(items, _rgb_or_error, batch_size=batch_size, decoders=decoders):
        keys, _, failures = _sorted_out(group)
        images = [outcome for _, outcome in group if not isinstance(outcome, ImageError)]
        yield DecodedBatch(keys, images, failures)


def _groups(
    items: Iterable[tuple[K, S]],
    make: Callable[[S], V | ImageError],
    *,
    batch_size: int,
    decoders: int | None,
) -> Iterator[list[tuple[K, V | ImageError]]]:
    """Keys and what ``make`` made of their images, ``batch_size`` at a time, in the order of ``items``."""
    workers = decoders or min(_MOST_DECODERS, available_cpus())
    group: list[tuple[K, V | ImageError]] = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="lrsclip-decode")
    try:
        for made in _in_order(pool, items, make, ahead=batch_size + 2 * workers):
            group.append(made)
            if len(group) == batch_size:
                yield group
                group = []
        if group:
            yield group
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _sorted_out(
    group: list[tuple[K, V | ImageError]],
) -> tuple[list[K], list[int], list[tuple[K, ImageError]]]:
    """Keys of what was made and its places in the group, and what failed."""
    kept = [index for index, (_, outcome) in enumerate(group) if not isinstance(outcome, ImageError)]
    failures = [(key, outcome) for key, outcome in group if isinstance(outcome, ImageError)]
    return [group[index][0] for index in kept], kept, failures


def _in_order(
    pool: ThreadPoolExecutor,
    items: Iterable[tuple[K, S]],
    make: Callable[[S], V | ImageError],
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


def _pixels_or_error(placed: _Placed, spec: PixelSpec) -> bool | ImageError:
    from lrsclip_rt.images import rgb_from_source
    from lrsclip_rt.pixels import pixels_from_image

    source, out = placed
    try:
        pixels_from_image(rgb_from_source(source() if callable(source) else source), spec, out=out)
    except ImageError as error:
        return error
    return True


def _rgb_or_error(source: StreamSource) -> NDArray[np.uint8] | ImageError:
    from lrsclip_rt.images import rgb_from_source

    try:
        return np.asarray(rgb_from_source(source() if callable(source) else source), np.uint8)
    except ImageError as error:
        return error
