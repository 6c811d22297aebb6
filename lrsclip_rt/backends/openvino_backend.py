"""OpenVINO on the CPU: fp32 and int8 files, and bf16 as a setting on processors that compute in it.

Its default where the CPU has bf16 is to run fp32 files in bf16, so the precision is always set and read
back. Free dimensions stay free: one compiled graph takes any batch and any text length.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.backends import GraphRequest, TensorInfo
from lrsclip_rt.backends.compiled_cache import compiled_cache_path, read_compiled, write_compiled
from lrsclip_rt.backends.probe_graph import PROBE_GRAPH
from lrsclip_rt.cpu import available_cpus, cpu_info
from lrsclip_rt.errors import BackendError, DependencyError, LrsclipError
from lrsclip_rt.parity import SETTINGS

__all__ = ["OpenVinoSession", "openvino_obstacle", "openvino_precision_obstacle"]

_DEVICE = "CPU"
_BF16_INSTRUCTIONS = ("avx512-bf16", "amx-bf16")
_HINTS: Mapping[str, str] = MappingProxyType(
    {"fp32": "f32", "bf16": "bf16", "int8": "f32", "int8-bf16": "bf16"}
)
"""What layers that are not quantised compute in, by precision."""


class OpenVinoSession:
    """A graph loaded by OpenVINO on the CPU.

    External weights are read from beside the file. Several threads may run it at once: each takes a request
    of its own, and the runs share the threads of the model.

    Args:
        request: The file, its precision and the threads of one run.

    Raises:
        DependencyError: If openvino is not installed.
        BackendError: If the graph cannot be loaded at this precision, or has not one output.
    """

    def __init__(self, request: GraphRequest) -> None:
        self._name = request.path.name
        self._compiled = _compiled_graph(request)
        outputs = self._compiled.outputs
        if len(outputs) != 1:
            raise BackendError(
                f"{request.path} has {len(outputs)} outputs, expected one. Export the bundle again"
            )
        self._output = _info(outputs[0])
        self._inputs = MappingProxyType({port.any_name: _info(port) for port in self._compiled.inputs})
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    @property
    def inputs(self) -> Mapping[str, TensorInfo]:
        """Inputs by name."""
        return self._inputs

    @property
    def output(self) -> TensorInfo:
        """The only output."""
        return self._output

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Run one batch.

        Args:
            feeds: Every input by name, in its type and shape.

        Returns:
            The output, C-contiguous float32.

        Raises:
            BackendError: If the inputs are others than the graph's, or the run fails.
        """
        self._check(feeds)
        with self._request() as request:
            try:
                request.infer(dict(feeds))
                # A copy: the request's own memory is overwritten by its next run.
                return np.array(request.get_output_tensor(0).data, dtype=np.float32, order="C")
            except Exception as error:  # openvino's bindings raise RuntimeError, ValueError and others
                raise BackendError(f"{self._name} failed in openvino: {_one_line(error)}") from error

    def _check(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """OpenVINO casts other types, and takes the values of the last run for an input that is missing."""
        if set(feeds) != set(self._inputs):
            found, expected = ", ".join(sorted(feeds)), ", ".join(sorted(self._inputs))
            raise BackendError(
                f"{self._name} failed in openvino: got the inputs {found}, expected {expected}"
            )
        for name, info in self._inputs.items():
            array = feeds[name]
            fits = array.ndim == len(info.shape) and all(
                length is None or length == got for got, length in zip(array.shape, info.shape, strict=True)
            )
            if not fits or array.dtype.name != info.dtype:
                raise BackendError(
                    f"{self._name} failed in openvino: {name} is {array.dtype.name} {array.shape}, "
                    f"expected {info.dtype} {info.shape}"
                )

    @contextlib.contextmanager
    def _request(self) -> Iterator[Any]:
        """An idle request or a new one: as many live as threads ever ran at once."""
        with self._lock:
            request = self._idle.pop() if self._idle else None
        if request is None:
            request = self._compiled.create_infer_request()
        try:
            yield request
        finally:
            with self._lock:
                self._idle.append(request)


@lru_cache(maxsize=1)
def openvino_obstacle() -> LrsclipError | None:
    """Why OpenVINO cannot run on this machine's CPU; None once a real graph ran."""
    try:
        core = _core()
        compiled = core.compile_model(core.read_model(PROBE_GRAPH), _DEVICE, _settings("f32", threads=1))
        request = compiled.create_infer_request()
        request.infer({"x": np.array([1, 2], np.float32)})
        found = request.get_output_tensor(0).data.tolist()
    except (BackendError, DependencyError) as error:
        return error
    except Exception as error:  # openvino's bindings raise RuntimeError, ValueError and others
        return BackendError(f"openvino cannot run a graph here: {_one_line(error)}")
    if found != [2.0, 4.0]:
        return BackendError(f"openvino gave {found}, expected [2.0, 4.0]. Reinstall it")
    return None


def openvino_precision_obstacle(precision: str) -> LrsclipError | None:
    """Why this processor does not run one of the backend's precisions, or None where it does."""
    cpu = cpu_info()
    if _HINTS.get(precision) != "bf16" or set(_BF16_INSTRUCTIONS) & set(cpu.instructions):
        return None
    has = ", ".join(cpu.instructions) or "no instructions that could be read"
    return BackendError(
        f"openvino runs {precision} on processors with {' or '.join(_BF16_INSTRUCTIONS)}; "
        f"{cpu.name or cpu.architecture} has {has}. Use --precision {SETTINGS[precision]}"
    )


@lru_cache(maxsize=1)
def _core() -> Any:
    """One core for the process; its plug-in is loaded when it is first used."""
    try:
        import openvino
    except ImportError as error:
        if importlib.util.find_spec("openvino") is None:
            raise DependencyError.of("openvino", extra="openvino") from error
        raise BackendError(f"openvino is installed but cannot be imported: {_one_line(error)}") from error
    return openvino.Core()


def _settings(hint: str, *, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Pinned threads of two processes would share cores while others idle; decoding runs there too.
        "ENABLE_CPU_PINNING": False,
    }


def _compiled_graph(request: GraphRequest) -> Any:
    """Compile a graph, or take it from the cache.

    Raises:
        DependencyError: If openvino is not installed.
        BackendError: If it cannot be loaded, or would run in another precision than asked for.
    """
    core = _core()
    hint = _HINTS[request.precision]
    settings = _settings(hint, threads=request.threads or available_cpus())
    path = None
    if request.content is not None:
        path = compiled_cache_path([request.path.name, request.content, repr(settings), *_machine()])
    blob = None if path is None else read_compiled(path)
    compiled = None
    if blob is not None:
        # What this library refuses is as good as nothing.
        with contextlib.suppress(Exception):
            compiled = core.import_model(blob, _DEVICE, settings)
    if compiled is None:
        try:
            compiled = core.compile_model(str(request.path), _DEVICE, settings)
        except Exception as error:  # openvino's bindings raise RuntimeError, ValueError and others
            raise BackendError(
                f"{request.path} cannot be loaded by openvino {_version()}: {_one_line(error)}"
            ) from error
        if path is not None:
            # A graph that cannot be exported is compiled at each start.
            with contextlib.suppress(Exception):
                write_compiled(path, compiled.export_model().getvalue())
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if found != hint:
        raise BackendError(
            f"{request.path} would run in {found} in openvino {_version()}, not in {hint} "
            f"as {request.precision} needs. Use --backend onnxruntime"
        )
    return compiled


def _machine() -> tuple[str, ...]:
    """Library and processor: a compiled graph is good for these alone."""
    cpu = cpu_info()
    return (_version(), cpu.architecture, cpu.name, *cpu.instructions)


def _version() -> str:
    import openvino

    return str(openvino.get_version())


def _info(port: Any) -> TensorInfo:
    shape = tuple(d.get_length() if d.is_static else None for d in port.get_partial_shape())
    return TensorInfo(str(port.get_element_type().to_dtype().name), shape)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
