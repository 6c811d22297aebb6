"""A plan from a typed ONNX file: strongly typed, so that precision is what the file says and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lrsclip_rt.errors import BackendError
from lrsclip_rt.tensorrt.profiles import BuildOptions, Profile
from lrsclip_rt.tensorrt.reporting import Messages, logger_from_module, monitor_from_module

if TYPE_CHECKING:
    import tensorrt

__all__ = ["BuiltPlan", "inspected", "plan_from_onnx"]


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """What a build gives: the serialized engine, and the timing cache with what was timed for it."""

    plan: bytes
    timing_cache: bytes


def plan_from_onnx(
    trt: ModuleType,
    graph: Path,
    profiles: Sequence[Profile],
    options: BuildOptions,
    *,
    timing_cache: bytes = b"",
    advance: Callable[[str, float], None] = lambda phase, share: None,
) -> BuiltPlan:
    """Build an engine on the current device.

    Args:
        trt: The bindings.
        graph: The ONNX file; its weights lie beside it.
        profiles: The shapes that it shall run.
        options: Limits and kinds of plan.
        timing_cache: Of an earlier build with this device and version, or nothing.
        advance: Called with a phase and the share of it that is done.

    Raises:
        BackendError: If the file does not parse, or no engine can be made of it; with TensorRT's words.
    """
    messages = Messages()
    logger = logger_from_module(trt, messages)
    try:
        builder = trt.Builder(logger)
    except Exception as error:  # a null pointer of C++ comes as TypeError
        raise BackendError(f"TensorRT has no builder here: {messages.text()}") from error
    # 1 << n: on 10.x this is no longer the only flag, on 11.x it is the first.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise BackendError(
            f"TensorRT {trt.__version__} cannot read {graph.name}: {'; '.join(reasons) or messages.text()}"
        )
    _check_inputs(graph, network, profiles)
    config = builder.create_builder_config()
    _set_options(trt, config, options)
    for profile in profiles:
        _add_profile(builder, config, profile)
    config.progress_monitor = monitor_from_module(trt, advance)
    cache = config.create_timing_cache(timing_cache)
    # A cache of another device or version is not used: its times would choose wrong tactics.
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"TensorRT {trt.__version__} made no engine of {graph.name}: {messages.text()}")
    return BuiltPlan(bytes(plan), bytes(config.get_timing_cache().serialize()))


def inspected(trt: ModuleType, engine: tensorrt.ICudaEngine) -> list[Any]:
    """What the layers of an engine became, as TensorRT tells it; how much depends on its version."""
    inspector = engine.create_engine_inspector()
    report = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    layers: list[Any] = report["Layers"]
    return layers


def _check_inputs(graph: Path, network: tensorrt.INetworkDefinition, profiles: Sequence[Profile]) -> None:
    found = {network.get_input(i).name for i in range(network.num_inputs)}
    expected = set(profiles[0].rows)
    if found != expected or network.num_outputs != 1:
        raise BackendError(
            f"{graph.name} takes {', '.join(sorted(found))} and gives {network.num_outputs} outputs, "
            f"expected {', '.join(sorted(expected))} and one. Export the bundle again"
        )


def _set_options(trt: ModuleType, config: tensorrt.IBuilderConfig, options: BuildOptions) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        limit = options.workspace_mib << 20
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
        # On Jetson tactics are timed in the memory that everything else runs in.
        config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, limit)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.strip:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)


def _add_profile(builder: tensorrt.Builder, config: tensorrt.IBuilderConfig, profile: Profile) -> None:
    made = builder.create_optimization_profile()
    least, best, most = (profile.shapes(n) for n in (1, profile.optimum, profile.maximum))
    for name in profile.rows:
        made.set_shape(name, least[name], best[name], most[name])
    if config.add_optimization_profile(made) < 0:
        raise BackendError(f"TensorRT refused the profile {profile.to_dict()}")
