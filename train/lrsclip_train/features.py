"""The frozen front of the stem, computed once: a memory-mapped cache of augmented features.

Training on two cores cannot afford the stem's large convolutions at every step. They are kept as
ImageNet left them, so their output for a handful of augmented views of each image is computed once and
read back; the last bottlenecks, where most parameters are, and everything behind them are trained.
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.errors import DependencyError, InputError
from lrsclip_rt.image_decoding import one_line
from lrsclip_train.stem import BOTTLENECKS, MobileNetV2Stem
from lrsclip_train.training_samples import Sample, View

__all__ = ["SPLIT", "FeatureCache", "Sample", "View", "build_cache", "stem_front"]

SPLIT = 15
"""Bottlenecks in front of the cache; the output there is (160, S / 32, S / 32)."""

_CHANNELS = BOTTLENECKS[SPLIT - 1].channels_out
_STRIDE = 2 * math.prod(block.stride for block in BOTTLENECKS[:SPLIT])


@dataclass(frozen=True, slots=True, eq=False)
class FeatureCache:
    """Samples and a read-only (rows, 160, S / 32, S / 32) float16 map of their features."""

    samples: tuple[Sample, ...]
    features: NDArray[np.float16]

    @classmethod
    def open(cls, folder: Path) -> FeatureCache:
        """Open a finished cache.

        Raises:
            InputError: If ``folder`` holds no finished cache, a damaged one, or one behind another split.
        """
        if not (folder / "cache.json").is_file():
            raise InputError(f"{folder} holds no finished feature cache; build it first")
        try:
            return cls._read(folder)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{folder} holds a damaged feature cache ({one_line(error)}); delete the folder to have it "
                "made anew"
            ) from error

    @classmethod
    def _read(cls, folder: Path) -> FeatureCache:
        meta = json.loads((folder / "cache.json").read_text("utf-8"))
        if meta["split"] != SPLIT:
            raise InputError(
                f"{folder} holds features behind {meta['split']} bottlenecks, expected behind {SPLIT}; "
                "delete the folder to have it made anew"
            )
        samples = []
        with (folder / "samples.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                row |= {name: tuple(row[name]) for name in ("shorts", "wrong", "rows")}
                samples.append(Sample(**row))
        rows, channels, height, width = shape = tuple(meta["shape"])
        counts = [rows, height, width, *(n for sample in samples for n in sample.rows)]
        if channels != _CHANNELS or not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError(f"{shape!r:.80} is no shape, or the rows of a sample are none")
        if any(len(sample.rows) != 2 or sum(sample.rows) > rows for sample in samples):
            raise ValueError(f"a sample has not a first row and a number of rows among {rows}")
        if not samples:  # an empty file cannot be mapped
            return cls((), np.empty((0, *shape[1:]), np.float16))
        return cls(tuple(samples), np.memmap(folder / "features.f16", np.float16, "r", shape=shape))


def build_cache(
    folder: Path,
    views: Iterable[Callable[[], View]],
    front: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    size: int,
    threads: int = 2,
    advance: Callable[[int], None] = lambda n: None,
) -> FeatureCache:
    """Compute features of all views and write them to ``folder``.

    Args:
        folder: Receives ``features.f16``, ``samples.jsonl`` and, last, ``cache.json``.
        views: Recipes; each is called on a worker thread and gives the views of one sample.
        front: What :func:`stem_front` gave.
        size: Edge of every view [px], a multiple of 32.
        threads: Samples made at a time.
        advance: Called with the number of views done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cache.json").unlink(missing_ok=True)
    edge = size // _STRIDE
    rows = 0

    def made(recipe: Callable[[], View]) -> tuple[Sample, NDArray[np.float16]]:
        view = recipe()
        return view.sample, _features(view.images, front)

    with (
        ThreadPoolExecutor(threads) as pool,
        (folder / "features.f16").open("wb") as out,
        (folder / "samples.jsonl").open("w", encoding="utf-8") as index,
    ):
        for sample, features in _in_order(pool, made, views):
            out.write(features.tobytes())
            row = asdict(sample) | {"rows": (rows, len(features))}
            index.write(json.dumps(row, ensure_ascii=False) + "\n")
            rows += len(features)
            advance(len(features))
    meta = {"shape": [rows, _CHANNELS, edge, edge], "size": size, "split": SPLIT}
    (folder / "cache.json").write_text(json.dumps(meta), "utf-8")
    return FeatureCache.open(folder)


def _in_order(
    pool: ThreadPoolExecutor,
    made: Callable[[Callable[[], View]], tuple[Sample, NDArray[np.float16]]],
    recipes: Iterable[Callable[[], View]],
    *,
    ahead: int = 16,
) -> Iterator[tuple[Sample, NDArray[np.float16]]]:
    pending: deque[Future[tuple[Sample, NDArray[np.float16]]]] = deque()
    for recipe in recipes:
        pending.append(pool.submit(made, recipe))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _features(
    images: Sequence[Image.Image], front: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.float16]:
    pixels = np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2)
    return front(pixels.astype(np.float32) / 127.5 - 1.0).astype(np.float16)


def stem_front(
    stem: MobileNetV2Stem, *, size: int, runner: str = "torch"
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The stem's bottlenecks as a function of (N, 3, S, S) pixels in [-1, 1].

    Args:
        stem: Weights; they are not trained.
        size: S [px].
        runner: ``torch``, or ``openvino``, which is several times as fast on depthwise convolutions.

    Raises:
        InputError: If ``runner`` is neither.
        DependencyError: If OpenVINO is asked for and not installed.
    """
    if runner == "torch":

        def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.no_grad():
                result: NDArray[np.float32] = stem.early(torch.from_numpy(pixels), SPLIT).numpy()
            return result

        return run
    if runner != "openvino":
        raise InputError(f"cache_runner must be torch or openvino, got {runner!r}")
    try:
        import openvino
    except ImportError as error:
        raise DependencyError.of("openvino", extra="openvino") from error
    graph = openvino.convert_model(_Front(stem).eval(), example_input=torch.zeros(2, 3, size, size))
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
    compiled = openvino.Core().compile_model(graph, "CPU", options)
    own = threading.local()

    def infer(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return np.array(own.request.infer([pixels])[0])

    return infer


class _Front(torch.nn.Module):
    def __init__(self, stem: MobileNetV2Stem) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.stem.early(pixels, SPLIT)
