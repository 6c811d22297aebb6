"""Decoded images to embeddings on a device: one upload for a batch, then kernels and the tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.cuda.batch_ring import DeviceSession
from lrsclip_rt.cuda.device_resampling import DeviceResampler
from lrsclip_rt.cuda.device_windows import embed_windows
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.pixels import PixelSpec
from lrsclip_rt.raster import Scene
from lrsclip_rt.tiles import Window

__all__ = ["DeviceImages"]


class DeviceImages:
    """The image tower behind the preprocessing kernels; not to be shared between threads.

    Args:
        session: The image tower on a device.
        spec: The preprocessing.
        dtype: Of the tower's input.

    Raises:
        BackendError: If the kernels cannot be compiled or loaded.
    """

    def __init__(self, session: DeviceSession, spec: PixelSpec, dtype: str) -> None:
        self._session = session
        self._size = spec.size
        with session.device.current():
            self._resampler = DeviceResampler(
                session.device, spec, dtype, near=getattr(session, "folder", None)
            )

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed ``(H, W, 3) uint8`` images of any sizes, at least one: ``(N, D) float32``.

        Raises:
            DeviceMemoryError: If a batch does not fit.
            BackendError: If a run fails.
        """

        def resample(some: range, address: int, stream: Stream) -> None:
            self._resampler.enqueue_images(images[some.start : some.stop], address, stream)

        return self._session.run_filled(len(images), resample)

    def embed_windows(
        self,
        scene: Scene,
        windows: Sequence[Window],
        *,
        fill: bool,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Embed windows of a scene; see ``device_windows.embed_windows``."""
        return embed_windows(
            self._session,
            self._resampler,
            scene,
            windows,
            size=self._size,
            fill=fill,
            progress=progress,
        )

    def close(self) -> None:
        """Give its memory back; the session stays."""
        with self._session.device.current():
            self._session.stream.synchronize()
            self._resampler.free()
