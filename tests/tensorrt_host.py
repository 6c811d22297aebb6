"""Behaviours that make the double of TensorRT work on the host: ONNX Runtime stands for the GPU.

A plan is JSON that names the ONNX file and the profiles. A run reads the addresses of its inputs, which the
stub of libcuda took from the host's memory, and writes to that of its output.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from cuda_stub import CudaStub
from tensorrt_double import Behaviours, Double

TRT_TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int32)": "INT32"}
CACHE = b"timed"


class HostTensorRT:
    """One process's TensorRT: ``module`` is what ``import tensorrt`` would give."""

    def __init__(self, surface: dict[str, Any], stub: CudaStub) -> None:
        self.stub = stub
        self.captured: dict[int, Callable[[], None]] = {}
        self.shapes_of: dict[int, tuple[int, ...]] = {}
        self.launches = 0
        self.scratch_bytes_per_row = 1000
        self.spoil: Callable[[np.ndarray], np.ndarray] = lambda rows: rows
        self.module = Double(surface, self.behaviours())
        stub.on_launch(self.launch)

    def behaviours(self) -> Behaviours:
        return {
            "OnnxParser.parse_from_file": self.parse,
            "OnnxParser.num_errors": lambda parser: 0,
            "INetworkDefinition.num_inputs": lambda net: len(session(net).get_inputs()),
            "INetworkDefinition.num_outputs": lambda net: len(session(net).get_outputs()),
            "INetworkDefinition.get_input": self.get_input,
            "Builder.create_optimization_profile": lambda b: self.new("IOptimizationProfile", shapes={}),
            "Builder.create_builder_config": lambda b: self.new("IBuilderConfig", profiles=[], flags=[]),
            "Builder.create_network": lambda b, flags=0: self.new("INetworkDefinition"),
            "IOptimizationProfile.set_shape": self.set_shape,
            "IBuilderConfig.add_optimization_profile": self.add_profile,
            "IBuilderConfig.set_flag": lambda config, flag: config._state["flags"].append(flag.name),
            "IBuilderConfig.get_timing_cache": lambda config: self.new("ITimingCache"),
            "ITimingCache.serialize": lambda cache: self.new("IHostMemory", content=CACHE),
            "Builder.build_serialized_network": self.build,
            "Runtime.deserialize_cuda_engine": self.load,
            "EngineInspector.get_engine_information": lambda i, f: json.dumps({"Layers": ["one", "two"]}),
            "ICudaEngine.num_io_tensors": lambda engine: len(nodes(engine)),
            "ICudaEngine.get_tensor_name": lambda engine, i: nodes(engine)[i].name,
            "ICudaEngine.get_tensor_dtype": self.get_dtype,
            "ICudaEngine.get_tensor_shape": lambda engine, name: dynamic(node_of(engine, name)),
            "ICudaEngine.get_device_memory_size_for_profile_v2": self.scratch_of_profile,
            "ICudaEngine.create_execution_context": self.create_context,
            "IExecutionContext.set_optimization_profile_async": self.set_profile,
            "IExecutionContext.set_input_shape": self.set_input_shape,
            "IExecutionContext.set_tensor_address": self.set_address,
            "IExecutionContext.update_device_memory_size_for_shapes": self.scratch_of_shapes,
            "IExecutionContext.execute_async_v3": self.execute,
            "OnnxParserRefitter.refit_from_file": lambda parser, path: Path(path).is_file(),
        }

    def new(self, kind: str, **state: Any) -> Any:
        return self.module.new(kind, **state)

    def parse(self, parser: Any, path: str) -> bool:
        network = parser._state["arguments"][0]
        network._state["path"] = path
        return True

    def get_input(self, network: Any, index: int) -> Any:
        return self.new("ITensor", name=session(network).get_inputs()[index].name)

    def set_shape(self, profile: Any, name: str, least: Any, best: Any, most: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(least, best, most, strict=True))
        profile._state["shapes"][name] = [least, best, most]

    def add_profile(self, config: Any, profile: Any) -> int:
        config._state["profiles"].append(profile._state["shapes"])
        return len(config._state["profiles"]) - 1

    def build(self, builder: Any, network: Any, config: Any) -> Any:
        monitor = config._state["progress_monitor"]
        monitor.phase_start("Building", "", 2)
        assert monitor.step_complete("Building", 0)
        monitor.phase_finish("Building")
        plan = {"path": network._state["path"], "profiles": config._state["profiles"]}
        return self.new("IHostMemory", content=json.dumps(plan).encode())

    def load(self, runtime: Any, plan: bytes) -> Any:
        return self.new("ICudaEngine", **json.loads(plan))

    def get_dtype(self, engine: Any, name: str) -> Any:
        return getattr(self.module.DataType, TRT_TYPES[node_of(engine, name).type])

    def create_context(self, engine: Any, strategy: Any) -> Any:
        return self.new("IExecutionContext", of=engine, shapes={}, addresses={})

    def set_profile(self, context: Any, index: int, stream: int) -> bool:
        context._state["profile"] = context._state["of"]._state["profiles"][index]
        return bool(stream)

    def set_input_shape(self, context: Any, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = context._state["profile"][name]
        context._state["shapes"][name] = shape
        return all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def set_address(self, context: Any, name: str, address: int) -> bool:
        context._state["addresses"][name] = address
        return address % 256 == 0

    def scratch_of_profile(self, engine: Any, index: int) -> int:
        largest = next(iter(engine._state["profiles"][index].values()))[2]
        return int(largest[0]) * self.scratch_bytes_per_row

    def scratch_of_shapes(self, context: Any) -> int:
        return int(next(iter(context._state["shapes"].values()))[0]) * self.scratch_bytes_per_row

    def execute(self, context: Any, stream: int) -> bool:
        shapes, addresses = dict(context._state["shapes"]), dict(context._state["addresses"])

        def run() -> None:
            model = session(context._state["of"])
            feeds = {
                node.name: at(addresses[node.name], TRT_TYPES[node.type], shapes[node.name])
                for node in model.get_inputs()
            }
            (rows,) = model.run(None, feeds)
            name = model.get_outputs()[0].name
            kind = TRT_TYPES[model.get_outputs()[0].type]
            at(addresses[name], kind, rows.shape)[...] = self.spoil(rows)

        if self.stub.capturing:
            self.captured[len(self.captured) + 1] = run
            self.shapes_of[len(self.captured)] = next(iter(shapes.values()))
        else:
            run()
        return True

    def launch(self, graph: int) -> None:
        self.launches += 1
        self.captured[graph]()


SESSIONS: dict[str, Any] = {}


def session(holder: Any) -> Any:
    path = holder._state["path"]
    if path not in SESSIONS:
        SESSIONS[path] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return SESSIONS[path]


def nodes(engine: Any) -> list[Any]:
    return [*session(engine).get_inputs(), *session(engine).get_outputs()]


def node_of(engine: Any, name: str) -> Any:
    return next(node for node in nodes(engine) if node.name == name)


def dynamic(node: Any) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else -1 for n in node.shape)


def at(address: int, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """The host's memory at an address, to be written to."""
    dtype = np.dtype({"FLOAT": "float32", "HALF": "float16", "INT32": "int32"}[kind])
    size = int(np.prod(shape)) * dtype.itemsize
    raw = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memoryview(raw), dtype).reshape(shape)
