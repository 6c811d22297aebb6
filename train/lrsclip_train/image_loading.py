"""Decode and augment the images of coming steps in worker processes.

An image's augmentation depends on the seed, the step and its position in the batch alone, so neither the
number of workers nor a resume changes what is trained on. A broken image costs its row, never the run.

This module is imported by every worker: torch comes in only where tensors are made.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import ImageError, InputError, WorkerError
from lrsclip_rt.pixels import CLIP_MEAN, CLIP_STD, PixelSpec, pixels_from_array
from lrsclip_train.augment import Augmentation, orientation_bound
from lrsclip_train.pair_sources import PairSource

if TYPE_CHECKING:
    import torch

__all__ = ["ImageLoader", "LoadedImages"]

_CHUNK = 8
"""Images that a worker does at a time: enough to hide the way there and back, few enough to share out."""

_AS_IT_IS = Augmentation.plain()

_Row = tuple["NDArray[np.uint8] | None", "tuple[str, str] | None"]


class LoadedImages(NamedTuple):
    """Images of one step.

    Attributes:
        pixels: (N, 3, S, S), normalised float32, or uint8 without a mean; zeros where an image failed.
        ok: (N,) bool, which rows hold an image.
        failures: Key and reason of each image that failed.
    """

    pixels: torch.Tensor
    ok: torch.Tensor
    failures: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything that a worker needs to know once."""

    source: PairSource
    augmentation: Augmentation
    size: int
    seed: int
    keep_upright: bool
    offset: int

    def rows(self, step: int, first: int, indices: Sequence[int]) -> list[_Row]:
        """The images at positions ``first`` and on of a step, or why there are none."""
        first += self.offset
        return [self._row(step, position, index) for position, index in enumerate(indices, first)]

    def _row(self, step: int, position: int, index: int) -> _Row:
        rng = np.random.default_rng((self.seed, step, position))
        try:
            image = self.source.image(index)
        except ImageError as error:
            return None, (self.source.key(index), str(error))
        if self.augmentation == _AS_IT_IS:
            return np.asarray(_AS_IT_IS.apply(image, rng, self.size)), None
        pair = self.source[index]
        augmentation = _AS_IT_IS if pair.as_is else self.augmentation
        upright = self.keep_upright and any(map(orientation_bound, (*pair.shorts, pair.long)))
        return np.asarray(augmentation.apply(image, rng, self.size, upright=upright)), None


class ImageLoader:
    """Loads the images of one step after another; a context manager, which ends its workers.

    Args:
        source: The pairs; sent to every worker once.
        workers: Processes; 0 does the work in this one, at :meth:`load`.
        augmentation: What is done to each image.
        size: S [px].
        mean: Subtracted from R, G, B in [0, 1]. None gives uint8, to be normalised on a device.
        std: Divides what is left.
        seed: Of every random choice, not negative.
        failures: Receives the reason of each image that failed, by its key.
        keep_upright: Never turn or mirror an image of which a caption says where something lies.
        upcoming: Indices of a later step, for work ahead: what :meth:`load` will be asked for, and nothing
            behind the last step. None works on the asked step alone.
        ahead: Steps that are worked on ahead.
        offset: Position in the batch of the first image that :meth:`load` is asked for, where several
            processes share a batch.

    Raises:
        InputError: If a number is out of its bounds.

    ::

        with ImageLoader(source, workers=2, augmentation=Augmentation.overhead(), size=224) as loader:
            images = loader.load(step, indices)
            embeddings = model.encode_image(images.pixels[images.ok])
    """

    def __init__(
        self,
        source: PairSource,
        *,
        workers: int,
        augmentation: Augmentation,
        size: int,
        mean: tuple[float, float, float] | None = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
        seed: int = 0,
        failures: dict[str, str] | None = None,
        keep_upright: bool = True,
        upcoming: Callable[[int], Sequence[int]] | None = None,
        ahead: int = 2,
        offset: int = 0,
    ) -> None:
        for name, value in (("workers", workers), ("seed", seed), ("ahead", ahead), ("offset", offset)):
            if value < 0:
                raise InputError(f"{name} must be at least 0, got {value}")
        self.size = size
        self.failed = 0
        """Rows lost so far; an image that fails in two epochs counts twice."""
        self.failures = {} if failures is None else failures
        self._spec = PixelSpec(size) if mean is None else PixelSpec(size, mean, std)
        self._normalise = mean is not None
        self._job = _Job(source, augmentation, size, seed, keep_upright, offset)
        self._workers = workers
        self._upcoming = upcoming
        self._ahead = ahead
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: dict[int, tuple[list[int], list[Future[list[_Row]]]]] = {}

    def __enter__(self) -> ImageLoader:
        if self._workers and self._pool is None:
            # Not "fork": this process holds the threads and locks of torch.
            self._pool = ProcessPoolExecutor(
                self._workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(self._job,)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; what they do at the moment is finished, what waits is dropped."""
        pool, self._pool = self._pool, None
        self._waiting.clear()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def load(self, step: int, indices: Sequence[int]) -> LoadedImages:
        """Load a step's images, and have the workers go on with the next ones.

        Args:
            step: The step, part of the seed of every augmentation.
            indices: N indices into the source.

        Raises:
            InputError: If ``upcoming`` named other indices for this step, a shard cannot be read, or there
                are workers and the loader is not open (``with``).
            WorkerError: If a worker died.
        """
        wanted = [int(index) for index in indices]
        if not self._workers:
            return self._loaded(self._job.rows(step, 0, wanted))
        if self._pool is None:
            raise InputError("the loader is not open; use it as: with ImageLoader(...) as loader")
        try:
            for later in [known for known in self._waiting if not step <= known <= step + self._ahead]:
                for future in self._waiting.pop(later)[1]:
                    future.cancel()
            self._submit(step, wanted)
            if self._upcoming is not None:
                for later in range(step + 1, step + 1 + self._ahead):
                    self._submit(later, [int(index) for index in self._upcoming(later)])
            promised, futures = self._waiting.pop(step)
            if promised != wanted:
                raise InputError(f"upcoming({step}) named other images than load was given; both must agree")
            return self._loaded([row for future in futures for row in future.result()])
        except BrokenProcessPool as error:
            raise WorkerError(
                "a process that loads images died: it was killed, or memory ran out. "
                "Take fewer workers and resume the run"
            ) from error

    def forget_ahead(self) -> None:
        """Drop the work ahead, because the coming steps will ask for other images than ``upcoming`` said."""
        for _, futures in self._waiting.values():
            for future in futures:
                future.cancel()
        self._waiting.clear()

    def _submit(self, step: int, indices: list[int]) -> None:
        if step in self._waiting or self._pool is None:
            return
        chunks = [(first, indices[first : first + _CHUNK]) for first in range(0, len(indices), _CHUNK)]
        futures = [self._pool.submit(_rows_in_worker, step, first, chunk) for first, chunk in chunks]
        self._waiting[step] = indices, futures

    def _loaded(self, rows: list[_Row]) -> LoadedImages:
        import torch

        dtype = np.float32 if self._normalise else np.uint8
        pixels = np.zeros((len(rows), 3, self.size, self.size), dtype)
        ok = np.zeros(len(rows), bool)
        failures: list[tuple[str, str]] = []
        for position, (samples, failure) in enumerate(rows):
            if samples is not None:
                ok[position] = True
                pixels[position] = (
                    pixels_from_array(samples, self._spec) if self._normalise else samples.transpose(2, 0, 1)
                )
            if failure is not None:
                failures.append(failure)
        self.failed += len(failures)
        self.failures.update(failures)
        return LoadedImages(torch.from_numpy(pixels), torch.from_numpy(ok), failures)


_job: _Job | None = None


def _start(job: _Job) -> None:
    """Prepare a worker."""
    global _job
    _job = job
    # Ctrl-C goes to the whole group of processes; only the one that can clean up shall act on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _rows_in_worker(step: int, first: int, indices: Sequence[int]) -> list[_Row]:
    assert _job is not None  # the pool calls _start first
    return _job.rows(step, first, indices)
