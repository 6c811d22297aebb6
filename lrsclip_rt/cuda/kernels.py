"""Kernels on the device: compiled once for its architecture, kept in the user's cache, loaded by name."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrsclip_rt.cuda.driver import Driver
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.errors import BackendError
from lrsclip_rt.file_stamps import cache_folder

if TYPE_CHECKING:
    from lrsclip_kernels import KernelSource

__all__ = ["KernelModule", "cubin_for", "nvcc_cubin", "source_hash"]

_ELF = b"\x7fELF"


def source_hash(source: KernelSource) -> str:
    """Hex SHA-256 of a kernel file and of the headers that lie beside it, any of which it may include."""
    digest = hashlib.sha256()
    for path in [source.path, *sorted(source.path.parent.glob("*.cuh"))]:
        digest.update(f"{path.name}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def nvcc_cubin(source: KernelSource, architecture: str) -> bytes:
    """Compile with the toolkit's nvcc.

    Args:
        source: The kernel file.
        architecture: For example ``sm_87``.

    Raises:
        BackendError: If nvcc is missing or fails; with its words.
    """
    from lrsclip_kernels.nvcc import nvcc_command

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"{source.name}.cubin"
        command = nvcc_command(source.path, architecture, output)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise BackendError(
                "nvcc is not on the PATH. Install the CUDA toolkit, or add its bin folder to the PATH"
            ) from error
        if done.returncode != 0:
            words = " ".join((done.stderr or done.stdout).split())[:300]
            raise BackendError(f"nvcc cannot compile {source.path.name} for {architecture}: {words}")
        return output.read_bytes()


def cubin_for(
    source: KernelSource, architecture: str, compile_: Callable[[KernelSource, str], bytes] = nvcc_cubin
) -> bytes:
    """Device code of a kernel file: from the cache, or compiled and kept there.

    What is damaged is compiled again; a cache that cannot be written only costs time.

    Args:
        source: The kernel file.
        architecture: Of the device.
        compile_: Makes the cubin.

    Raises:
        BackendError: If it cannot be compiled.
    """
    path = _cache_path(source_hash(source), architecture, source.name)
    kept = None if path is None else _read(path)
    if kept is not None:
        return kept
    cubin = compile_(source, architecture)
    if path is not None:
        _write(path, cubin)
    return cubin


class KernelModule:
    """Loaded device code.

    Args:
        driver: The driver; a context must be current.
        cubin: From ``cubin_for``.

    Raises:
        BackendError: If the code is not for this device.
    """

    def __init__(self, driver: Driver, cubin: bytes) -> None:
        self._driver = driver
        self._handle = ctypes.c_void_p()
        driver.call("cuModuleLoadData", ctypes.byref(self._handle), cubin)

    def launch(
        self,
        kernel: str,
        *,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: Sequence[ctypes.c_int | ctypes.c_uint64 | ctypes.c_float],
        stream: Stream,
        shared_bytes: int = 0,
    ) -> None:
        """Enqueue a kernel.

        Args:
            kernel: Its name.
            grid: Blocks.
            block: Threads of a block.
            arguments: In their order and of their exact types; addresses as ``c_uint64``.
            stream: Where it is enqueued.
            shared_bytes: Dynamic shared memory of a block.

        Raises:
            BackendError: If there is no such kernel, or it cannot be launched.
        """
        function = ctypes.c_void_p()
        self._driver.call("cuModuleGetFunction", ctypes.byref(function), self._handle, kernel.encode())
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(one) for one in arguments))
        self._driver.call(
            "cuLaunchKernel", function, *grid, *block, shared_bytes, stream.handle, pointers, None
        )

    def free(self) -> None:
        """Unload the code; none of it may be running."""
        if self._handle.value:
            self._driver.call("cuModuleUnload", self._handle)
            self._handle = ctypes.c_void_p()


def _cache_path(key: str, architecture: str, name: str) -> Path | None:
    with contextlib.suppress(OSError):
        return cache_folder() / "kernels" / f"{name}-{architecture}-{key[:32]}.cubin"
    return None


def _read(path: Path) -> bytes | None:
    """What is kept, if it is whole: the file ends with the hash of the rest."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    cubin, check = content[:-size], content[-size:]
    return cubin if cubin.startswith(_ELF) and hashlib.sha256(cubin).digest() == check else None


def _write(path: Path, cubin: bytes) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".cubin-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(cubin + hashlib.sha256(cubin).digest())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
