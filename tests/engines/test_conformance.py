"""Every name of TensorRT that our code uses exists in the real bindings, oldest and newest; no GPU needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tensorrt_conformance
import tensorrt_stubs

import lrsclip_rt.tensorrt

FOLDER = Path(lrsclip_rt.tensorrt.__file__).parent
BACKEND = FOLDER.parent / "backends" / "tensorrt_backend.py"
SOURCES = {path.name: path.read_text("utf-8") for path in sorted((*FOLDER.glob("*.py"), BACKEND))}


def problems_of(surface: dict[str, Any], file: str, before: str, after: str) -> list[str]:
    """What is found once ``before`` is replaced in a file."""
    assert SOURCES[file].count(before) == 1, before
    changed = {**SOURCES, file: SOURCES[file].replace(before, after)}
    return tensorrt_conformance.conformance(changed, surface).problems


def test_the_code_uses_nothing_that_the_bindings_do_not_have(surface: dict[str, Any]) -> None:
    found = tensorrt_conformance.conformance(SOURCES, surface)
    assert found.problems == []
    # What a build and a run cannot do without: the code was really followed there.
    assert {
        "Builder.build_serialized_network",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "OnnxParser.parse_from_file",
        "IOptimizationProfile.set_shape",
        "IBuilderConfig.progress_monitor",
        "MemoryPoolType.TACTIC_DRAM",
        "ParserError.desc",
        "Runtime.deserialize_cuda_engine",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_tensor_address",
        "EngineInspector.get_engine_information",
        "OnnxParserRefitter.refit_from_file",
        "IProgressMonitor.step_complete",
    } <= found.used
    assert len(found.used) >= 50


BREAKS = {
    "a flag": ("plan_building.py", "BuilderFlag.STRIP_PLAN", "BuilderFlag.STRIP", "BuilderFlag has no STRIP"),
    "too few": (
        "plan_building.py",
        "set_timing_cache(cache, False):",
        "set_timing_cache(cache):",
        "not take",
    ),
    "order": ("plan_building.py", "OnnxParser(network, logger)", "OnnxParser(logger, network)", "not take"),
    "keyword": ("plan_building.py", "create_network(flags)", "create_network(flag=flags)", "not take"),
    "property": ("plan_building.py", "network.num_inputs", "network.input_count", "has no input_count"),
    "method": ("profile_runner.py", "execute_async_v3", "execute_async_v2", "has no execute_async_v2"),
    "class": ("engine_session.py", "= trt.Runtime(", "= trt.NoRuntime(", "TensorRT has no NoRuntime"),
    "old api": ("engine_session.py", "engine.num_io_tensors", "engine.num_bindings", "no num_bindings"),
    "arity": ("reporting.py", "def phase_finish(self, phase_name: str)", "def phase_finish(self)", "takes 2"),
    "type": ("plan_building.py", "config: tensorrt.IBuilderConfig, opt", "config: Any, opt", "cannot follow"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_name_an_argument_or_a_type_that_is_wrong_is_found(surface: dict[str, Any], name: str) -> None:
    file, before, after, said = BREAKS[name]
    assert any(said in problem for problem in problems_of(surface, file, before, after))


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("plan_building.py", "BuilderFlag.STRIP_PLAN", "BuilderFlag.FP16"),
        (
            "plan_building.py",
            "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
            "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
        ),
    ],
)
def test_what_tensorrt_11_removed_is_found_there_and_not_in_10(
    surface: dict[str, Any], file: str, before: str, after: str
) -> None:
    removed = surface["version"].startswith("11.")
    problems = problems_of(surface, file, before, after)
    assert bool(problems) == removed
    assert all(after.partition(".")[2] in problem for problem in problems)


def test_our_logger_and_monitor_are_what_the_real_bindings_take(bindings: Path) -> None:
    said = tensorrt_stubs.run_with_bindings(
        bindings,
        "-c",
        """
import logging
import tensorrt_bindings as trt
from lrsclip_rt.tensorrt.reporting import Messages, logger_from_module, monitor_from_module
from lrsclip_rt.tensorrt.loading import check_version
check_version(trt.__version__)
messages, seen = Messages(), []
logger = logger_from_module(trt, messages)
assert isinstance(logger, trt.ILogger)
logger.log(trt.ILogger.Severity.ERROR, "no memory")
logger.log(trt.ILogger.Severity.INFO, "not kept")
print(messages.text())
monitor = monitor_from_module(trt, lambda phase, share: seen.append((phase, share)))
assert isinstance(monitor, trt.IProgressMonitor)
monitor.phase_start("build", "", 4)
monitor.phase_start("inner", "build", 9)
print(monitor.step_complete("build", 1), monitor.step_complete("inner", 1), seen)
monitor.phase_finish("build")
print(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED), trt.nptype(trt.DataType.HALF).__name__)
""",
    )
    flag = {"10": 2, "11": 1}[bindings.name.split("-")[1].partition(".")[0]]
    assert said.splitlines() == [
        "no memory",
        "True True [('build', 0.0), ('build', 0.5)]",
        f"{flag} float16",
    ]


def test_a_builder_that_cannot_be_made_is_one_line(bindings: Path) -> None:
    # The stubs give a null pointer: the real bindings turn it into a TypeError.
    said = tensorrt_stubs.run_with_bindings(
        bindings,
        "-c",
        """
from pathlib import Path
import tensorrt_bindings as trt
from lrsclip_rt.errors import BackendError
from lrsclip_rt.tensorrt.plan_building import plan_from_onnx
from lrsclip_rt.tensorrt.profiles import BuildOptions
try:
    plan_from_onnx(trt, Path("image.fp16.onnx"), (), BuildOptions())
except BackendError as error:
    print(error)
""",
    )
    assert re.fullmatch(r"TensorRT has no builder here: .+\n", said)
