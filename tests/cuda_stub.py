"""The driver that is made for the host (``lrsclip_kernels/host/driver.c``) and its switches."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lrsclip_kernels.host_build import host_driver_command
from lrsclip_rt.cuda.driver import Driver


class CudaStub:
    """The stub, and the switches of it; ``library`` is a file of its own, since its counters are."""

    @staticmethod
    def compile(folder: Path) -> Path:
        """Make the library."""
        if shutil.which("gcc") is None:
            pytest.skip("gcc is not installed: it makes the stub of libcuda")
        library = folder / "libcuda_stub.so"
        done = subprocess.run(
            host_driver_command(library), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return library

    def __init__(self, library: Path) -> None:
        self.path = str(library)
        self.library = ctypes.CDLL(self.path)
        self.library.stub_configure.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_uint64)
        self.library.stub_used.restype = ctypes.c_uint64
        self._callback: object = None

    def driver(self) -> Driver:
        return Driver(self.path)

    def configure(
        self, *, devices: int = 1, capability: tuple[int, int] = (8, 7), memory_bytes: int = 1 << 40
    ) -> None:
        self.library.stub_configure(devices, *capability, memory_bytes)

    def on_launch(self, function: Callable[[int], None]) -> None:
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(function)
        self.library.stub_on_launch(self._callback)

    def fail_captures(self, yes: bool) -> None:
        self.library.stub_fail_captures(int(yes))

    def launched(self) -> tuple[int, ...]:
        """Grid, block, shared memory and the two arguments (64 and 32 bits) of the last kernel."""
        seen = (ctypes.c_int64 * 9)()
        self.library.stub_launch(seen)
        return tuple(seen)

    def set_integrated(self, yes: bool) -> None:
        """Whether the device shares the host's memory, as a Jetson's does."""
        self.library.stub_set_integrated(int(yes))

    @property
    def kernel_launches(self) -> int:
        """Kernels that were launched, of whatever module."""
        return int(self.library.stub_kernel_launches())

    @property
    def capturing(self) -> bool:
        return bool(self.library.stub_capturing())

    @property
    def used_bytes(self) -> int:
        return int(self.library.stub_used())

    @property
    def open_handles(self) -> int:
        """Streams, events, graphs, modules and page-locked buffers that were not given back."""
        return int(self.library.stub_handles())

    @property
    def contexts(self) -> int:
        return int(self.library.stub_contexts())
