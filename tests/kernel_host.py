"""Kernels compiled for the host and launched through ctypes on NumPy arrays."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrsclip_kernels import KernelSource
from lrsclip_kernels.host_build import host_command, host_unit


class KernelError(Exception):
    """What the shim reported."""


class HostKernels:
    """A loaded library of host-compiled kernels.

    Args:
        library: Made by ``compile_for_host``.
    """

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        threads: int | Sequence[int],
        arguments: Sequence[Any],
        *,
        shared_bytes: int = 0,
        seed: int = 0,
    ) -> None:
        """Run a kernel to its end. Arrays go by address, NumPy scalars by value, None as a null pointer."""
        function = getattr(self.library, f"launch_{kernel}")
        function.restype = ctypes.c_char_p
        held = [_parameter(argument) for argument in arguments]
        addresses = (ctypes.c_void_p * len(held))(*[value.ctypes.data for value in held])
        block = (threads, 1, 1) if isinstance(threads, int) else tuple(threads)
        report = function(
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block),
            ctypes.c_uint(shared_bytes),
            ctypes.c_ulonglong(seed),
            addresses,
        )
        if report is not None:
            raise KernelError(f"{kernel}: {report.decode()}")


def _parameter(argument: Any) -> np.ndarray:
    """One element that holds a parameter: a pointer for an array, else the value itself."""
    if argument is None:
        return np.zeros(1, np.uint64)
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return np.array([argument.ctypes.data], np.uint64)
    assert isinstance(argument, np.generic), f"{argument!r} has no width; pass np.int32(...) or the like"
    return np.array([argument])


def compile_for_host(
    source: Path,
    kernels: Sequence[str],
    folder: Path,
    *,
    sanitize: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Path:
    """A shared library of one kernel file."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the host")
    unit, library = folder / f"{source.stem}.cpp", folder / f"{source.stem}.so"
    unit.write_text(host_unit(source, kernels))
    command = host_command(unit, library, sanitize=sanitize, options=options)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return library


def kernels_from_source(source: KernelSource, folder: Path) -> HostKernels:
    """Compile a kernel file of ours as it is."""
    return HostKernels(compile_for_host(source.path, source.kernels(), folder))


def skip_a_barrier(source: KernelSource, folder: Path) -> tuple[Path, int]:
    """A copy of a kernel file in which ``skipped_barrier`` says which of its barriers is left out.

    Returns:
        The copy, and how many barriers it has.
    """
    parts = source.path.read_text(encoding="utf-8").split("__syncthreads();")
    text = 'extern "C" int skipped_barrier;\nint skipped_barrier = -1;\n' + parts[0]
    for number, part in enumerate(parts[1:]):
        text += f"if (skipped_barrier != {number}) __syncthreads();" + part
    copy = folder / f"{source.name}.cu"
    copy.write_text(text.replace('"device.cuh"', f'"{source.path.parent / "device.cuh"}"'))
    return copy, len(parts) - 1
