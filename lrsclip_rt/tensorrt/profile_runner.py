"""One profile of an engine, ready to run: context, buffers whose addresses are set once, and a CUDA graph.

Batches go through a ring of two sets of page-locked buffers, so that the host fills one while the device
works on the other. A graph is captured when a batch size comes twice in a row, the first run having been the
warm-up, and dropped when another comes: a graph holds for one set of shapes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.cuda.batch_ring import Fill, RowLayout
from lrsclip_rt.cuda.device import Device
from lrsclip_rt.cuda.memory import DeviceBuffer, PinnedBuffer
from lrsclip_rt.cuda.streams import Event, Graph, Stream
from lrsclip_rt.errors import BackendError, DeviceMemoryError
from lrsclip_rt.tensorrt.profiles import Profile
from lrsclip_rt.tensorrt.reporting import Messages

if TYPE_CHECKING:
    import tensorrt

__all__ = ["ProfileRunner"]

_log = logging.getLogger(__name__)

_RING = 2


@dataclass(slots=True, eq=False)
class _Slot:
    """Page-locked buffers of one batch, and the rows of the result that wait in it."""

    buffers: Mapping[str, PinnedBuffer]
    done: Event
    rows: range = field(default_factory=lambda: range(0))


class ProfileRunner:
    """Runs batches of one profile; not to be shared between threads.

    Args:
        trt: The bindings.
        engine: The engine.
        index: The profile's number in it.
        profile: Its shapes.
        output: One row of the output.
        dtypes: NumPy's names of the inputs' types.
        device: Its context must be current in all calls.
        stream: Where everything is enqueued.
        batch: The largest batch to be run, at most the profile's.
        messages: What the engine's logger keeps.

    Raises:
        DeviceMemoryError: If its memory does not fit.
        BackendError: If TensorRT refuses.
    """

    def __init__(
        self,
        trt: ModuleType,
        engine: tensorrt.ICudaEngine,
        index: int,
        profile: Profile,
        *,
        output: RowLayout,
        dtypes: Mapping[str, str],
        device: Device,
        stream: Stream,
        batch: int,
        messages: Messages,
    ) -> None:
        self.batch = batch
        self._profile = profile
        self._device = device
        self._stream = stream
        self._messages = messages
        self._inputs = tuple(RowLayout(name, dtypes[name], row) for name, row in profile.rows.items())
        self._output = output
        self._buffers: dict[str, DeviceBuffer] = {}
        self._scratch: DeviceBuffer | None = None
        self._slots: list[_Slot] = []
        self._graph: Graph | None = None
        self._graphs_work = True
        self._shaped = 0
        """The batch whose shapes are set and were run."""
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._context: tensorrt.IExecutionContext = engine.create_execution_context(strategy)
        try:
            self._prepare(engine, index)
        except BaseException:
            self.free()
            raise

    @property
    def captured(self) -> bool:
        """The next batch of the same size is one launch."""
        return self._graph is not None

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run any number of rows.

        Args:
            feeds: Every input by name, in its type and with the row shapes of the profile.

        Returns:
            The output, in the engine's type.
        """

        def fill(rows: range, slot: _Slot) -> None:
            for layout in self._inputs:
                shape = (len(rows), *layout.shape)
                pinned = slot.buffers[layout.name]
                pinned.view(layout.dtype, shape)[...] = feeds[layout.name][rows.start : rows.stop]
                self._stream.upload(pinned, self._buffers[layout.name], len(rows) * layout.bytes)

        return self._run(len(feeds[self._inputs[0].name]), fill)

    def run_filled(self, count: int, fill: Fill) -> NDArray[Any]:
        """Run rows of the only input that ``fill`` writes on the device."""
        (layout,) = self._inputs
        address = self._buffers[layout.name].address
        return self._run(count, lambda rows, slot: fill(rows, address, self._stream))

    def _run(self, count: int, fill: Callable[[range, _Slot], None]) -> NDArray[Any]:
        result = np.empty((count, *self._output.shape), self._output.dtype)
        try:
            self._run_into(result, fill)
        except BaseException:
            self._forget()
            raise
        return result

    def _run_into(self, result: NDArray[Any], fill: Callable[[range, _Slot], None]) -> None:
        for i, rows in enumerate(_batches(len(result), self.batch)):
            slot = self._slots[i % _RING]
            self._collect(slot, result)
            fill(rows, slot)
            self._enqueue(len(rows))
            name = self._output.name
            self._stream.download(self._buffers[name], slot.buffers[name], len(rows) * self._output.bytes)
            slot.done.record(self._stream)
            slot.rows = rows
        for slot in self._slots:
            self._collect(slot, result)

    def _forget(self) -> None:
        """After a failure: nothing of it may reach the next result."""
        with contextlib.suppress(BackendError):
            self._stream.synchronize()
        self._shaped = 0
        for slot in self._slots:
            slot.rows = range(0)

    def free(self) -> None:
        """Give everything back; nothing may be running."""
        self._drop_graph()
        self._context = None
        for slot in self._slots:
            slot.done.free()
            for pinned in slot.buffers.values():
                pinned.free()
        for buffer in (*self._buffers.values(), self._scratch):
            if buffer is not None:
                buffer.free()
        self._slots, self._buffers, self._scratch = [], {}, None

    def _prepare(self, engine: tensorrt.ICudaEngine, index: int) -> None:
        """Choose the profile, then set every address once."""
        driver = self._device.driver
        if self._context is None:
            raise self._refusal("TensorRT made no execution context")
        self._accepted(
            self._context.set_optimization_profile_async(index, self._stream.handle), "the profile"
        )
        self._stream.synchronize()
        self._set_shapes(self.batch)
        if self.batch == self._profile.maximum:
            needed = engine.get_device_memory_size_for_profile_v2(index)
        else:
            needed = self._context.update_device_memory_size_for_shapes()
        if needed:
            self._scratch = DeviceBuffer(driver, needed)
            self._context.set_device_memory(self._scratch.address, needed)
        for layout in (*self._inputs, self._output):
            buffer = DeviceBuffer(driver, self.batch * layout.bytes)
            self._buffers[layout.name] = buffer
            self._accepted(self._context.set_tensor_address(layout.name, buffer.address), layout.name)
        for _ in range(_RING):
            pinned: dict[str, PinnedBuffer] = {}
            self._slots.append(_Slot(pinned, Event(driver)))
            for layout in (*self._inputs, self._output):
                pinned[layout.name] = PinnedBuffer(driver, self.batch * layout.bytes)

    def _enqueue(self, count: int) -> None:
        if count != self._shaped:
            self._drop_graph()
            # Until the run below succeeded nothing is known to be set.
            self._shaped = 0
            self._set_shapes(count)
            self._execute()
            self._shaped = count
            return
        if self._graph is None and self._graphs_work:
            self._capture()
        if self._graph is None:
            self._execute()
        else:
            self._graph.launch(self._stream)

    def _capture(self) -> None:
        """Capture a run of the shapes that are set; what cannot be captured is enqueued call by call."""
        try:
            self._graph = self._stream.capture(self._execute)
        except BackendError as error:
            self._graphs_work = False
            _log.warning("an engine cannot be captured as a CUDA graph and runs without one: %s", error)

    def _set_shapes(self, count: int) -> None:
        for name, shape in self._profile.shapes(count).items():
            self._accepted(self._context.set_input_shape(name, shape), f"{name} {shape}")

    def _execute(self) -> None:
        self._accepted(self._context.execute_async_v3(self._stream.handle), "the run")

    def _accepted(self, answer: bool, what: str) -> None:
        if not answer:
            raise self._refusal(f"TensorRT refused {what}")

    def _refusal(self, what: str) -> BackendError:
        """TensorRT allocates too, and says so in words alone."""
        words = self._messages.text()
        kind = DeviceMemoryError if "outofmemory" in words.replace(" ", "").lower() else BackendError
        return kind(f"{what}: {words}")

    def _collect(self, slot: _Slot, result: NDArray[Any]) -> None:
        """Wait for the batch in a slot, and copy it to its place."""
        if slot.rows:
            slot.done.wait()
            view = slot.buffers[self._output.name].view(
                self._output.dtype, (len(slot.rows), *self._output.shape)
            )
            result[slot.rows.start : slot.rows.stop] = view
            slot.rows = range(0)

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._stream.synchronize()
            self._graph.free()
            self._graph = None


def _batches(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
