"""A stub of libcuda, and the surface of two versions of TensorRT, kept in pytest's cache folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tensorrt_stubs
from cuda_stub import CudaStub
from host_device import HostDevice, host_device, images_for_host

from lrsclip_rt.bundle import Bundle


@pytest.fixture(scope="session", params=sorted(tensorrt_stubs.WHEELS))
def bindings(request: pytest.FixtureRequest) -> Path:
    """A folder with the real bindings, for ``PYTHONPATH``; once for each version."""
    cache = getattr(request.config, "cache", None)
    if cache is None:
        pytest.skip("pytest has no cache folder (-p no:cacheprovider) for the bindings of TensorRT")
    try:
        return tensorrt_stubs.bindings_folder(Path(cache.mkdir("tensorrt-bindings")), request.param)
    except tensorrt_stubs.Unavailable as reason:
        pytest.skip(f"the bindings of TensorRT {request.param} are not here: {reason}")


@pytest.fixture(scope="session")
def surface(bindings: Path) -> dict[str, Any]:
    """Every class, method, property and enum of the bindings."""
    return tensorrt_stubs.surface_of(bindings)


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled stub."""
    return CudaStub.compile(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def stub(stub_library: Path, tmp_path: Path) -> CudaStub:
    """A fresh stub: its file is new, so that nothing of another test is counted."""
    return CudaStub(Path(shutil.copy(stub_library, tmp_path / "libcuda_stub.so")))


@pytest.fixture(scope="session")
def kernel_images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Our kernels, compiled for the host, as its driver loads them."""
    return images_for_host(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def gpu(
    stub: CudaStub, kernel_images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[HostDevice]:
    """A device that runs our kernels; what is taken of it has to be given back."""
    with host_device(stub, kernel_images, monkeypatch) as made:
        yield made
    assert (stub.used_bytes, stub.contexts) == (0, 0)


@pytest.fixture(scope="session")
def gpu_bundle(handmade: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hand-made bundle with fp32, fp16 and int8; not to be written to."""
    path: Path = tmp_path_factory.mktemp("gpu") / "bundle"
    handmade.make_bundle(path, extra={"fp16": 0.0001, "int8": 0.01})
    return path


@pytest.fixture
def bundle(gpu_bundle: Path, tmp_path: Path, cache_home: Path) -> Bundle:
    """A copy that may be written to."""
    return Bundle.open(shutil.copytree(gpu_bundle, tmp_path / "bundle"))


@pytest.fixture
def host(surface: dict[str, Any], stub: CudaStub, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with one GPU (the stub) and TensorRT (the double of one version)."""
    pytest.importorskip("onnxruntime", reason="onnxruntime stands for the GPU")
    from tensorrt_host import HostTensorRT

    from lrsclip_rt.backends import tensorrt_backend

    made = HostTensorRT(surface, stub)
    driver = stub.driver()
    monkeypatch.setitem(sys.modules, "tensorrt", made.module)
    # A real compiler takes seconds, and each test has a cache of its own.
    monkeypatch.setattr("lrsclip_rt.cuda.kernels.compiled_cubin", lambda source, architecture: b"\x7fELF")
    monkeypatch.setattr("lrsclip_rt.cuda.driver.cuda_driver", lambda: driver)
    tensorrt_backend.tensorrt_obstacle.cache_clear()
    tensorrt_backend.has_gpu.cache_clear()
    yield made
    tensorrt_backend.tensorrt_obstacle.cache_clear()
    tensorrt_backend.has_gpu.cache_clear()
