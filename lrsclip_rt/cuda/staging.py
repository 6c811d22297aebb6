"""Small and large arrays of one batch to the device in one copy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.cuda.device import Device
from lrsclip_rt.cuda.memory import DeviceBuffer, PinnedBuffer
from lrsclip_rt.cuda.streams import Event, Stream

__all__ = ["Staging", "staged_bytes"]

_ALIGNMENT = 256
_RING = 2


class Staging:
    """Arrays of the host to one place of the device in one copy; one set fills while another is copied.

    Args:
        device: Its context must be current in all calls.
    """

    def __init__(self, device: Device) -> None:
        self._driver = device.driver
        self._pinned: list[PinnedBuffer | None] = [None] * _RING
        self._memory: list[DeviceBuffer | None] = [None] * _RING
        self._copied = [Event(device.driver) for _ in range(_RING)]
        self._used = [False] * _RING
        self._next = 0
        self._filled = 0

    def begin(self, size_bytes: int, stream: Stream) -> int:
        """Choose the next set, and wait until the device is done with it.

        Args:
            size_bytes: What all ``put`` of this turn take, each rounded up to 256.
            stream: In which the device works with it.

        Returns:
            Where it will lie on the device.

        Raises:
            DeviceMemoryError: If there is no memory for it.
        """
        self._next = (self._next + 1) % _RING
        self._filled = 0
        if self._used[self._next]:
            self._copied[self._next].wait()
        pinned, memory = self._pinned[self._next], self._memory[self._next]
        if pinned is None or memory is None or pinned.size_bytes < size_bytes:
            if memory is not None:
                # Work before it in the stream may still read the old one.
                stream.synchronize()
            for one in (pinned, memory):
                if one is not None:
                    one.free()
            self._pinned[self._next] = self._memory[self._next] = None
            size = max(size_bytes, 1 << 16)
            pinned = self._pinned[self._next] = PinnedBuffer(self._driver, size)
            memory = self._memory[self._next] = DeviceBuffer(self._driver, size)
        return memory.address

    def put(self, array: NDArray[np.generic]) -> int:
        """Append an array; returns where it begins, from the address that ``begin`` gave [bytes]."""
        pinned = self._pinned[self._next]
        assert pinned is not None
        offset, size = self._filled, array.nbytes
        assert offset + size <= pinned.size_bytes
        place = pinned.view(np.uint8, (pinned.size_bytes,))[offset : offset + size]
        place[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._filled = offset + staged_bytes(size)
        return offset

    def upload(self, stream: Stream) -> None:
        """Enqueue the copy of everything that was put."""
        pinned, memory = self._pinned[self._next], self._memory[self._next]
        assert pinned is not None
        assert memory is not None
        stream.upload(pinned, memory, min(self._filled, pinned.size_bytes))

    def release(self, stream: Stream) -> None:
        """Behind everything that is in ``stream`` now the set may be used again."""
        self._copied[self._next].record(stream)
        self._used[self._next] = True

    def free(self) -> None:
        """Give everything back; nothing may be running."""
        for one in (*self._pinned, *self._memory, *self._copied):
            if one is not None:
                one.free()


def staged_bytes(size_bytes: int) -> int:
    """What an array of that size takes in ``Staging``."""
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT
