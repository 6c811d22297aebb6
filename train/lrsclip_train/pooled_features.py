"""What a frozen network says about whole images: its last map, pooled by mean and by maximum."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lrsclip_rt.errors import DependencyError, InputError
from lrsclip_rt.pixels import PixelSpec, pixels_from_image
from lrsclip_train.training_pairs import StoredImage

if TYPE_CHECKING:
    from PIL import Image

    from lrsclip_rt.datasets import LabelledSet

__all__ = [
    "FeatureScale",
    "ImageFiles",
    "ImageList",
    "Pooled",
    "image_files_from_labelled_set",
    "pooled_features",
    "pooled_network",
]

Pooled = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(N, 3, S, S) float32 in [-1, 1] -> (N, 2C) float32: means, then maxima."""

_HALF = (0.5, 0.5, 0.5)
_BATCH = 16
"""Images that a thread runs at a time."""


class ImageList(Protocol):
    """Images by number; every :class:`~lrsclip_train.pair_sources.PairSource` is one."""

    def __len__(self) -> int:
        """Number of images."""

    def image(self, index: int) -> Image.Image:
        """The decoded image, upright and RGB."""


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files as an :class:`ImageList`."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        """Decode the image.

        Raises:
            ImageError: If it cannot be read or decoded.
        """
        return StoredImage(self.paths[index]).rgb()


def image_files_from_labelled_set(labelled: LabelledSet) -> ImageFiles:
    """The images of a labelled set, in its order."""
    return ImageFiles(tuple(labelled.image_path(item) for item in labelled.items))


def pooled_network(
    network: torch.nn.Module, *, size: int, runner: str = "torch", threads: int | None = None
) -> Pooled:
    """A network with both poolings behind it, to be called from any thread.

    Args:
        network: (N, 3, S, S) in [-1, 1] -> (N, C, H, W); it is not trained.
        size: S [px].
        runner: ``torch``, or ``openvino``, which is several times as fast on depthwise convolutions.
        threads: CPU threads of OpenVINO; None lets it choose. Torch's are set for the whole process.

    Raises:
        InputError: If ``runner`` is neither.
        DependencyError: If OpenVINO is asked for and not installed.
    """
    pooling = _Pooling(network).eval()
    if runner == "torch":

        def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.no_grad():
                result: NDArray[np.float32] = pooling(torch.from_numpy(pixels)).numpy()
            return result

        return run
    if runner != "openvino":
        raise InputError(f"runner must be torch or openvino, got {runner!r}")
    try:
        import openvino
    except ImportError as error:
        raise DependencyError.of("openvino", extra="openvino") from error
    graph = openvino.convert_model(pooling, example_input=torch.zeros(2, 3, size, size))
    options: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(graph, "CPU", options)
    own = threading.local()

    def infer(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return np.array(own.request.infer([pixels])[0])

    return infer


class _Pooling(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        maps = self.network(pixels)
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)


def pooled_features(
    network: Pooled,
    images: ImageList,
    *,
    size: int,
    threads: int = 2,
    advance: Callable[[int], None] = lambda n: None,
) -> NDArray[np.float32]:
    """Decode, resize and run all images.

    Args:
        network: What :func:`pooled_network` gave for this size.
        images: The images; the shorter side becomes S, then the centre is cut.
        size: S [px].
        threads: Batches that are worked on at a time.
        advance: Called with the number of images done.

    Returns:
        (N, 2C) float32, in the order of ``images``.

    Raises:
        InputError: If there is no image or ``threads`` is not positive.
        ImageError: If an image cannot be read: a row without an image would teach nonsense.
    """
    if not len(images) or threads < 1:
        raise InputError(f"got {len(images)} images and {threads} threads, expected at least one of each")
    spec = PixelSpec(size, _HALF, _HALF)

    def rows(start: int) -> NDArray[np.float32]:
        stop = min(start + _BATCH, len(images))
        return network(
            np.stack([pixels_from_image(images.image(index), spec) for index in range(start, stop)])
        )

    parts = []
    with ThreadPoolExecutor(threads) as pool:
        for part in pool.map(rows, range(0, len(images), _BATCH)):
            parts.append(part)
            advance(len(part))
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureScale:
    """Pooled features as a head likes them: their square roots, standardised.

    Activations behind a ReLU have a long tail, which the root shortens.

    Attributes:
        mean: (F,) float32, of the roots.
        std: (F,) float32, of the roots.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @classmethod
    def from_features(cls, features: NDArray[np.float32]) -> FeatureScale:
        """Measure (N, F) features, those of the training images alone.

        Raises:
            InputError: If they are not finite numbers in rows.
        """
        if features.ndim != 2 or not len(features) or not np.isfinite(features).all():
            raise InputError(
                f"features {features.shape} must be finite and (N, F); check the network's weights"
            )
        roots = np.sqrt(np.maximum(features, 0))
        return cls(roots.mean(axis=0), roots.std(axis=0))

    def scaled(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, F) -> (N, F) float32."""
        roots = np.sqrt(np.maximum(features, 0))
        return ((roots - self.mean) / (self.std + 1e-6)).astype(np.float32)
