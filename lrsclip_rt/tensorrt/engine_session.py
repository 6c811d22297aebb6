"""An engine behind the protocol of the other backends: any batch, any length of text."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.backends import TensorInfo
from lrsclip_rt.cuda.batch_ring import Fill, RowLayout
from lrsclip_rt.cuda.device import Device
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.errors import BackendError, DeviceMemoryError
from lrsclip_rt.tensorrt.engine_folders import Engine
from lrsclip_rt.tensorrt.loading import is_lean
from lrsclip_rt.tensorrt.plan_building import inspected
from lrsclip_rt.tensorrt.profile_runner import ProfileRunner
from lrsclip_rt.tensorrt.profiles import Profile
from lrsclip_rt.tensorrt.reporting import Messages, logger_from_module

if TYPE_CHECKING:
    import tensorrt

__all__ = ["EngineSession", "engine_from_plan"]

_log = logging.getLogger(__name__)


class EngineSession:
    """A loaded engine; several threads may run it, one after the other.

    Texts are padded to the shortest profile that holds them, which changes nothing: the tower is causal and
    reads its answer at EOT. Where memory does not suffice for a profile's largest batch and ``batch`` was
    left open, it is halved once.

    Args:
        trt: The bindings.
        engine: The engine, found to fit this device.
        device: The device.
        fixed_length: Texts come at the full length alone, as the graph of fixed shapes takes them.
        batch: The largest batch of a run; None takes the engine's.

    Raises:
        BackendError: If the plan is damaged, or TensorRT refuses it.
    """

    def __init__(
        self,
        trt: ModuleType,
        engine: Engine,
        device: Device,
        *,
        fixed_length: bool = False,
        batch: int | None = None,
    ) -> None:
        self._trt = trt
        self._name = engine.record.plan
        self.folder = engine.folder
        """Where the engine lies, and kernels that were compiled for its device."""
        self._device = device
        self._batch = batch
        self._halved = False
        self._messages = Messages()
        self._logger = logger_from_module(trt, self._messages)
        self._lock = threading.Lock()
        self._runners: dict[int, ProfileRunner] = {}
        self._profiles = engine.record.profiles
        with device.current():
            self._engine = engine_from_plan(trt, engine, self._logger, self._messages)
            self._stream = Stream(device.driver)
        self._layouts = _layouts(trt, self._engine)
        self._inputs = MappingProxyType(self._contract(fixed_length))

    @property
    def inputs(self) -> Mapping[str, TensorInfo]:
        """Inputs by name."""
        return self._inputs

    @property
    def output(self) -> TensorInfo:
        """The only output."""
        layout = self._output_layout
        return TensorInfo(layout.dtype, (None, *layout.shape))

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Run one batch.

        Args:
            feeds: Every input by name, in its type and shape.

        Returns:
            The output, C-contiguous float32.

        Raises:
            DeviceMemoryError: If the memory of the device does not suffice.
            BackendError: If the inputs are others than the engine's, or the run fails.
        """
        self._check(feeds)
        with self._lock, self._device.current():
            index = self._profile_index(feeds)
            result = self._runner(index).run(_padded(feeds, self._profiles[index]))
        return np.ascontiguousarray(result, dtype=np.float32)

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
        """The largest batch of one run, of the profile of the longest texts or of images."""
        profile = self._profiles[-1]
        most = profile.maximum if self._batch is None else min(self._batch, profile.maximum)
        return max(1, most // 2) if self._halved else most

    def run_filled(self, count: int, fill: Fill) -> NDArray[np.float32]:
        """Run rows that are written on the device.

        Args:
            count: How many.
            fill: Enqueues what writes some of them; called for each run.

        Raises:
            DeviceMemoryError: If the memory of the device does not suffice.
            BackendError: If the engine has several inputs, or the run fails.
        """
        if len(self._inputs) != 1:
            raise BackendError(f"{self._name} takes {', '.join(self._inputs)}: only one can be filled")
        with self._lock, self._device.current():
            result = self._runner(0).run_filled(count, fill)
        return np.ascontiguousarray(result, dtype=np.float32)

    def layers(self) -> list[Any]:
        """What became of each layer, as TensorRT's inspector tells it."""
        return inspected(self._trt, self._engine)

    def close(self) -> None:
        """Give all device memory back."""
        with self._lock, self._device.current():
            self._free_runners()
            self._stream.free()
            self._engine = None

    @property
    def _output_layout(self) -> RowLayout:
        return next(layout for name, layout in self._layouts.items() if name not in self._profiles[0].rows)

    def _contract(self, fixed_length: bool) -> dict[str, TensorInfo]:
        """What is taken: free in the batch, and in the tokens unless the graph's length is fixed."""
        infos = {}
        for name, row in self._profiles[-1].rows.items():
            free = self._profiles[-1].length is not None and not fixed_length
            shape = tuple(None if free else n for n in row)
            infos[name] = TensorInfo(self._layouts[name].dtype, (None, *shape))
        return infos

    def _check(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        if set(feeds) != set(self._inputs):
            found, expected = ", ".join(sorted(feeds)), ", ".join(sorted(self._inputs))
            raise BackendError(
                f"{self._name} failed in tensorrt: got the inputs {found}, expected {expected}"
            )
        rows = {len(array) for array in feeds.values() if array.ndim}
        for name, info in self._inputs.items():
            array = feeds[name]
            most = (None, *self._profiles[-1].rows[name])
            fits = array.ndim == len(info.shape) and all(
                (length is None or got == length) and (limit is None or got <= limit)
                for got, length, limit in zip(array.shape, info.shape, most, strict=True)
            )
            if not fits or array.dtype.name != info.dtype or rows == {0} or len(rows) != 1:
                raise BackendError(
                    f"{self._name} failed in tensorrt: {name} is {array.dtype.name} {array.shape}, expected "
                    f"{info.dtype} {info.shape}, at most {most[1:]} in a row and one row at least"
                )

    def _profile_index(self, feeds: Mapping[str, NDArray[Any]]) -> int:
        if self._profiles[0].length is None:
            return 0
        length = feeds["tokens"].shape[1]
        return next(i for i, profile in enumerate(self._profiles) if length <= (profile.length or 0))

    def _runner(self, index: int) -> ProfileRunner:
        """The profile's runner, made when it is first needed."""
        while index not in self._runners:
            profile = self._profiles[index]
            most = profile.maximum if self._batch is None else min(self._batch, profile.maximum)
            batch = max(1, most // 2) if self._halved else most
            try:
                self._runners[index] = ProfileRunner(
                    self._trt,
                    self._engine,
                    index,
                    profile,
                    output=self._output_layout,
                    dtypes={name: layout.dtype for name, layout in self._layouts.items()},
                    device=self._device,
                    stream=self._stream,
                    batch=batch,
                    messages=self._messages,
                )
            except DeviceMemoryError as error:
                self._halve(batch, error)
        return self._runners[index]

    def _halve(self, batch: int, error: DeviceMemoryError) -> None:
        """Half of each batch from now on; only once, and only where the user named none."""
        if self._halved or self._batch is not None or batch == 1:
            free, total = self._device.memory_bytes()
            raise DeviceMemoryError(
                f"{self._name} does not fit at batch {batch}: {free >> 20} of {total >> 20} MiB are free. "
                f"Close what else runs on the GPU, or use a smaller batch ({error})"
            ) from error
        self._halved = True
        self._free_runners()
        _log.warning(
            "%s does not fit at batch %d: going on with %d (%s)", self._name, batch, batch // 2, error
        )

    def _free_runners(self) -> None:
        self._stream.synchronize()
        for runner in self._runners.values():
            runner.free()
        self._runners.clear()


def engine_from_plan(
    trt: ModuleType, engine: Engine, logger: tensorrt.ILogger, messages: Messages
) -> tensorrt.ICudaEngine:
    """Load a plan on the current device, and put the weights back into a stripped one.

    Raises:
        BackendError: If the plan is damaged, or TensorRT refuses it.
    """
    if is_lean(trt) and not engine.build.options.version_compatible:
        raise BackendError(
            f"{engine.folder / engine.record.plan} needs all of TensorRT, the lean runtime is here. Install "
            f"tensorrt, or build for it: lrsclip build {engine.graph.parent} "
            f"--precision {engine.build.precision} --version-compatible"
        )
    plan = engine.plan_bytes()
    try:
        runtime = trt.Runtime(logger)
    except Exception as error:  # a null pointer of C++ comes as TypeError
        raise BackendError(f"TensorRT has no runtime here: {messages.text()}") from error
    # A version-compatible plan carries the runtime that it was built with. It was hashed above.
    runtime.engine_host_code_allowed = engine.build.options.version_compatible
    loaded = runtime.deserialize_cuda_engine(plan)
    if loaded is None:
        raise BackendError(
            f"TensorRT {trt.__version__} refused {engine.folder / engine.record.plan}: {messages.text()}. "
            f"Rebuild it: lrsclip build {engine.graph.parent} --precision {engine.build.precision}"
        )
    if engine.build.options.strip:
        _refit(trt, loaded, engine, logger, messages)
    return loaded


def _refit(
    trt: ModuleType,
    loaded: tensorrt.ICudaEngine,
    engine: Engine,
    logger: tensorrt.ILogger,
    messages: Messages,
) -> None:
    refitter = trt.Refitter(loaded, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(engine.graph)) or not refitter.refit_cuda_engine():
        raise BackendError(
            f"the weights of {engine.graph} do not fit {engine.record.plan}: {messages.text()}. "
            f"Rebuild it: lrsclip build {engine.graph.parent} --precision {engine.build.precision} --strip"
        )


def _layouts(trt: ModuleType, engine: tensorrt.ICudaEngine) -> dict[str, RowLayout]:
    """Inputs and output by name; of the inputs the shape is the profile's."""
    found = {}
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name
        found[name] = RowLayout(name, dtype, tuple(engine.get_tensor_shape(name))[1:])
    return found


def _padded(feeds: Mapping[str, NDArray[Any]], profile: Profile) -> dict[str, NDArray[Any]]:
    """Rows of the profile's shapes: what follows EOT is never looked at, so zeros do."""
    padded = {}
    for name, row in profile.rows.items():
        array = feeds[name]
        if array.shape[1:] != row:
            wider = np.zeros((len(array), *row), array.dtype)
            wider[:, : array.shape[1]] = array
            array = wider
        padded[name] = array
    return padded
