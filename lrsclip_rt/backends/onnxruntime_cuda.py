"""ONNX Runtime on NVIDIA GPUs: fp32 and fp16 files, on our own stream and buffers.

Graphs take their rows from device memory at fixed addresses and leave their answers there. What the host
holds goes through page-locked buffers, and what a kernel made is run where it lies.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.backends import GraphRequest, TensorInfo
from lrsclip_rt.backends.onnxruntime_backend import one_line, tensor_info
from lrsclip_rt.backends.onnxruntime_provider import CudaOptions, cuda_session, provider_obstacle
from lrsclip_rt.cuda.batch_ring import BatchRing, Fill, RowLayout
from lrsclip_rt.cuda.device import Device, device_index, device_info
from lrsclip_rt.cuda.driver import Driver
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.errors import BackendError, DeviceMemoryError, LrsclipError
from lrsclip_rt.tokenizer import CONTEXT_LENGTH

__all__ = ["OnnxRuntimeCudaSession", "onnxruntime_cuda_obstacle", "open_onnxruntime_cuda"]

_log = logging.getLogger(__name__)

_OUT_OF_MEMORY = ("failed to allocate", "out of memory", "cuda failure 2:")
_IMAGES_PER_RUN, _TEXTS_PER_RUN = 256, 128
_QUIET = 4


class OnnxRuntimeCudaSession:
    """A graph loaded by ONNX Runtime on a GPU; several threads may run it, one after the other.

    Args:
        request: The ONNX file, whose weights lie beside it.
        device: The GPU.
        options: How it runs.

    Raises:
        DependencyError: If onnxruntime-gpu is not installed.
        BackendError: If the provider cannot be loaded, a node would run on the CPU, or the graph is no tower.
    """

    def __init__(self, request: GraphRequest, device: Device, options: CudaOptions | None = None) -> None:
        self._name = request.path.name
        self._device = device
        self._options = options or CudaOptions()
        self._lock = threading.Lock()
        self._ring: BatchRing | None = None
        self._halved = False
        with device.current():
            self._stream = Stream(device.driver)
            self._session = cuda_session(str(request.path), device, self._stream, self._options)
        outputs = self._session.get_outputs()
        if len(outputs) != 1:
            raise BackendError(
                f"{request.path} has {len(outputs)} outputs, expected one. Export the bundle again"
            )
        self._inputs = MappingProxyType({node.name: tensor_info(node) for node in self._session.get_inputs()})
        self._output_name, self._output = outputs[0].name, tensor_info(outputs[0])
        self._longest = self._row_shapes()
        self._bindings: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        standard = _IMAGES_PER_RUN if "pixels" in self._inputs else _TEXTS_PER_RUN
        self._rows_per_run = self._options.rows_per_run or standard

    @property
    def inputs(self) -> Mapping[str, TensorInfo]:
        """Inputs by name."""
        return self._inputs

    @property
    def output(self) -> TensorInfo:
        """The only output."""
        return self._output

    @property
    def device(self) -> Device:
        """Where it runs."""
        return self._device

    @property
    def stream(self) -> Stream:
        """Where it enqueues everything."""
        return self._stream

    @property
    def rows_per_run(self) -> int:
        """The largest batch of one run."""
        return self._rows_per_run

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Run one batch.

        Args:
            feeds: Every input by name, in its type and shape.

        Returns:
            The output, C-contiguous float32.

        Raises:
            DeviceMemoryError: If the memory of the device does not suffice.
            BackendError: If the inputs are others than the graph's, or the run fails.
        """
        self._check(feeds)
        return self._run(lambda ring: ring.run_feeds(feeds, self._enqueue))

    def run_filled(self, count: int, fill: Fill) -> NDArray[np.float32]:
        """Run rows that are written on the device.

        Args:
            count: How many.
            fill: Enqueues what writes some of them; called for each run.

        Raises:
            DeviceMemoryError: If the memory of the device does not suffice.
            BackendError: If the graph has several inputs, or the run fails.
        """
        if len(self._inputs) != 1:
            raise BackendError(f"{self._name} takes {', '.join(self._inputs)}: only one can be filled")
        return self._run(lambda ring: ring.run_filled(count, fill, self._enqueue))

    def close(self) -> None:
        """Give all device memory back."""
        with self._lock, self._device.current():
            self._stream.synchronize()
            self._drop_ring()
            self._session = None
            self._stream.free()

    def _run(self, work: Callable[[BatchRing], NDArray[Any]]) -> NDArray[np.float32]:
        with self._lock, self._device.current():
            while True:
                try:
                    if self._ring is None:
                        self._ring = self._new_ring()
                    return np.ascontiguousarray(work(self._ring), dtype=np.float32)
                except DeviceMemoryError as error:
                    self._halve(error)

    def _new_ring(self) -> BatchRing:
        inputs = tuple(
            RowLayout(name, info.dtype, self._longest[name]) for name, info in self._inputs.items()
        )
        output = RowLayout(self._output_name, self._output.dtype, self._longest[self._output_name])
        return BatchRing(self._device, self._stream, inputs, output, self._rows_per_run)

    def _drop_ring(self) -> None:
        # A binding holds addresses of the ring's buffers.
        self._bindings.clear()
        if self._ring is not None:
            self._ring.free()
            self._ring = None

    def _halve(self, error: DeviceMemoryError) -> None:
        """Half of each batch from now on; only once, and only where the user named none."""
        if self._halved or self._options.rows_per_run is not None or self._rows_per_run == 1:
            free, total = self._device.memory_bytes()
            raise DeviceMemoryError(
                f"{self._name} does not fit at batch {self._rows_per_run}: {free >> 20} of {total >> 20} MiB "
                f"are free. Close what else runs on the GPU, or use a smaller batch ({error})"
            ) from error
        _log.warning(
            "%s does not fit at batch %d: going on with %d (%s)",
            self._name,
            self._rows_per_run,
            self._rows_per_run // 2,
            error,
        )
        self._halved = True
        self._drop_ring()
        self._rows_per_run //= 2

    def _enqueue(self, count: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Run the graph on the ring's buffers; does not wait for it."""
        key = tuple(sorted(shapes.items()))
        if key not in self._bindings:
            self._bindings[key] = self._bound(count, shapes, number=len(self._bindings))
        binding, run_options = self._bindings[key]
        try:
            self._session.run_with_iobinding(binding, run_options)
        except Exception as error:  # onnxruntime raises many unrelated classes of its own
            words = one_line(error)
            kind = (
                DeviceMemoryError if any(sign in words.lower() for sign in _OUT_OF_MEMORY) else BackendError
            )
            raise kind(f"{self._name} failed in onnxruntime: {words}") from error

    def _bound(self, count: int, shapes: Mapping[str, tuple[int, ...]], *, number: int) -> tuple[Any, Any]:
        """Addresses and shapes of one batch, and how it runs; ``number`` tells its CUDA graph from others."""
        import onnxruntime as ort

        assert self._ring is not None
        memory, index = self._options.provider.memory, self._device.info.index
        binding = self._session.io_binding()
        for name, shape in shapes.items():
            kind = np.dtype(self._inputs[name].dtype)
            binding.bind_input(name, memory, index, kind, shape, self._ring.address(name))
        name = self._output_name
        out = (count, *self._longest[name])
        kind = np.dtype(self._output.dtype)
        binding.bind_output(name, memory, index, kind, out, self._ring.address(name))
        run_options = ort.RunOptions()
        run_options.log_severity_level = _QUIET
        # The stream is ours: what follows in it waits for the run, and the host need not.
        run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        run_options.add_run_config_entry("gpu_graph_id", str(number) if self._options.graphs else "-1")
        return binding, run_options

    def _row_shapes(self) -> dict[str, tuple[int, ...]]:
        """The longest row of each input and of the output."""
        rows = {name: info.shape[1:] for name, info in self._inputs.items()}
        rows[self._output_name] = self._output.shape[1:]
        found: dict[str, tuple[int, ...]] = {}
        for name, row in rows.items():
            # Free is the length of texts alone.
            found[name] = tuple(CONTEXT_LENGTH if n is None else n for n in row)
            if None in row and name != "tokens":
                raise BackendError(
                    f"{self._name}: rows of {name} are {row}, expected a fixed shape. Export the bundle again"
                )
        return found

    def _check(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        if set(feeds) != set(self._inputs):
            found, expected = ", ".join(sorted(feeds)), ", ".join(sorted(self._inputs))
            raise BackendError(
                f"{self._name} failed in onnxruntime: got the inputs {found}, expected {expected}"
            )
        rows = {len(array) for array in feeds.values() if array.ndim}
        for name, info in self._inputs.items():
            array = feeds[name]
            most = (None, *self._longest[name])
            fits = array.ndim == len(info.shape) and all(
                (length is None or got == length) and (limit is None or got <= limit)
                for got, length, limit in zip(array.shape, info.shape, most, strict=True)
            )
            if not fits or array.dtype.name != info.dtype or rows == {0} or len(rows) != 1:
                raise BackendError(
                    f"{self._name} failed in onnxruntime: {name} is {array.dtype.name} {array.shape}, "
                    f"expected {info.dtype} {info.shape}, at most {most[1:]} in a row and one row at least"
                )


@lru_cache(maxsize=1)
def _proved(driver: Driver) -> LrsclipError | None:
    device = Device(driver)
    try:
        return provider_obstacle(device, CudaOptions())
    finally:
        device.close()


def onnxruntime_cuda_obstacle() -> LrsclipError | None:
    """Why ONNX Runtime cannot run on this machine's GPU; None once a real graph ran there."""
    from lrsclip_rt.cuda.driver import cuda_driver

    try:
        driver = cuda_driver()
        device_info(driver)
    except LrsclipError as error:
        return error
    return _proved(driver)


def open_onnxruntime_cuda(request: GraphRequest) -> OnnxRuntimeCudaSession:
    """Load a graph on the device of a request (``cuda:N``).

    Raises:
        DependencyError: If onnxruntime-gpu is not installed.
        BackendError: If there is no such GPU, or the graph cannot be loaded there.
    """
    from lrsclip_rt.cuda.driver import cuda_driver

    return OnnxRuntimeCudaSession(request, Device(cuda_driver(), device_index(request.device)))
