"""ONNX Runtime on the CPU: the yardstick that runs everywhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.backends import TensorInfo
from lrsclip_rt.backends.probe_graph import PROBE_GRAPH
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.errors import BackendError, DependencyError, LrsclipError

__all__ = ["OnnxRuntimeSession", "cpu_obstacle", "one_line", "tensor_info"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
_PROVIDER = "CPUExecutionProvider"


_MOST_IDLE = 0.125
"""Share of the threads' time that may be lost where rows do not divide evenly among them."""
_WORTH_LOADING = 16
"""Rows of a run that are worth loading a graph once more for, to run them side by side."""


class OnnxRuntimeSession:
    """A graph loaded by ONNX Runtime on the CPU.

    Rows that divide among the threads are run side by side, each part on a thread alone: threads that work on
    one part wait for one another after every layer, and the longer the more other work there is. Fewer rows
    are run by all threads together. The graph is loaded for either way when it is first gone.

    External weights are read from beside the file.

    Args:
        path: The ONNX file.
        threads: Threads of one run; default the CPUs that this process may use.
        batches: It is run on many rows at first.

    Raises:
        DependencyError: If onnxruntime is not installed.
        BackendError: If the graph cannot be loaded or has another number of outputs than one.
    """

    def __init__(self, path: Path, *, threads: int | None = None, batches: bool = False) -> None:
        self._path = path
        self._threads = threads or available_cpus()
        self._sessions: dict[int, Any] = {}
        self._lock = Lock()
        session = self._with_threads(1 if batches else self._threads)
        outputs = session.get_outputs()
        if len(outputs) != 1:
            raise BackendError(f"{path} has {len(outputs)} outputs, expected one. Export the bundle again")
        self._output_name = outputs[0].name
        self._output = tensor_info(outputs[0])
        self._inputs = MappingProxyType({node.name: tensor_info(node) for node in session.get_inputs()})

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
            BackendError: If the run fails; the message is ONNX Runtime's.
        """
        return self.begin(feeds)()

    def begin(self, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], NDArray[np.float32]]:
        """Start a run of many rows; fewer, which take all threads, are run at once.

        No thread waits at the end of a run where the next one has begun already.

        Args:
            feeds: As ``run`` takes them; unchanged until the result is there.

        Returns:
            What waits for the output, and raises what ``run`` does.
        """
        rows = min((len(value) for value in feeds.values() if value.ndim), default=0)
        each = -(-rows // self._threads)
        uneven = not rows or each * self._threads - rows > _MOST_IDLE * rows
        if self._threads == 1 or uneven or (1 not in self._sessions and rows < _WORTH_LOADING):
            whole = self._run(self._with_threads(self._threads), feeds)
            return lambda: whole
        alone = self._with_threads(1)
        parts = [
            self._workers.submit(self._run, alone, {n: v[start : start + each] for n, v in feeds.items()})
            for start in range(0, rows, each)
        ]
        return lambda: np.concatenate([part.result() for part in parts])

    @cached_property
    def _workers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, "lrsclip-onnxruntime")

    def _with_threads(self, threads: int) -> Any:
        with self._lock:
            if threads not in self._sessions:
                self._sessions[threads] = _session(str(self._path), threads=threads)
            return self._sessions[threads]

    def _run(self, session: Any, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        try:
            (result,) = session.run([self._output_name], dict(feeds))
        except Exception as error:  # onnxruntime raises many unrelated classes of its own
            raise BackendError(f"{self._path.name} failed in onnxruntime: {one_line(error)}") from error
        return np.ascontiguousarray(result, dtype=np.float32)


@lru_cache(maxsize=1)
def cpu_obstacle() -> LrsclipError | None:
    """Why ONNX Runtime cannot run on this machine's CPU; None once a real graph ran."""
    try:
        session = _session(PROBE_GRAPH, threads=1)
        (result,) = session.run(None, {"x": np.array([1, 2], np.float32)})
    except (BackendError, DependencyError) as error:
        return error
    except Exception as error:  # onnxruntime raises many unrelated classes of its own
        return BackendError(f"onnxruntime cannot run a graph here: {one_line(error)}")
    if result.tolist() != [2.0, 4.0] or session.get_providers() != [_PROVIDER]:
        found = f"gave {result.tolist()} on {session.get_providers()}"
        return BackendError(f"onnxruntime {found}, expected [2.0, 4.0] on {_PROVIDER}. Reinstall it")
    return None


def _session(graph: str | bytes, *, threads: int) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        if importlib.util.find_spec("onnxruntime") is None:
            raise DependencyError.of("onnxruntime", extra="cpu") from error
        raise BackendError(f"onnxruntime is installed but cannot be imported: {one_line(error)}") from error
    options = _options(ort, threads=threads)
    try:
        return ort.InferenceSession(graph, options, providers=[_PROVIDER])
    except Exception as error:  # onnxruntime raises many unrelated classes of its own
        name = graph if isinstance(graph, str) else "a graph of one addition"
        raise BackendError(
            f"{name} cannot be loaded by onnxruntime {ort.__version__}: {one_line(error)}"
        ) from error


def _options(ort: Any, *, threads: int) -> Any:
    """What a session runs with; ``docs/backends.md`` says why."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads spin within a run, where it pays, but not between runs: images are decoded on the same cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # A run's memory is kept for the next one; patterns would keep one more block for each input shape.
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = False
    # Flushing denormals to zero would reach the caller's thread, and stay: NumPy's results would change.
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    return options


def tensor_info(node: Any) -> TensorInfo:
    """What ONNX Runtime says of an input or output."""
    shape = tuple(n if isinstance(n, int) else None for n in node.shape)
    return TensorInfo(_DTYPES.get(node.type, node.type), shape)


def one_line(error: BaseException) -> str:
    """The beginning of an error's message."""
    return " ".join(str(error).split())[:300]
