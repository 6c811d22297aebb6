"""Windows of a scene to embeddings. Done once; any number of texts then costs one matrix product."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.bundle import Bundle
from lrsclip_rt.bundle_records import ModelSpec
from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.cubic import resize_cubic
from lrsclip_rt.localization.strips import windows_from_strips
from lrsclip_rt.localization.windows import SELO_INPUT_SIZE, SELO_STEPS, selo_windows, usable_steps
from lrsclip_rt.raster import Scene
from lrsclip_rt.tiles import Window

__all__ = ["DeviceModel", "Progress", "SceneEmbedding", "SceneModel", "embed_scene"]

Progress = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""


class SceneModel(Protocol):
    """What localization needs of a model; ``Embedder`` has it."""

    bundle: Bundle

    @property
    def spec(self) -> ModelSpec:
        """What the model expects."""

    def embed_texts(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        """(T, D) float32, unit rows."""

    def stream_images(self, items: Iterable[tuple[Any, Any]], *, batch_size: int = 32) -> Iterator[Any]:
        """Batches with ``keys``, ``embeddings`` (n, D) and ``failures``, in the order of ``items``."""


@runtime_checkable
class DeviceModel(Protocol):
    """A model that can cut the windows of a scene itself; ``Embedder`` has it."""

    @property
    def on_gpu(self) -> bool:
        """It does so on a GPU."""

    def embed_windows(
        self,
        scene: Scene,
        windows: Sequence[Window],
        *,
        fill: bool = True,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> NDArray[np.float32]:
        """(N, D) float32, unit rows, in the order of ``windows``."""


@dataclass(frozen=True, slots=True, eq=False)
class SceneEmbedding:
    """The embedded windows of one scene.

    Attributes:
        windows: N windows.
        embeddings: (N, D) float32, unit rows.
        height: Scene height [px].
        width: Scene width [px].
        mode: How the windows were chosen: "fast", "selo", "dense" or "archive".
        scales: Window edges [px].
        valid: (N,) float32 part of each window that shows something, above 0; None where it was not asked.
        overlap: Shared fraction of neighbouring windows.
    """

    windows: tuple[Window, ...]
    embeddings: NDArray[np.float32]
    height: int
    width: int
    mode: str
    scales: tuple[int, ...]
    valid: NDArray[np.float32] | None = None
    overlap: float = 0.0

    def __len__(self) -> int:
        return len(self.windows)

    def __repr__(self) -> str:
        return f"SceneEmbedding({len(self)} windows of {self.height} x {self.width} px, {self.mode})"

    def scores(self, texts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosine of every window with (T, D) unit text embeddings: (N, T) float32.

        Raises:
            InputError: If D differs.
        """
        if texts.ndim != 2 or texts.shape[1] != self.embeddings.shape[1]:
            raise InputError(
                f"windows {self.embeddings.shape} and texts {texts.shape} must agree in D; "
                "embed both with the same model"
            )
        return np.asarray(self.embeddings @ texts.T)


def embed_scene(
    model: SceneModel,
    scene: Scene,
    *,
    steps: Sequence[int] = SELO_STEPS,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> SceneEmbedding:
    """Embed the windows of the published protocol.

    Pixels are taken as stored, also in a collar or where they are missing, because the protocol knows
    neither; heat maps leave such places out afterwards.

    Raises:
        RasterError: If the scene is damaged.
        InputError: If a step is not usable.
    """
    windows = selo_windows(scene.height, scene.width, steps)
    rows: NDArray[np.float32] | None = None
    done = 0
    for batch in model.stream_images(_inputs(scene, windows), batch_size=batch_size):
        for _, error in batch.failures:
            raise error
        if rows is None:
            rows = np.empty((len(windows), batch.embeddings.shape[1]), dtype=np.float32)
        rows[batch.keys] = batch.embeddings
        done += len(batch.keys)
        if progress is not None:
            progress(done, len(windows))
    assert rows is not None, "a scene has at least one window"
    scales = usable_steps(scene.height, scene.width, steps)
    return SceneEmbedding(tuple(windows), rows, scene.height, scene.width, "selo", scales)


def _inputs(scene: Scene, windows: Sequence[Window]) -> Iterator[tuple[int, Callable[[], NDArray[np.uint8]]]]:
    # The cut is made here, in the order of reading; what follows it, where the images are decoded.
    for index, pixels in windows_from_strips(scene, windows, fill=False):
        yield index, partial(_as_square, pixels)


def _as_square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(resize_cubic(pixels, SELO_INPUT_SIZE, SELO_INPUT_SIZE))
