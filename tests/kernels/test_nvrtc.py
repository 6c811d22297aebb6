"""NVRTC compiles the kernels as they are; 12.6 of it is JetPack 6's compiler and runs without a GPU."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest

from lrsclip_kernels import SOURCES, KernelSource


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    try:
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        spec = None
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    libraries = [path for folder in folders for path in Path(folder, "lib").glob("libnvrtc.so.*")]
    if not libraries:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12==12.6.77")
    return ctypes.CDLL(str(libraries[0]))


def compiled(nvrtc: ctypes.CDLL, source: KernelSource, architecture: str) -> bytes:
    """The cubin, or a failure with the compiler's words."""
    program = ctypes.c_void_p()
    text, name = source.path.read_bytes(), source.path.name.encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None) == 0
    options = [b"--std=c++17", f"--gpu-architecture={architecture}".encode()]
    options.append(f"--include-path={source.path.parent}".encode())
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert (status, log.value.decode().strip()) == (0, "")
    assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    cubin = ctypes.create_string_buffer(size.value)
    assert nvrtc.nvrtcGetCUBIN(program, cubin) == 0
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin.raw


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
@pytest.mark.parametrize("architecture", ["sm_87", "sm_90"])
def test_every_kernel_compiles(nvrtc: ctypes.CDLL, source: KernelSource, architecture: str) -> None:
    cubin = compiled(nvrtc, source, architecture)
    assert cubin[:4] == b"\x7fELF"
    assert all(name.encode() in cubin for name in source.kernels())
