"""Compile kernels with NVRTC: one library of CUDA that needs no toolkit, no host compiler and no GPU."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrsclip_rt.errors import BackendError

if TYPE_CHECKING:
    from lrsclip_kernels import KernelSource

__all__ = ["Compiled", "nvrtc_compiled", "nvrtc_cubin", "nvrtc_library", "nvrtc_version"]

_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
_TOOLKIT = Path("/usr/local/cuda/lib64")


@dataclass(frozen=True, slots=True)
class Compiled:
    """Device code, and what the compiler said."""

    cubin: bytes
    log: str


@lru_cache(maxsize=1)
def nvrtc_library() -> ctypes.CDLL | None:
    """NVRTC as pip installed it, of the toolkit, or on the library path; None where there is none."""
    for place in _places():
        try:
            return ctypes.CDLL(str(place))
        except OSError:
            continue
    return None


def nvrtc_cubin(source: KernelSource, architecture: str, library: ctypes.CDLL | None = None) -> bytes:
    """Compile a kernel file for one architecture; see ``nvrtc_compiled``."""
    return nvrtc_compiled(source, architecture, library).cubin


def nvrtc_compiled(
    source: KernelSource,
    architecture: str,
    library: ctypes.CDLL | None = None,
    *,
    options: Sequence[str] = (),
) -> Compiled:
    """Compile a kernel file for one architecture.

    Args:
        source: The kernel file.
        architecture: For example ``sm_87``.
        library: NVRTC; default the one that ``nvrtc_library`` finds.
        options: More of the compiler's options.

    Raises:
        BackendError: If there is no NVRTC, or it fails; with the compiler's words.
    """
    nvrtc: Any = library or nvrtc_library()
    if nvrtc is None:
        raise BackendError("NVRTC is not installed. Install it with: pip install nvidia-cuda-nvrtc")
    program = ctypes.c_void_p()
    text, name = source.path.read_bytes(), source.path.name.encode()
    _accepted(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None), name)
    try:
        told = ["--std=c++17", f"--gpu-architecture={architecture}", f"--include-path={source.path.parent}"]
        given = [option.encode() for option in (*told, *options)]
        status = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
        log = _bytes(nvrtc, "nvrtcGetProgramLog", program).decode("utf-8", "replace").rstrip("\0")
        if status != 0:
            words = " ".join(log.split())[:300]
            raise BackendError(f"NVRTC cannot compile {source.path.name} for {architecture}: {words}")
        return Compiled(_bytes(nvrtc, "nvrtcGetCUBIN", program), log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def nvrtc_version(library: ctypes.CDLL | None = None) -> str:
    """For example ``12.6``.

    Raises:
        BackendError: If there is no NVRTC.
    """
    nvrtc: Any = library or nvrtc_library()
    if nvrtc is None:
        raise BackendError("NVRTC is not installed. Install it with: pip install nvidia-cuda-nvrtc")
    major, minor = ctypes.c_int(), ctypes.c_int()
    _accepted(nvrtc, nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), b"nvrtcVersion")
    return f"{major.value}.{minor.value}"


def _places() -> Iterator[str | Path]:
    for package in ("nvidia.cuda_nvrtc", "nvidia.cu13"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in [] if spec is None else spec.submodule_search_locations or []:
            # Its second library, nvrtc-builtins, is found beside it.
            yield from sorted(Path(folder, "lib").glob("libnvrtc.so.*"), reverse=True)
    yield from _NAMES
    yield from (_TOOLKIT / name for name in _NAMES)


def _bytes(nvrtc: Any, function: str, program: ctypes.c_void_p) -> bytes:
    """What ``function`` and its companion for the size give."""
    size = ctypes.c_size_t()
    _accepted(nvrtc, getattr(nvrtc, f"{function}Size")(program, ctypes.byref(size)), function.encode())
    buffer = ctypes.create_string_buffer(size.value)
    _accepted(nvrtc, getattr(nvrtc, function)(program, buffer), function.encode())
    return buffer.raw


def _accepted(nvrtc: Any, status: int, what: bytes) -> None:
    if status != 0:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        words = nvrtc.nvrtcGetErrorString(status).decode("ascii", "replace")
        raise BackendError(f"NVRTC failed at {what.decode()}: {words}")
