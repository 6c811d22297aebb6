"""NVRTC through our own loader: real where it is installed, its refusals in one line."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from lrsclip_kernels import FUSE, SOURCES
from lrsclip_rt.cuda import kernels, nvrtc
from lrsclip_rt.cuda.kernels import compiled_cubin
from lrsclip_rt.errors import BackendError


@pytest.fixture
def library() -> ctypes.CDLL:
    found = nvrtc.nvrtc_library()
    if found is None:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_every_kernel_is_compiled(library: ctypes.CDLL, source: object) -> None:
    made = nvrtc.nvrtc_compiled(source, "sm_90", library, options=["--ptxas-options=-v"])
    assert made.cubin[:4] == b"\x7fELF"
    assert "registers" in made.log
    assert float(nvrtc.nvrtc_version(library)) >= 12


def test_a_compiler_that_refuses_is_quoted(library: ctypes.CDLL) -> None:
    with pytest.raises(BackendError, match=r"NVRTC cannot compile fuse.cu for sm_1: .*invalid value"):
        nvrtc.nvrtc_cubin(FUSE, "sm_1", library)


def test_nvrtc_is_taken_before_nvcc_and_without_both_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(nvrtc, "nvrtc_library", lambda: "a library")
    monkeypatch.setattr(nvrtc, "nvrtc_cubin", lambda source, architecture: b"by nvrtc")
    monkeypatch.setattr(kernels, "nvcc_cubin", lambda source, architecture: b"by nvcc")
    assert compiled_cubin(FUSE, "sm_87") == b"by nvrtc"
    monkeypatch.setattr(nvrtc, "nvrtc_library", lambda: None)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/local/cuda/bin/nvcc")
    assert compiled_cubin(FUSE, "sm_87") == b"by nvcc"
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BackendError, match=r"neither NVRTC nor nvcc\. Install one: pip install nvidia-cuda"):
        compiled_cubin(FUSE, "sm_87")


def test_without_nvrtc_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "nvrtc_library", lambda: None)
    for call in (lambda: nvrtc.nvrtc_cubin(FUSE, "sm_87"), nvrtc.nvrtc_version):
        with pytest.raises(BackendError, match="NVRTC is not installed"):
            call()
