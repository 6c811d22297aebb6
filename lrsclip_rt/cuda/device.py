"""One GPU: what it is, and its primary context."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from lrsclip_rt.cuda.driver import Driver
from lrsclip_rt.errors import BackendError, InputError

__all__ = ["Device", "DeviceInfo", "bus_id", "device_index", "device_info"]

_MULTIPROCESSORS, _INTEGRATED = 16, 18
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_SHARED_BYTES_AT_MOST = 97
_NAME_BYTES, _BUS_ID_BYTES = 256, 32


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What a GPU is.

    Attributes:
        index: Its number, as in ``cuda:0``.
        name: As the driver calls it.
        capability: Compute capability, for example ``(8, 7)``.
        multiprocessors: How many; 0 where nobody asked.
        shared_bytes: Shared memory that a block may ask for [bytes].
        integrated: It shares the host's memory, as a Jetson's does.
    """

    index: int
    name: str
    capability: tuple[int, int]
    multiprocessors: int = 0
    shared_bytes: int = 48 << 10
    integrated: bool = False

    @property
    def architecture(self) -> str:
        """For example ``sm_87``.

        Example:
            >>> DeviceInfo(0, "Orin", (8, 7)).architecture
            'sm_87'
        """
        return f"sm_{self.capability[0]}{self.capability[1]}"


def device_index(device: str | None) -> int:
    """The number of ``cuda``, ``cuda:0`` ...; 0 where nothing is said.

    Raises:
        InputError: If it is no such name.

    Example:
        >>> device_index("cuda:1"), device_index(None)
        (1, 0)
    """
    kind, _, number = (device or "cuda").partition(":")
    if kind.lower() != "cuda" or (number and not number.isdecimal()):
        raise InputError(f"device {device!r} is no GPU, expected cuda or cuda:N")
    return int(number or 0)


def device_info(driver: Driver, index: int = 0) -> DeviceInfo:
    """Ask the driver what a GPU is; makes no context.

    Raises:
        BackendError: If there is no GPU of that number.
    """
    count, handle = ctypes.c_int(), ctypes.c_int()
    driver.call("cuDeviceGetCount", ctypes.byref(count))
    if not 0 <= index < count.value:
        raise BackendError(f"there is no cuda:{index}: the driver finds {count.value} GPU(s)")
    driver.call("cuDeviceGet", ctypes.byref(handle), index)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    driver.call("cuDeviceGetName", name, _NAME_BYTES, handle)

    def attribute(number: int) -> int:
        found = ctypes.c_int()
        driver.call("cuDeviceGetAttribute", ctypes.byref(found), number, handle)
        return found.value

    return DeviceInfo(
        index,
        name.value.decode("utf-8", "replace"),
        (attribute(_CAPABILITY_MAJOR), attribute(_CAPABILITY_MINOR)),
        attribute(_MULTIPROCESSORS),
        attribute(_SHARED_BYTES_AT_MOST),
        bool(attribute(_INTEGRATED)),
    )


def bus_id(driver: Driver, index: int = 0) -> str:
    """A GPU's PCI address, by which other libraries know it: they may number GPUs in another order.

    Raises:
        BackendError: If there is no GPU of that number.
    """
    handle, text = ctypes.c_int(), ctypes.create_string_buffer(_BUS_ID_BYTES)
    driver.call("cuDeviceGet", ctypes.byref(handle), index)
    driver.call("cuDeviceGetPCIBusId", text, _BUS_ID_BYTES, handle)
    return text.value.decode("ascii", "replace")


class Device:
    """A GPU whose primary context is retained until ``close``.

    Args:
        driver: The driver.
        index: The GPU's number.

    Raises:
        BackendError: If there is no such GPU, or its context cannot be made.
    """

    def __init__(self, driver: Driver, index: int = 0) -> None:
        self.driver = driver
        self.info = device_info(driver, index)
        self._handle = ctypes.c_int()
        driver.call("cuDeviceGet", ctypes.byref(self._handle), index)
        self._context: ctypes.c_void_p | None = ctypes.c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._handle)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread for the block, and what was current before afterwards."""
        if self._context is None:
            raise BackendError(f"cuda:{self.info.index} was closed")
        self.driver.call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            popped = ctypes.c_void_p()
            self.driver.call("cuCtxPopCurrent_v2", ctypes.byref(popped))

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total memory [bytes]."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        with self.current():
            self.driver.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def close(self) -> None:
        """Release the context; what was allocated in it must have been freed."""
        if self._context is not None:
            self._context = None
            self.driver.call("cuDevicePrimaryCtxRelease_v2", self._handle)
