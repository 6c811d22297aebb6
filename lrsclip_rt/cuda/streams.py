"""Streams, events, and graphs that were captured from a stream."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable

from lrsclip_rt.cuda.driver import Driver
from lrsclip_rt.cuda.memory import DeviceBuffer, PinnedBuffer
from lrsclip_rt.errors import LrsclipError

__all__ = ["Event", "Graph", "Stream"]

_NON_BLOCKING = 1
_DISABLE_TIMING = 2
_CAPTURE_THREAD_LOCAL = 1
"""Calls of other threads that a capture forbids do not break it."""


class Event:
    """A point of a stream's work that the host can wait for.

    Args:
        driver: The driver.
        timed: It also keeps its time; one that does not is cheaper.
    """

    def __init__(self, driver: Driver, *, timed: bool = False) -> None:
        self._driver = driver
        self._handle = ctypes.c_void_p()
        driver.call("cuEventCreate", ctypes.byref(self._handle), 0 if timed else _DISABLE_TIMING)

    @property
    def handle(self) -> int:
        """As the driver takes it."""
        return self._handle.value or 0

    def record(self, stream: Stream) -> None:
        """Set the point behind everything that is in ``stream`` now."""
        self._driver.call("cuEventRecord", self._handle, stream.handle)

    def wait(self) -> None:
        """Block until the point is reached; errors of earlier work are raised here."""
        self._driver.call("cuEventSynchronize", self._handle)

    def ms_since(self, earlier: Event) -> float:
        """Time of the device from ``earlier`` to here [ms]; both are timed and were reached."""
        found = ctypes.c_float()
        self._driver.call("cuEventElapsedTime", ctypes.byref(found), earlier.handle, self.handle)
        return found.value

    def free(self) -> None:
        """Destroy the event."""
        if self._handle.value:
            self._driver.call("cuEventDestroy_v2", self._handle)
            self._handle = ctypes.c_void_p()


class Graph:
    """Work that was captured once and is launched with one call."""

    def __init__(self, driver: Driver, handle: ctypes.c_void_p) -> None:
        self._driver = driver
        self._handle = handle

    def launch(self, stream: Stream) -> None:
        """Enqueue all of it."""
        self._driver.call("cuGraphLaunch", self._handle, stream.handle)

    def free(self) -> None:
        """Destroy the graph; it must not be running."""
        if self._handle.value:
            self._driver.call("cuGraphExecDestroy", self._handle)
            self._handle = ctypes.c_void_p()


class Stream:
    """A queue of work of the current context; not the default stream, with which nothing can be captured."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._handle = ctypes.c_void_p()
        driver.call("cuStreamCreate", ctypes.byref(self._handle), _NON_BLOCKING)

    @property
    def handle(self) -> int:
        """As TensorRT takes it."""
        return self._handle.value or 0

    def copy(self, source: int, target: int, size_bytes: int) -> None:
        """Enqueue a copy from one address of the device to another."""
        self._driver.call("cuMemcpyDtoDAsync_v2", target, source, size_bytes, self.handle)

    def fill(self, target: int, value: int, size_bytes: int) -> None:
        """Enqueue that each byte from an address on becomes ``value``."""
        self._driver.call("cuMemsetD8Async", target, value, size_bytes, self.handle)

    def upload(self, source: PinnedBuffer, target: DeviceBuffer, size_bytes: int) -> None:
        """Enqueue a copy to the device; ``source`` must stay as it is until it ran."""
        self.upload_to(source, target.address, size_bytes)

    def upload_to(self, source: PinnedBuffer, address: int, size_bytes: int) -> None:
        """The same to any address of the device."""
        self._driver.call("cuMemcpyHtoDAsync_v2", address, source.address, size_bytes, self.handle)

    def download(self, source: DeviceBuffer, target: PinnedBuffer, size_bytes: int) -> None:
        """Enqueue a copy from the device."""
        self._driver.call("cuMemcpyDtoHAsync_v2", target.address, source.address, size_bytes, self.handle)

    def synchronize(self) -> None:
        """Block until all work is done; its errors are raised here."""
        self._driver.call("cuStreamSynchronize", self.handle)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """Capture what ``enqueue`` puts into this stream; none of it runs.

        Raises:
            BackendError: If something in it cannot be captured.
        """
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._driver.call("cuStreamBeginCapture_v2", self.handle, _CAPTURE_THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            # The stream must leave the capture, whatever came of it; the first error is the one to see.
            with contextlib.suppress(LrsclipError):
                self._driver.call("cuStreamEndCapture", self.handle, ctypes.byref(graph))
                self._destroy(graph)
            raise
        self._driver.call("cuStreamEndCapture", self.handle, ctypes.byref(graph))
        try:
            self._driver.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            self._destroy(graph)
        return Graph(self._driver, executable)

    def free(self) -> None:
        """Destroy the stream."""
        if self._handle.value:
            self._driver.call("cuStreamDestroy_v2", self._handle)
            self._handle = ctypes.c_void_p()

    def _destroy(self, graph: ctypes.c_void_p) -> None:
        if graph.value:
            self._driver.call("cuGraphDestroy", graph)
