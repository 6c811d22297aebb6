"""ONNX Runtime's CUDA provider: loaded with our options, or the reason; never the CPU in its place.

Left alone, ONNX Runtime goes on on the CPU where its provider cannot be loaded, and says so on stdout. Here
that is an error: fallback is off, the provider of every node is read back, and nothing counts as running
before a real graph ran.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrsclip_rt.backends.onnxruntime_backend import one_line
from lrsclip_rt.backends.probe_graph import PROBE_GRAPH
from lrsclip_rt.cuda.device import Device
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.errors import BackendError, DependencyError, LrsclipError

__all__ = [
    "CUDA",
    "CudaOptions",
    "Provider",
    "cuda_session",
    "provider_obstacle",
    "provider_options",
    "refuse_nodes_elsewhere",
]

_log = logging.getLogger(__name__)

_SHAPE_OPERATORS = frozenset({"Shape", "Slice", "Concat", "Squeeze", "Unsqueeze"})
"""ONNX Runtime computes shapes on the host; no value of the model passes through these."""
_QUIET = 4
_WARNINGS = 2


@dataclass(frozen=True, slots=True)
class Provider:
    """Where a session runs: ONNX Runtime's name of the provider, and of the memory that it takes."""

    name: str
    memory: str


CUDA = Provider("CUDAExecutionProvider", "cuda")


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """How a session runs.

    Attributes:
        memory_mib: What its arena may take at most [MiB]; None leaves it to the device.
        graphs: Capture a CUDA graph for each shape; runs of a shape are then one launch.
        convolutions: How cuDNN chooses its algorithms: ``HEURISTIC``, ``EXHAUSTIVE`` or ``DEFAULT``. The
            exhaustive search times each shape anew.
        rows_per_run: Rows of one run at most; None takes what suits the tower, and halves it once where the
            memory does not suffice.
        provider: Where it runs.
    """

    memory_mib: int | None = None
    graphs: bool = False
    convolutions: str = "HEURISTIC"
    rows_per_run: int | None = None
    provider: Provider = CUDA


def provider_options(device: Device, stream: Stream, options: CudaOptions) -> dict[str, str]:
    """What the CUDA provider is told; everything in words, as it takes them.

    TF32 is off: fp32 is the yardstick, and its products have 10 bits there.
    """
    told = {
        "device_id": str(device.info.index),
        "user_compute_stream": str(stream.handle),
        "do_copy_in_default_stream": "1",
        # Doubling, the default, keeps up to twice of what the largest batch takes.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": options.convolutions,
        "use_tf32": "0",
        "enable_cuda_graph": str(int(options.graphs)),
    }
    if options.memory_mib is not None:
        told["gpu_mem_limit"] = str(options.memory_mib << 20)
    return told


def provider_obstacle(device: Device, options: CudaOptions) -> LrsclipError | None:
    """Run a graph of one addition on a device, and say what is wrong with it."""
    try:
        with device.current():
            stream = Stream(device.driver)
            try:
                session = cuda_session(PROBE_GRAPH, device, stream, options)
                (result,) = session.run(None, {"x": np.array([1, 2], np.float32)})
                del session
            finally:
                stream.free()
    except (BackendError, DependencyError) as error:
        return error
    except Exception as error:  # onnxruntime raises many unrelated classes of its own
        return BackendError(f"onnxruntime cannot run a graph on cuda:{device.info.index}: {one_line(error)}")
    if result.tolist() != [2.0, 4.0]:
        return BackendError(
            f"onnxruntime gave {result.tolist()} on cuda:{device.info.index}, expected [2.0, 4.0]"
        )
    return None


def cuda_session(graph: str | bytes, device: Device, stream: Stream, options: CudaOptions) -> Any:
    """ONNX Runtime's session of a graph, all of it on the device.

    Args:
        graph: The ONNX file, or its content.
        device: Its context must be current.
        stream: Where runs are enqueued.
        options: How it runs.

    Raises:
        DependencyError: If onnxruntime-gpu is not installed.
        BackendError: If the provider or the graph cannot be loaded, or a node would run elsewhere.
    """
    ort = _onnxruntime(options.provider)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = _QUIET
    settings.enable_mem_pattern = False
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    told = provider_options(device, stream, options) if options.provider == CUDA else {}
    name = graph if isinstance(graph, str) else "a graph of one addition"
    with _unheard(ort):
        try:
            session = ort.InferenceSession(
                graph, settings, providers=[(options.provider.name, told)], enable_fallback=0
            )
        except Exception as error:  # onnxruntime raises many unrelated classes of its own
            raise BackendError(
                f"{name} cannot be loaded by onnxruntime {ort.__version__}: {_reason(error)}"
            ) from error
    if options.provider.name not in session.get_providers():
        raise BackendError(
            f"onnxruntime {ort.__version__} cannot load its {options.provider.name}: "
            f"{_missing_library(ort)}. Install CUDA and cuDNN beside it: "
            "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    refuse_nodes_elsewhere(session, name, options.provider)
    return session


def refuse_nodes_elsewhere(session: Any, name: str, provider: Provider) -> None:
    """Read back where each node runs.

    Raises:
        BackendError: If one that computes anything but shapes runs elsewhere.
    """
    try:
        assigned = session.get_provider_graph_assignment_info()
    except AttributeError as error:
        raise BackendError(
            "this onnxruntime cannot tell where the nodes of a graph run. "
            "Install a newer one: pip install -U onnxruntime-gpu"
        ) from error
    nodes = [(part.ep_name, node.op_type) for part in assigned for node in part.get_nodes()]
    elsewhere = sorted({operator for where, operator in nodes if where != provider.name})
    shapes_alone = "Shape" in elsewhere and _SHAPE_OPERATORS.issuperset(elsewhere)
    if elsewhere and not shapes_alone:
        raise BackendError(
            f"{name}: onnxruntime would run {', '.join(elsewhere)} on the CPU, expected everything on the "
            "GPU. Use --backend tensorrt, or onnxruntime on the CPU"
        )


def _onnxruntime(provider: Provider) -> Any:
    """The module, with what its provider links to loaded where pip put it."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise DependencyError.of("onnxruntime-gpu", extra="gpu")
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError(f"onnxruntime is installed but cannot be imported: {one_line(error)}") from error
    if provider.name not in ort.get_available_providers():
        raise DependencyError(
            f"onnxruntime {ort.__version__} was built for CPUs alone. Replace it: pip uninstall onnxruntime, "
            "then pip install 'lrsclip-rt[gpu]'"
        )
    if provider == CUDA and hasattr(ort, "preload_dlls"):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            ort.preload_dlls(msvc=False, directory="")
        if said.getvalue():
            _log.debug("onnxruntime: %s", " ".join(said.getvalue().split()))
    return ort


@contextlib.contextmanager
def _unheard(ort: Any) -> Iterator[None]:
    """What ONNX Runtime would write to stderr for the block is said in our error instead."""
    ort.set_default_logger_severity(_QUIET)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNINGS)


def _reason(error: Exception) -> str:
    """The last of ONNX Runtime's nested messages, without the places in its sources."""
    words = re.split(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", " ".join(str(error).split()))[-1]
    return words.partition(" ; GPU=")[0][:300]


def _missing_library(ort: Any) -> str:
    """The loader's own words about the provider's library; ONNX Runtime only logs them."""
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return one_line(error)
    return "it gave no reason"
