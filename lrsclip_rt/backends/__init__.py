"""Inference libraries behind one small protocol, and one table of what each can run here.

Nothing falls back: a backend, precision or device that was named runs or fails with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import BackendError, DependencyError, LrsclipError

__all__ = [
    "BACKENDS",
    "Backend",
    "GraphRequest",
    "Session",
    "TensorInfo",
    "backend_on",
    "choose_backend",
    "open_graph",
    "why_not",
]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A graph's input or output: NumPy's name of its type, and its shape with None where it is free."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class GraphRequest:
    """What to load, and how it is to run.

    Attributes:
        path: The ONNX file.
        precision: What the graph is run as; a backend may run one file at several.
        device: For example ``cpu``.
        threads: CPU threads of one run; None leaves it to the backend.
        content: Changes with the graph or its weights; a backend may keep what it compiled under it. None
            keeps nothing.
        batches: It is run on many rows at first, not on one.
    """

    path: Path
    precision: str
    device: str
    threads: int | None
    content: str | None = None
    batches: bool = False


class Session(Protocol):
    """A loaded graph with one output; may be run by several threads at once."""

    @property
    def inputs(self) -> Mapping[str, TensorInfo]:
        """Inputs by name."""

    @property
    def output(self) -> TensorInfo:
        """The only output."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Run the graph on one batch and return its output, float32."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What an inference library can do in this version.

    Attributes:
        name: As ``--backend`` takes it.
        devices: Kinds of device it runs on in this version.
        precisions: What it runs, fastest first.
        refusals: Why it does not run other precisions, by their names.
        obstacle: Returns why it cannot run on this machine, or None where a real run worked.
        open: Loads a graph.
        precision_obstacle: Returns why this machine does not run one of ``precisions``, or None.
        has_device: This machine has what it runs on; without it ``auto`` does not consider it.
    """

    name: str
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    refusals: Mapping[str, str]
    obstacle: Callable[[], LrsclipError | None]
    open: Callable[[GraphRequest], Session]
    precision_obstacle: Callable[[str], LrsclipError | None] = lambda precision: None
    has_device: Callable[[], bool] = lambda: True


def backend_on(name: str, device: str | None) -> str:
    """The name in ``BACKENDS`` of what was asked for: ONNX Runtime on a GPU is one of its own.

    Example:
        >>> backend_on("onnxruntime", "cuda:0"), backend_on("onnxruntime", None)
        ('onnxruntime-cuda', 'onnxruntime')
    """
    on_gpu = device is not None and device.partition(":")[0].lower() == "cuda"
    return "onnxruntime-cuda" if name == "onnxruntime" and on_gpu else name


def choose_backend(name: str, *, precision: str, device: str | None = None) -> Backend:
    """The backend that runs ``precision`` on ``device``.

    Args:
        name: A name of ``BACKENDS``, or ``auto`` for the first of them that can.
        precision: One of the bundle's.
        device: For example ``cpu`` or ``cuda:0``; None leaves it to the backend.

    Raises:
        DependencyError: If the library of the backend that was named is not installed.
        BackendError: If it cannot run this, with the reason; with all reasons for ``auto``.
    """
    name = backend_on(name, device)
    if name != "auto" and name not in BACKENDS:
        raise BackendError(f"backend {name!r} is unknown, expected auto or one of {', '.join(BACKENDS)}")
    reasons: list[LrsclipError] = []
    missing: list[LrsclipError] = []
    for backend in BACKENDS.values() if name == "auto" else [BACKENDS[name]]:
        reason = why_not(backend, precision=precision, device=device)
        if reason is None:
            return backend
        if name != "auto":
            raise reason
        reasons.append(reason)
        if isinstance(reason, DependencyError) and precision in backend.precisions:
            missing.append(reason)
    if missing:
        # Installing what is missing mends it: that is all the caller needs to read.
        raise missing[0]
    where = "" if device is None else f" on {device}"
    raise BackendError(f"no backend here runs {precision}{where}: {'; '.join(map(str, reasons))}")


def why_not(
    backend: Backend, *, precision: str | None = None, device: str | None = None
) -> LrsclipError | None:
    """Why ``backend`` cannot run this here, as the error to raise, or None where it can."""
    obstacle = backend.obstacle()
    if obstacle is not None:
        return obstacle
    kind = None if device is None else device.partition(":")[0].lower()
    if kind is not None and kind not in backend.devices:
        return BackendError(
            f"{backend.name} runs on {', '.join(backend.devices)} in this version, not on {device}. "
            f"Leave --device out, or pass --device {backend.devices[0]}"
        )
    if precision is not None and precision not in backend.precisions:
        runs, where = ", ".join(backend.precisions), ", ".join(backend.devices)
        detail = backend.refusals.get(precision, "unknown there")
        return BackendError(f"{backend.name} on {where} runs {runs}, not {precision} ({detail})")
    return None if precision is None else backend.precision_obstacle(precision)


def open_graph(
    path: Path,
    *,
    backend: str = "onnxruntime",
    precision: str = "fp32",
    device: str | None = None,
    threads: int | None = None,
    content: str | None = None,
    batches: bool = False,
) -> Session:
    """Load a graph with a backend that was chosen before.

    Args:
        path: The ONNX file.
        backend: A name of ``BACKENDS``.
        precision: One that this backend runs.
        device: Default the backend's first.
        threads: CPU threads of one run.
        content: Changes with the graph or its weights; see ``GraphRequest``.
        batches: It is run on many rows at first; see there.

    Raises:
        BackendError: If the file cannot be loaded.
        DependencyError: If the library is not installed.
    """
    chosen = BACKENDS[backend]
    return chosen.open(GraphRequest(path, precision, device or chosen.devices[0], threads, content, batches))


def _onnxruntime_obstacle() -> LrsclipError | None:
    from lrsclip_rt.backends.onnxruntime_backend import cpu_obstacle

    return cpu_obstacle()


def _open_onnxruntime(request: GraphRequest) -> Session:
    from lrsclip_rt.backends.onnxruntime_backend import OnnxRuntimeSession

    return OnnxRuntimeSession(request.path, threads=request.threads, batches=request.batches)


def _openvino_obstacle() -> LrsclipError | None:
    from lrsclip_rt.backends.openvino_backend import openvino_obstacle

    return openvino_obstacle()


def _openvino_precision_obstacle(precision: str) -> LrsclipError | None:
    from lrsclip_rt.backends.openvino_backend import openvino_precision_obstacle

    return openvino_precision_obstacle(precision)


def _open_openvino(request: GraphRequest) -> Session:
    from lrsclip_rt.backends.openvino_backend import OpenVinoSession

    return OpenVinoSession(request)


def _tensorrt_obstacle() -> LrsclipError | None:
    from lrsclip_rt.backends.tensorrt_backend import tensorrt_obstacle

    return tensorrt_obstacle()


def _tensorrt_precision_obstacle(precision: str) -> LrsclipError | None:
    from lrsclip_rt.backends.tensorrt_backend import tensorrt_precision_obstacle

    return tensorrt_precision_obstacle(precision)


def _has_gpu() -> bool:
    from lrsclip_rt.backends.tensorrt_backend import has_gpu

    return has_gpu()


def _open_tensorrt(request: GraphRequest) -> Session:
    from lrsclip_rt.backends.tensorrt_backend import open_tensorrt

    return open_tensorrt(request)


def _onnxruntime_cuda_obstacle() -> LrsclipError | None:
    from lrsclip_rt.backends.onnxruntime_cuda import onnxruntime_cuda_obstacle

    return onnxruntime_cuda_obstacle()


def _open_onnxruntime_cuda(request: GraphRequest) -> Session:
    from lrsclip_rt.backends.onnxruntime_cuda import open_onnxruntime_cuda

    return open_onnxruntime_cuda(request)


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "onnxruntime": Backend(
            name="onnxruntime",
            devices=("cpu",),
            precisions=("int8-cpu", "fp32"),
            refusals=MappingProxyType(
                {
                    "fp16": "a CPU converts each layer to fp32 and back; it is meant for GPUs",
                    "bf16": "it is a setting of openvino: --backend openvino",
                    "int8-bf16": "it is a setting of openvino: --backend openvino",
                    "int8": "its symmetric S8S8 layout is meant for tensorrt and openvino; use int8-cpu",
                    "fp8": "it needs a GPU of sm_89 or newer",
                }
            ),
            obstacle=_onnxruntime_obstacle,
            open=_open_onnxruntime,
        ),
        "openvino": Backend(
            name="openvino",
            devices=("cpu",),
            precisions=("int8-bf16", "int8", "bf16", "fp32"),
            refusals=MappingProxyType(
                {
                    "fp16": "it is meant for GPUs; use bf16 or fp32",
                    "int8-cpu": "its layout is onnxruntime's: --backend onnxruntime",
                    "fp8": "it needs a GPU of sm_89 or newer",
                }
            ),
            obstacle=_openvino_obstacle,
            open=_open_openvino,
            precision_obstacle=_openvino_precision_obstacle,
        ),
        "tensorrt": Backend(
            name="tensorrt",
            devices=("cuda",),
            precisions=("int8", "fp8", "fp16"),
            refusals=MappingProxyType(
                {
                    "fp32": "it is the yardstick: --backend onnxruntime; on GPUs use fp16",
                    "bf16": "it is a setting of openvino: --backend openvino",
                    "int8-bf16": "it is a setting of openvino: --backend openvino",
                    "int8-cpu": "its layout is onnxruntime's: --backend onnxruntime",
                }
            ),
            obstacle=_tensorrt_obstacle,
            open=_open_tensorrt,
            precision_obstacle=_tensorrt_precision_obstacle,
            has_device=_has_gpu,
        ),
        "onnxruntime-cuda": Backend(
            name="onnxruntime-cuda",
            devices=("cuda",),
            precisions=("fp16", "fp32"),
            refusals=MappingProxyType(
                {
                    "bf16": "it is a setting of openvino: --backend openvino",
                    "int8-bf16": "it is a setting of openvino: --backend openvino",
                    "int8": "slower than fp16 there; int8 on GPUs is tensorrt's",
                    "int8-cpu": "its layout is meant for CPUs: --backend onnxruntime --device cpu",
                    "fp8": "fp8 on GPUs is tensorrt's",
                }
            ),
            obstacle=_onnxruntime_cuda_obstacle,
            open=_open_onnxruntime_cuda,
            has_device=_has_gpu,
        ),
    }
)
"""Every backend that ``--backend`` names, in the order in which ``auto`` tries them."""
