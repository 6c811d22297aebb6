"""A GPU made for the host: its driver, our kernels compiled by g++, and ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cuda_stub import CudaStub
from kernel_host import compile_for_host

from lrsclip_kernels import SOURCES, KernelSource
from lrsclip_kernels.host_build import host_image
from lrsclip_rt.backends.onnxruntime_provider import CudaOptions, Provider
from lrsclip_rt.cuda.device import Device

HOST = Provider("CPUExecutionProvider", "cpu")


class HostDevice:
    """One stub with a device on it, and the images of our kernels."""

    def __init__(self, stub: CudaStub, images: dict[str, bytes]) -> None:
        self.stub = stub
        self.driver = stub.driver()
        self.device = Device(self.driver)
        self.images = images

    def cubin(self, source: KernelSource, architecture: str, near: Path | None = None) -> bytes:
        """In place of ``cubin_for``."""
        return self.images[source.name]

    def options(self, **changes: object) -> CudaOptions:
        return CudaOptions(provider=HOST, **changes)  # type: ignore[arg-type]


def images_for_host(folder: Path) -> dict[str, bytes]:
    """By the name of the source."""
    found = {}
    for source in SOURCES:
        (folder / source.name).mkdir()
        found[source.name] = host_image(compile_for_host(source.path, source.kernels(), folder / source.name))
    return found


@contextmanager
def host_device(
    stub: CudaStub, images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[HostDevice]:
    """The device, with its kernels wherever the product would compile them."""
    made = HostDevice(stub, images)
    for module in ("device_resampling", "device_search", "device_fusion"):
        monkeypatch.setattr(f"lrsclip_rt.cuda.{module}.cubin_for", made.cubin)
    yield made
    made.device.close()
