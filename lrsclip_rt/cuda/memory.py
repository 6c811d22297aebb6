"""Memory of the device, and page-locked memory of the host that copies run from and to.

What goes to the device and back in small pieces lies best in mapped memory on a Jetson, which a kernel reads
where it is; on a card with memory of its own it would be read over the bus, each time.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lrsclip_rt.cuda.driver import Driver
from lrsclip_rt.errors import BackendError, DeviceMemoryError

__all__ = ["DeviceBuffer", "DevicePool", "PinnedBuffer", "pooled_size"]

_MAPPED = 2
_LEAST_BYTES = 1 << 12


class DeviceBuffer:
    """Memory of the current context's device.

    Args:
        driver: The driver.
        size_bytes: At least 1.

    Raises:
        DeviceMemoryError: If the device has not that much left.
    """

    def __init__(self, driver: Driver, size_bytes: int) -> None:
        self._driver = driver
        self.size_bytes = size_bytes
        address = ctypes.c_uint64()
        driver.call("cuMemAlloc_v2", ctypes.byref(address), size_bytes)
        self.address = address.value
        """As TensorRT and kernels take it; 0 once freed."""

    def free(self) -> None:
        """Give the memory back."""
        if self.address:
            address, self.address = self.address, 0
            self._driver.call("cuMemFree_v2", address)


class PinnedBuffer:
    """Page-locked memory of the host: copies from and to it run beside the CPU.

    Args:
        driver: The driver.
        size_bytes: At least 1.
        mapped: The device reads and writes it in place too, at ``device_address``.

    Raises:
        DeviceMemoryError: If that much cannot be locked.
    """

    def __init__(self, driver: Driver, size_bytes: int, *, mapped: bool = False) -> None:
        self._driver = driver
        self.size_bytes = size_bytes
        address, seen = ctypes.c_void_p(), ctypes.c_uint64()
        driver.call("cuMemHostAlloc", ctypes.byref(address), size_bytes, _MAPPED if mapped else 0)
        self.address = address.value or 0
        """0 once freed."""
        if mapped:
            try:
                driver.call("cuMemHostGetDevicePointer_v2", ctypes.byref(seen), self.address, 0)
            except BackendError:
                self.free()
                raise
        self.device_address = seen.value
        """Where the device sees it; 0 unless it is mapped."""

    def view(self, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
        """Its beginning as an array; not to be used after ``free``."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        assert count * kind.itemsize <= self.size_bytes
        raw = (ctypes.c_uint8 * (count * kind.itemsize)).from_address(self.address)
        return np.frombuffer(memoryview(raw), kind, count).reshape(shape)

    def free(self) -> None:
        """Give the memory back."""
        if self.address:
            address, self.address = self.address, 0
            self._driver.call("cuMemFreeHost", address)


class DevicePool:
    """Device memory that is taken and given back often: the driver is asked once for each size.

    Sizes are rounded up to an eighth of their power of two, so that batches of nearly equal size share.
    Whoever gives memory back answers for it that the device is done with it, or goes on in the same stream.

    Args:
        driver: The driver; the context must be current in all calls.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._idle: dict[int, list[DeviceBuffer]] = {}

    def take(self, size_bytes: int) -> DeviceBuffer:
        """Memory of at least that size; what is in it is not known.

        Raises:
            DeviceMemoryError: If the device has not that much left, also without what lies idle here.
        """
        size = pooled_size(size_bytes)
        idle = self._idle.get(size)
        if idle:
            return idle.pop()
        try:
            return DeviceBuffer(self._driver, size)
        except DeviceMemoryError:
            self.free()
            return DeviceBuffer(self._driver, size)

    def give(self, buffer: DeviceBuffer) -> None:
        """Keep it for the next who asks for its size."""
        self._idle.setdefault(buffer.size_bytes, []).append(buffer)

    @property
    def idle_bytes(self) -> int:
        """What lies here unused."""
        return sum(size * len(buffers) for size, buffers in self._idle.items())

    def free(self) -> None:
        """Give what is idle back to the driver."""
        for buffers in self._idle.values():
            for buffer in buffers:
                buffer.free()
        self._idle.clear()


def pooled_size(size_bytes: int) -> int:
    """The size that a pool asks the driver for.

    Example:
        >>> pooled_size(1), pooled_size(1_000_000), pooled_size(1 << 20)
        (4096, 1048576, 1048576)
    """
    size = max(size_bytes, _LEAST_BYTES)
    step = max(1, 1 << max(0, (size - 1).bit_length() - 4))
    return -(-size // step) * step
