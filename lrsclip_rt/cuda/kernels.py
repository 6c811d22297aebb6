"""Kernels on the device: compiled once for its architecture, kept in the user's cache, loaded by name."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
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

__all__ = [
    "Argument",
    "KernelModule",
    "compiled_cubin",
    "cubin_for",
    "nvcc_cubin",
    "source_hash",
    "write_cubins",
]

Argument = ctypes.c_int | ctypes.c_int64 | ctypes.c_uint64 | ctypes.c_float
"""What a kernel takes, of its exact type; addresses are ``c_uint64``."""

_ELF = b"\x7fELF"
_PLAIN_SHARED_BYTES = 48 << 10
_MAX_DYNAMIC_SHARED = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""


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


def compiled_cubin(source: KernelSource, architecture: str) -> bytes:
    """Compile with NVRTC, which is one library, or else with the toolkit's nvcc.

    Raises:
        BackendError: If neither is here, or the one that is fails.
    """
    from lrsclip_rt.cuda.nvrtc import nvrtc_cubin, nvrtc_library

    if nvrtc_library() is not None:
        return nvrtc_cubin(source, architecture)
    if shutil.which("nvcc") is not None:
        return nvcc_cubin(source, architecture)
    raise BackendError(
        "the kernels cannot be compiled: there is neither NVRTC nor nvcc. Install one: "
        "pip install nvidia-cuda-nvrtc, or on Jetson put /usr/local/cuda/bin on the PATH"
    )


def cubin_for(
    source: KernelSource,
    architecture: str,
    compile_: Callable[[KernelSource, str], bytes] | None = None,
    *,
    near: Path | None = None,
) -> bytes:
    """Device code of a kernel file: from the cache, or compiled and kept there.

    What is damaged is compiled again; a cache that cannot be written only costs time.

    Args:
        source: The kernel file.
        architecture: Of the device.
        compile_: Makes the cubin; default ``compiled_cubin``.
        near: A folder of ``write_cubins`` where it may lie too, such as that of the engines.

    Raises:
        BackendError: If it cannot be compiled.
    """
    beside = None if near is None else _read(near / _file_name(source, architecture))
    if beside is not None:
        return beside
    path = _cache_path(source, architecture)
    kept = None if path is None else _read(path)
    if kept is not None:
        return kept
    cubin = (compile_ or compiled_cubin)(source, architecture)
    if path is not None:
        _write(path, cubin)
    return cubin


def write_cubins(folder: Path, architecture: str) -> None:
    """Put device code of all kernels into a folder, from the cache or compiled.

    Raises:
        BackendError: If it cannot be compiled; nothing is written then.
        OSError: If the folder cannot be written.
    """
    from lrsclip_kernels import SOURCES

    made = {_file_name(source, architecture): cubin_for(source, architecture) for source in SOURCES}
    for name, cubin in made.items():
        (folder / name).write_bytes(_checked(cubin))


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
        arguments: Sequence[Argument],
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
        if shared_bytes > _PLAIN_SHARED_BYTES:
            self._driver.call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, shared_bytes)
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(one) for one in arguments))
        self._driver.call(
            "cuLaunchKernel", function, *grid, *block, shared_bytes, stream.handle, pointers, None
        )

    def free(self) -> None:
        """Unload the code; none of it may be running."""
        if self._handle.value:
            self._driver.call("cuModuleUnload", self._handle)
            self._handle = ctypes.c_void_p()


def _file_name(source: KernelSource, architecture: str) -> str:
    return f"{source.name}-{architecture}-{source_hash(source)[:32]}.cubin"


def _checked(cubin: bytes) -> bytes:
    """As it lies on disk: the file ends with the hash of the rest."""
    return cubin + hashlib.sha256(cubin).digest()


def _cache_path(source: KernelSource, architecture: str) -> Path | None:
    with contextlib.suppress(OSError):
        return cache_folder() / "kernels" / _file_name(source, architecture)
    return None


def _read(path: Path) -> bytes | None:
    """What is kept, if it is whole."""
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
                stream.write(_checked(cubin))
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
