"""Batches to a device and back, so that copies, kernels and the host work beside one another.

Addresses on the device never change: one buffer for each input and for the output. On the host there are two
sets of page-locked buffers, so that one is filled and emptied while the device works on the other. All
work goes into one stream, whose order keeps a batch's copy behind the run before it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.cuda.device import Device
from lrsclip_rt.cuda.memory import DeviceBuffer, PinnedBuffer
from lrsclip_rt.cuda.streams import Event, Stream
from lrsclip_rt.errors import BackendError

__all__ = ["BatchRing", "DeviceSession", "Fill", "RowLayout"]

_RING = 2

Fill = Callable[[range, int, Stream], None]
"""Enqueues what writes rows of an input, given their numbers and the address of the first, into a stream."""


class DeviceSession(Protocol):
    """A loaded graph of one input on a device, whose rows can be made there."""

    @property
    def device(self) -> Device:
        """Where it runs."""

    @property
    def stream(self) -> Stream:
        """Where it enqueues everything."""

    @property
    def rows_per_run(self) -> int:
        """The largest batch of one run."""

    def run_filled(self, count: int, fill: Fill) -> NDArray[np.float32]:
        """Run ``count`` rows that ``fill`` writes on the device; no pixel passes through the host."""


@dataclass(frozen=True, slots=True)
class RowLayout:
    """One row of an input or output: its name, NumPy's name of its type, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(slots=True, eq=False)
class _Slot:
    """Page-locked buffers of one batch, and the rows of the result that wait in it."""

    buffers: Mapping[str, PinnedBuffer]
    done: Event
    rows: range = field(default_factory=lambda: range(0))


class BatchRing:
    """Buffers for batches of one shape of rows; not to be shared between threads.

    Args:
        device: Its context must be current in all calls.
        stream: Where everything is enqueued.
        inputs: Rows of each input, at their longest.
        output: A row of the output.
        batch: The largest batch.

    Raises:
        DeviceMemoryError: If the buffers do not fit.
    """

    def __init__(
        self, device: Device, stream: Stream, inputs: tuple[RowLayout, ...], output: RowLayout, batch: int
    ) -> None:
        self.batch = batch
        self._stream = stream
        self._inputs = {layout.name: layout for layout in inputs}
        self._output = output
        self._buffers: dict[str, DeviceBuffer] = {}
        self._slots: list[_Slot] = []
        driver = device.driver
        try:
            for layout in (*inputs, output):
                self._buffers[layout.name] = DeviceBuffer(driver, batch * layout.bytes)
            for _ in range(_RING):
                pinned: dict[str, PinnedBuffer] = {}
                self._slots.append(_Slot(pinned, Event(driver)))
                for layout in (*inputs, output):
                    pinned[layout.name] = PinnedBuffer(driver, batch * layout.bytes)
        except BaseException:
            self.free()
            raise

    def address(self, name: str) -> int:
        """Where an input or the output lies on the device."""
        return self._buffers[name].address

    def run_feeds(
        self, feeds: Mapping[str, NDArray[Any]], enqueue: Callable[[int, Mapping[str, tuple[int, ...]]], None]
    ) -> NDArray[Any]:
        """Run rows of the host.

        Args:
            feeds: Every input by name, equally many rows, none longer than its layout.
            enqueue: Runs the graph, given the number of rows and the shape of each input.

        Returns:
            The output, in its own type.
        """
        rows = {name: array.shape[1:] for name, array in feeds.items()}

        def fill(some: range, slot: _Slot) -> None:
            for name, array in feeds.items():
                part = array[some.start : some.stop]
                slot.buffers[name].view(array.dtype, part.shape)[...] = part
                self._stream.upload(slot.buffers[name], self._buffers[name], part.nbytes)

        return self._run(len(next(iter(feeds.values()))), rows, fill, enqueue)

    def run_filled(
        self, count: int, fill: Fill, enqueue: Callable[[int, Mapping[str, tuple[int, ...]]], None]
    ) -> NDArray[Any]:
        """Run rows of the only input that ``fill`` writes on the device."""
        ((name, layout),) = self._inputs.items()

        def filled(some: range, slot: _Slot) -> None:
            fill(some, self._buffers[name].address, self._stream)

        return self._run(count, {name: layout.shape}, filled, enqueue)

    def free(self) -> None:
        """Give everything back; nothing may be running."""
        for slot in self._slots:
            slot.done.free()
            for pinned in slot.buffers.values():
                pinned.free()
        for buffer in self._buffers.values():
            buffer.free()
        self._slots, self._buffers = [], {}

    def _run(
        self,
        count: int,
        rows: Mapping[str, tuple[int, ...]],
        fill: Callable[[range, _Slot], None],
        enqueue: Callable[[int, Mapping[str, tuple[int, ...]]], None],
    ) -> NDArray[Any]:
        result = np.empty((count, *self._output.shape), self._output.dtype)
        try:
            for i, some in enumerate(_batches(count, self.batch)):
                slot = self._slots[i % _RING]
                self._collect(slot, result)
                fill(some, slot)
                enqueue(len(some), {name: (len(some), *row) for name, row in rows.items()})
                name = self._output.name
                self._stream.download(self._buffers[name], slot.buffers[name], len(some) * self._output.bytes)
                slot.done.record(self._stream)
                slot.rows = some
            for slot in self._slots:
                self._collect(slot, result)
        except BaseException:
            self._forget()
            raise
        return result

    def _forget(self) -> None:
        """After a failure: nothing of it may reach the next result."""
        with contextlib.suppress(BackendError):
            self._stream.synchronize()
        for slot in self._slots:
            slot.rows = range(0)

    def _collect(self, slot: _Slot, result: NDArray[Any]) -> None:
        """Wait for the batch in a slot, and copy it to its place."""
        if slot.rows:
            slot.done.wait()
            view = slot.buffers[self._output.name].view(
                self._output.dtype, (len(slot.rows), *self._output.shape)
            )
            result[slot.rows.start : slot.rows.stop] = view
            slot.rows = range(0)


def _batches(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
