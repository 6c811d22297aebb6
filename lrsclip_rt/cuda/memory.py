"""Memory of the device, and page-locked memory of the host that copies run from and to."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lrsclip_rt.cuda.driver import Driver

__all__ = ["DeviceBuffer", "PinnedBuffer"]


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

    Raises:
        DeviceMemoryError: If that much cannot be locked.
    """

    def __init__(self, driver: Driver, size_bytes: int) -> None:
        self._driver = driver
        self.size_bytes = size_bytes
        address = ctypes.c_void_p()
        driver.call("cuMemHostAlloc", ctypes.byref(address), size_bytes, 0)
        self.address = address.value or 0
        """0 once freed."""

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
