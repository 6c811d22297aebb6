"""Frozen bottlenecks of the stem, computed once: a memory-mapped cache of augmented features.

Training on two cores cannot afford the stem's convolutions at every step. They are kept as ImageNet
left them, so their output for a handful of augmented views of each image is computed once and read
back; the stem's last convolution and everything behind it are trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.errors import DependencyError, InputError
from lrsclip_train.stem import BOTTLENECKS, STEM_STRIDE, MobileNetV2Stem

__all__ = ["SPLIT", "FeatureCache", "Sample", "View", "build_cache", "stem_front"]

SPLIT = len(BOTTLENECKS)
"""Bottlenecks in front of the cache; the output there is (320, S / 32, S / 32)."""

_CHANNELS = BOTTLENECKS[-1].channels_out


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of the training data and its texts.

    Attributes:
        key: Unique name.
        source: ``real``, ``tile`` or ``mosaic``.
        category: Class name, or empty.
        shorts: Distinct short captions.
        long: Long text, or empty.
        rows: First row and number of rows in the cache, one row a view.
    """

    key: str
    source: str
    category: str
    shorts: tuple[str, ...]
    long: str
    rows: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Views of one sample, each an (S, S) RGB image."""

    sample: Sample
    images: tuple[Image.Image, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureCache:
    """Samples and a read-only (rows, 320, S / 32, S / 32) float16 map of their features."""

    samples: tuple[Sample, ...]
    features: NDArray[np.float16]

    @classmethod
    def open(cls, folder: Path) -> FeatureCache:
        """Open a finished cache.

        Raises:
            InputError: If ``folder`` holds no finished cache.
        """
        meta_path = folder / "cache.json"
        if not meta_path.is_file():
            raise InputError(f"{folder} holds no finished feature cache; build it first")
        meta = json.loads(meta_path.read_text("utf-8"))
        samples = []
        with (folder / "samples.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                row["shorts"], row["rows"] = tuple(row["shorts"]), tuple(row["rows"])
                samples.append(Sample(**row))
        shape = tuple(meta["shape"])
        return cls(tuple(samples), np.memmap(folder / "features.f16", np.float16, "r", shape=shape))


def build_cache(
    folder: Path,
    views: Iterable[Callable[[], View]],
    front: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    size: int,
    batch: int = 64,
    advance: Callable[[int], None] = lambda n: None,
) -> FeatureCache:
    """Compute features of all views and write them to ``folder``.

    Args:
        folder: Receives ``features.f16``, ``samples.jsonl`` and, last, ``cache.json``.
        views: Recipes; each is called on a worker thread and gives the views of one sample.
        front: What :func:`stem_front` gave.
        size: Edge of every view [px], a multiple of 32.
        batch: Views computed at a time.
        advance: Called with the number of views done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cache.json").unlink(missing_ok=True)
    edge = size // STEM_STRIDE
    rows = 0
    with (
        (folder / "features.f16").open("wb") as out,
        (folder / "samples.jsonl").open("w", encoding="utf-8") as index,
    ):
        for group in _grouped(_called_ahead(views), batch):
            images = [image for view in group for image in view.images]
            out.write(_features(images, front).tobytes())
            for view in group:
                row = asdict(view.sample) | {"rows": (rows, len(view.images))}
                index.write(json.dumps(row, ensure_ascii=False) + "\n")
                rows += len(view.images)
            advance(len(images))
    meta = {"shape": [rows, _CHANNELS, edge, edge], "size": size, "split": SPLIT}
    (folder / "cache.json").write_text(json.dumps(meta), "utf-8")
    return FeatureCache.open(folder)


def _called_ahead(recipes: Iterable[Callable[[], View]], *, ahead: int = 64) -> Iterator[View]:
    with ThreadPoolExecutor(2) as pool:
        pending = []
        for recipe in recipes:
            pending.append(pool.submit(recipe))
            if len(pending) >= ahead:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()


def _grouped(views: Iterator[View], batch: int) -> Iterator[Sequence[View]]:
    group: list[View] = []
    for view in views:
        group.append(view)
        if sum(len(v.images) for v in group) >= batch:
            yield group
            group = []
    if group:
        yield group


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
    return lambda pixels: np.asarray(compiled(pixels)[0])


class _Front(torch.nn.Module):
    def __init__(self, stem: MobileNetV2Stem) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.stem.early(pixels, SPLIT)
