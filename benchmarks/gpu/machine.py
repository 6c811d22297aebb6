"""The GPU that a step runs on, or for a rehearsal one made for the host: its driver, kernels and provider."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lrsclip_kernels import SOURCES, KernelSource
from lrsclip_kernels.host_build import host_command, host_driver_command, host_image, host_unit
from lrsclip_rt.backends import GraphRequest
from lrsclip_rt.backends.onnxruntime_cuda import OnnxRuntimeCudaSession
from lrsclip_rt.backends.onnxruntime_provider import CUDA, CudaOptions, Provider
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cuda.device import Device
from lrsclip_rt.cuda.driver import Driver, cuda_driver
from lrsclip_rt.cuda.kernels import KernelModule, cubin_for
from lrsclip_rt.cuda.memory import DeviceBuffer
from lrsclip_rt.cuda.streams import Event, Stream

__all__ = ["Machine", "host_machine", "real_machine"]

_HOST = Provider("CPUExecutionProvider", "cpu")
_FLUSH_BYTES = 256 << 20
"""More than the second-level cache of any GPU."""


@dataclass(frozen=True)
class Machine:
    """A device, and what stands for its compiler and provider.

    Attributes:
        device: The GPU, or the host in its place.
        rehearsal: It is the host: nothing that is timed says anything.
        cubin: Makes device code of a kernel file for an architecture.
        provider: Of ONNX Runtime.
    """

    device: Device
    rehearsal: bool
    cubin: Callable[[KernelSource, str], bytes]
    provider: Provider

    def module(self, source: KernelSource) -> KernelModule:
        """The kernels of a file, loaded."""
        with self.device.current():
            return KernelModule(self.device.driver, self.cubin(source, self.device.info.architecture))

    def session(
        self, bundle: Bundle, tower: str, precision: str, *, graphs: bool = False, rows: int | None = None
    ) -> OnnxRuntimeCudaSession:
        """A tower on ONNX Runtime."""
        request = GraphRequest(bundle.graph_path(tower, precision), precision, "cuda:0", None)
        options = CudaOptions(graphs=graphs, rows_per_run=rows, provider=self.provider)
        return OnnxRuntimeCudaSession(request, self.device, options)

    def seconds(
        self, stream: Stream, work: Callable[[], None], *, rounds: int, warm_up: int = 3, flush: bool = True
    ) -> list[float]:
        """Times [s] of what ``work`` enqueues, by events, each after the cache was overwritten."""
        driver = self.device.driver
        first, last = Event(driver, timed=True), Event(driver, timed=True)
        cache = DeviceBuffer(driver, (1 << 16) if self.rehearsal else _FLUSH_BYTES)
        found = []
        for number in range(-warm_up, rounds):
            if flush:
                stream.fill(cache.address, number & 255, cache.size_bytes)
            first.record(stream)
            work()
            last.record(stream)
            last.wait()
            if number >= 0:
                # A clock's tick at least: the host's may give nothing for an empty copy.
                found.append(max(last.ms_since(first) / 1000, 1e-9))
        for one in (first, last, cache):
            one.free()
        return found


def real_machine() -> Machine:
    """This machine's first GPU.

    Raises:
        BackendError: If there is none.
    """
    return Machine(Device(cuda_driver()), False, cubin_for, CUDA)


def host_machine(folder: Path) -> Machine:
    """The host as a GPU; compiled once into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libcuda_host.so"
    if not library.exists():
        _made(host_driver_command(library))
    images = {source.name: _host_cubin(source, folder) for source in SOURCES}

    def cubin(source: KernelSource, architecture: str) -> bytes:
        return images[source.name] if source.name in images else _host_cubin(source, folder)

    return Machine(Device(Driver(str(library))), True, cubin, _HOST)


def _host_cubin(source: KernelSource, folder: Path) -> bytes:
    library = folder / f"{source.name}.so"
    if not library.exists():
        unit = folder / f"{source.name}.cpp"
        unit.write_text(host_unit(source.path, source.kernels()))
        _made(host_command(unit, library))
    return host_image(library)


def _made(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-2000:]}")
