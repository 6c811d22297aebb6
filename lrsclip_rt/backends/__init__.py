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

__all__ = ["BACKENDS", "Backend", "Session", "TensorInfo", "choose_backend", "open_graph", "why_not"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A graph's input or output: NumPy's name of its type, and its shape with None where it is free."""

    dtype: str
    shape: tuple[int | None, ...]


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
        open: Loads a graph: path, device, threads.
    """

    name: str
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    refusals: Mapping[str, str]
    obstacle: Callable[[], LrsclipError | None]
    open: Callable[[Path, str, int | None], Session]


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
    if name != "auto" and name not in BACKENDS:
        raise BackendError(f"backend {name!r} is unknown, expected auto or one of {', '.join(BACKENDS)}")
    reasons = []
    for backend in BACKENDS.values() if name == "auto" else [BACKENDS[name]]:
        reason = why_not(backend, precision=precision, device=device)
        if reason is None:
            return backend
        if name != "auto" or (isinstance(reason, DependencyError) and precision in backend.precisions):
            # Installing what is missing mends it: that is all the caller needs to read.
            raise reason
        reasons.append(str(reason))
    where = "" if device is None else f" on {device}"
    raise BackendError(f"no backend here runs {precision}{where}: {'; '.join(reasons)}")


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
    return None


def open_graph(
    path: Path, *, backend: str = "onnxruntime", device: str | None = None, threads: int | None = None
) -> Session:
    """Load a graph with a backend that was chosen before.

    Raises:
        BackendError: If the file cannot be loaded.
        DependencyError: If the library is not installed.
    """
    chosen = BACKENDS[backend]
    return chosen.open(path, device or chosen.devices[0], threads)


def _onnxruntime_obstacle() -> LrsclipError | None:
    from lrsclip_rt.backends.onnxruntime_backend import cpu_obstacle

    return cpu_obstacle()


def _open_onnxruntime(path: Path, device: str, threads: int | None) -> Session:
    from lrsclip_rt.backends.onnxruntime_backend import OnnxRuntimeSession

    return OnnxRuntimeSession(path, threads=threads)


def _not_yet(name: str) -> Backend:
    """A backend of the command line that this version does not have."""
    error = BackendError(f"{name} is not in this version, which has onnxruntime on the CPU")

    def refuse(path: Path, device: str, threads: int | None) -> Session:
        raise error

    return Backend(name, (), (), MappingProxyType({}), lambda: error, refuse)


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "onnxruntime": Backend(
            name="onnxruntime",
            devices=("cpu",),
            precisions=("int8-cpu", "fp32"),
            refusals=MappingProxyType(
                {
                    "fp16": "a CPU converts each layer to fp32 and back; it is meant for GPUs",
                    "bf16": "it is a setting of openvino",
                    "int8": "its symmetric S8S8 layout is meant for tensorrt and openvino; use int8-cpu",
                    "fp8": "it needs a GPU of sm_89 or newer",
                }
            ),
            obstacle=_onnxruntime_obstacle,
            open=_open_onnxruntime,
        ),
        "openvino": _not_yet("openvino"),
        "tensorrt": _not_yet("tensorrt"),
    }
)
"""Every backend that ``--backend`` names, in the order in which ``auto`` tries them."""
