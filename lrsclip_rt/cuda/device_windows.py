"""Windows of a large scene to embeddings, every source row uploaded once.

Full-width bands of the scene lie on the device, read ahead by a thread while the model works. Windows are cut
from the band, resized and embedded there; a band begins with the rows that it shares with the one before,
which are copied on the device. Memory is bounded by the band, whatever the scene's height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.cuda.batch_ring import DeviceSession
from lrsclip_rt.cuda.device_resampling import DeviceResampler
from lrsclip_rt.cuda.memory import DeviceBuffer, PinnedBuffer
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.raster import Scene
from lrsclip_rt.resample_plan import BufferWindow, PixelBuffer, Resize, square_resize
from lrsclip_rt.tiles import Window

__all__ = ["Band", "bands_from_windows", "embed_windows"]

_BAND_BYTES = 256 << 20
_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Band:
    """Rows [px] of a scene, and the windows that lie in them.

    Attributes:
        top: First row.
        bottom: Row behind the last.
        numbers: Which windows.
    """

    top: int
    bottom: int
    numbers: tuple[int, ...]


def bands_from_windows(windows: Sequence[Window], width: int, *, band_bytes: int = _BAND_BYTES) -> list[Band]:
    """Group windows from top to bottom into bands of about ``band_bytes``.

    A band holds at least one window, so a single tall one may exceed the limit.

    Example:
        >>> windows = [Window(0, row, 4, 4) for row in (0, 2, 4, 6)]
        >>> [(band.top, band.bottom, band.numbers) for band in bands_from_windows(windows, 4, band_bytes=72)]
        [(0, 6, (0, 1)), (4, 10, (2, 3))]
    """
    order = sorted(range(len(windows)), key=lambda n: (windows[n].row_off, windows[n].col_off))
    bands: list[Band] = []
    numbers: list[int] = []
    top = bottom = 0
    for number in order:
        window = windows[number]
        end = max(bottom, window.row_off + window.height)
        if numbers and (end - top) * width * _CHANNELS > band_bytes:
            bands.append(Band(top, bottom, tuple(numbers)))
            numbers = []
        if not numbers:
            top, bottom = window.row_off, window.row_off + window.height
        numbers.append(number)
        bottom = max(bottom, window.row_off + window.height)
    if numbers:
        bands.append(Band(top, bottom, tuple(numbers)))
    return bands


def embed_windows(
    session: DeviceSession,
    resampler: DeviceResampler,
    scene: Scene,
    windows: Sequence[Window],
    *,
    size: int,
    fill: bool,
    band_bytes: int = _BAND_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Embed windows of a scene under the model's own rule of resizing.

    Args:
        session: The image tower on a device.
        resampler: For this device and the tower's input.
        scene: The scene.
        windows: N windows inside it, in any order.
        size: Edge of the model's input [px].
        fill: Whether missing pixels show the scene's mean colour rather than what is stored.
        band_bytes: Memory of a band; two lie on the device and two on the host.
        progress: Called with (windows done, windows in all).

    Returns:
        ``(N, D) float32``, in the order of ``windows``.

    Raises:
        RasterError: If the scene is damaged.
        DeviceMemoryError: If a band does not fit.
    """
    bands = bands_from_windows(windows, scene.width, band_bytes=band_bytes)
    rows: NDArray[np.float32] | None = None
    done = 0
    uploads = _Bands(session, scene, bands, fill=fill)
    try:
        for band, address in uploads:
            buffer = PixelBuffer(
                address,
                band.bottom - band.top,
                scene.width,
                scene.width * _CHANNELS,
                _CHANNELS,
                (0, 1, 2),
            )
            items = [_item(buffer, windows[number], band.top, size) for number in band.numbers]

            def resample(
                some: range, output: int, stream: Stream, items: Sequence[BufferWindow] = items
            ) -> None:
                resampler.enqueue_windows(items[some.start : some.stop], output, stream)

            found = session.run_filled(len(items), resample)
            if rows is None:
                rows = np.empty((len(windows), found.shape[1]), np.float32)
            rows[list(band.numbers)] = found
            done += len(items)
            if progress is not None:
                progress(done, len(windows))
    finally:
        uploads.close()
    return np.empty((0, 0), np.float32) if rows is None else rows


def _item(buffer: PixelBuffer, window: Window, top: int, size: int) -> BufferWindow:
    resize: Resize = square_resize(window.height, window.width, size)
    inside = Window(window.col_off, window.row_off - top, window.width, window.height)
    return BufferWindow(buffer, inside, resize)


class _Bands:
    """Bands on the device, one after the other: two buffers in turn."""

    def __init__(self, session: DeviceSession, scene: Scene, bands: Sequence[Band], *, fill: bool) -> None:
        self._device, self._stream = session.device, session.stream
        self._scene, self._bands, self._fill = scene, bands, fill
        self._row_bytes = scene.width * _CHANNELS
        tallest = max((band.bottom - band.top for band in bands), default=0)
        size = max(1, tallest * self._row_bytes)
        self._memory: list[DeviceBuffer] = []
        self._pinned: list[PinnedBuffer] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lrsclip-band")
        try:
            with self._device.current():
                for _ in range(2):
                    self._memory.append(DeviceBuffer(self._device.driver, size))
                    self._pinned.append(PinnedBuffer(self._device.driver, size))
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[tuple[Band, int]]:
        """Each band with its address; the one before may still be read when the next is uploaded."""
        # Rows below this one are new; those above lie in the band before.
        bottoms = [0, *(band.bottom for band in self._bands)]
        starts = [max(band.top, bottom) for band, bottom in zip(self._bands, bottoms, strict=False)]
        ahead = [self._pool.submit(self._read, 0, starts[0])] if self._bands else []
        for number, band in enumerate(self._bands):
            ahead.pop().result()
            if number + 1 < len(self._bands):
                # Its page-locked memory was uploaded two bands ago: that run has been waited for.
                ahead.append(self._pool.submit(self._read, number + 1, starts[number + 1]))
            self._upload(number, starts[number])
            yield band, self._memory[number % 2].address

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._device.current():
            self._stream.synchronize()
            for memory in self._memory:
                memory.free()
            for pinned in self._pinned:
                pinned.free()
        self._memory, self._pinned = [], []

    def _read(self, number: int, start: int) -> None:
        """New rows of a band to page-locked memory."""
        rows = self._bands[number].bottom - start
        if rows > 0:
            pixels = self._scene.read(Window(0, start, self._scene.width, rows), fill=self._fill)
            self._pinned[number % 2].view(np.uint8, pixels.shape)[...] = pixels

    def _upload(self, number: int, start: int) -> None:
        """Rows that the band before held too, then the new ones."""
        band, memory = self._bands[number], self._memory[number % 2]
        with self._device.current():
            shared = min(start, band.bottom) - band.top
            if shared > 0:
                before = self._bands[number - 1]
                source = self._memory[(number - 1) % 2].address + (band.top - before.top) * self._row_bytes
                self._stream.copy(source, memory.address, shared * self._row_bytes)
            new = band.bottom - start
            if new > 0:
                offset = (start - band.top) * self._row_bytes
                self._stream.upload_to(
                    self._pinned[number % 2], memory.address + offset, new * self._row_bytes
                )
