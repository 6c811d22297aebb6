"""Kernels are compiled once for each source and architecture; loaded and launched on the stub of libcuda."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from cuda_stub import CudaStub

from lrsclip_kernels import FUSE, TOPK, KernelSource
from lrsclip_rt.cuda import kernels
from lrsclip_rt.cuda.kernels import KernelModule, cubin_for, nvcc_cubin, source_hash
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.errors import BackendError


class Compiler:
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, source: KernelSource, architecture: str) -> bytes:
        self.asked.append((source.name, architecture))
        return b"\x7fELF" + f"{source.name} {architecture} {len(self.asked)}".encode()


def test_a_kernel_is_compiled_once_for_each_source_and_architecture(cache_home: Path) -> None:
    compiler = Compiler()
    first = cubin_for(TOPK, "sm_87", compiler)
    assert cubin_for(TOPK, "sm_87", compiler) == first
    cubin_for(TOPK, "sm_90", compiler)
    cubin_for(FUSE, "sm_87", compiler)
    assert compiler.asked == [("topk", "sm_87"), ("topk", "sm_90"), ("fuse", "sm_87")]
    assert source_hash(TOPK) != source_hash(FUSE)


@pytest.mark.parametrize("damage", [b"", b"\x7fELF too short", b"\x7fELF" + b"x" * 60])
def test_what_is_damaged_in_the_cache_is_compiled_again(cache_home: Path, damage: bytes) -> None:
    compiler = Compiler()
    cubin_for(TOPK, "sm_87", compiler)
    (kept,) = (cache_home / "lrsclip-rt" / "kernels").glob("topk-sm_87-*.cubin")
    kept.write_bytes(damage)
    assert cubin_for(TOPK, "sm_87", compiler).endswith(b"2")
    assert len(compiler.asked) == 2


def test_a_changed_header_is_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrsclip_kernels.sources._FOLDER", tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "one.cu").write_text("int a;")
    (tmp_path / "src" / "shared.cuh").write_text("int b;")
    source = KernelSource("one", 128)
    before = source_hash(source)
    (tmp_path / "src" / "shared.cuh").write_text("int c;")
    assert source_hash(source) != before


def test_a_cache_that_cannot_be_written_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path / "file")
    compiler = Compiler()
    assert cubin_for(TOPK, "sm_87", compiler).startswith(b"\x7fELF")
    assert cubin_for(TOPK, "sm_87", compiler).startswith(b"\x7fELF")
    assert len(compiler.asked) == 2


def test_without_nvcc_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"nvcc is not on the PATH\. Install the CUDA toolkit"):
        nvcc_cubin(TOPK, "sm_87")


def test_an_nvcc_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'topk.cu(3): error: expected a semicolon' >&2\nexit 2\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(BackendError, match=r"cannot compile topk.cu for sm_87: .*expected a semicolon"):
        nvcc_cubin(TOPK, "sm_87")


def test_a_kernel_is_found_by_its_name_and_launched(stub: CudaStub) -> None:
    driver = stub.driver()
    module, stream = KernelModule(driver, b"\x7fELF"), Stream(driver)
    arguments = [ctypes.c_uint64(1 << 40), ctypes.c_int(-3)]
    module.launch(
        "known", grid=(5, 2, 3), block=(32, 4, 1), arguments=arguments, stream=stream, shared_bytes=64
    )
    assert stub.launched() == (5, 2, 3, 32, 4, 1, 64, 1 << 40, -3)
    with pytest.raises(BackendError, match="cuModuleGetFunction failed"):
        module.launch("unknown", grid=(1, 1, 1), block=(1, 1, 1), arguments=arguments, stream=stream)
    module.free()
    module.free()
    stream.free()
    assert stub.open_handles == 0
