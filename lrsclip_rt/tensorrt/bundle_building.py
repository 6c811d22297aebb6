"""Build what a bundle needs on this device: one engine for each tower and precision, accepted before kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cuda.device import Device, DeviceInfo
from lrsclip_rt.cuda.kernels import write_cubins
from lrsclip_rt.errors import BackendError, LrsclipError
from lrsclip_rt.file_stamps import sha256_of_file
from lrsclip_rt.parity import ParityReport
from lrsclip_rt.tensorrt.acceptance import Rows, accepted_report, probe_report, reference_patches
from lrsclip_rt.tensorrt.engine_folders import Engine, writable_folder, write_build
from lrsclip_rt.tensorrt.engine_records import BuildRecord, EngineRecord, folder_name
from lrsclip_rt.tensorrt.engine_session import EngineSession
from lrsclip_rt.tensorrt.plan_building import plan_from_onnx
from lrsclip_rt.tensorrt.profiles import ENGINE_TOWERS, BuildOptions, graph_of, profiles_for
from lrsclip_rt.tensorrt.reporting import fused_attention

__all__ = [
    "PRECISIONS",
    "TIMING_CACHE",
    "Build",
    "build_precision",
    "precisions_to_build",
    "refuse_precision",
    "shared_memory_limit_mib",
]

PRECISIONS = ("int8", "fp8", "fp16")
"""What TensorRT runs here, in the order in which ``auto`` tries them."""
_FP8_CAPABILITY = (8, 9)
TIMING_CACHE = "timing.cache"


@dataclass(frozen=True, slots=True)
class Build:
    """What became of one precision.

    Attributes:
        folder: Where the engines lie.
        record: What is in its build.json.
        report: How near they are to fp32 on the probe.
        skipped: Why towers have no engine, by their names; ``kernels`` where those are not beside them.
    """

    folder: Path
    record: BuildRecord
    report: ParityReport
    skipped: Mapping[str, str]


def refuse_precision(precision: str, capability: tuple[int, int]) -> BackendError | None:
    """Why no engine of ``precision`` is built for a GPU, or None where one is.

    Example:
        >>> print(refuse_precision("fp8", (8, 7)))
        fp8 needs a GPU of sm_89 or newer, this one is sm_87. Use --precision fp16
    """
    if precision not in PRECISIONS:
        return BackendError(
            f"TensorRT runs {', '.join(PRECISIONS)}, not {precision}. "
            "fp32, bf16 and int8-cpu run on CPUs: --backend onnxruntime or openvino"
        )
    if precision == "fp8" and capability < _FP8_CAPABILITY:
        found = f"sm_{capability[0]}{capability[1]}"
        return BackendError(f"fp8 needs a GPU of sm_89 or newer, this one is {found}. Use --precision fp16")
    return None


def shared_memory_limit_mib(device: Device) -> int | None:
    """What TensorRT may take while it builds where CPU and GPU share memory: a quarter; else None."""
    if not device.info.integrated:
        return None
    _, total = device.memory_bytes()
    return max(1, total >> 22)


def precisions_to_build(bundle: Bundle, asked: Sequence[str], device: DeviceInfo) -> tuple[str, ...]:
    """Those asked for, or all of the bundle's that this device runs.

    Raises:
        BundleError: If the bundle does not hold one that was asked for.
        BackendError: If this device does not run it, or there is none to build.
    """
    if asked:
        for name in asked:
            refusal = refuse_precision(name, device.capability)
            if refusal is not None:
                raise refusal
            bundle.record(name)
        return tuple(dict.fromkeys(asked))
    found = [
        name
        for name in PRECISIONS
        if name in bundle.precisions and refuse_precision(name, device.capability) is None
    ]
    if not found:
        raise BackendError(
            f"{bundle.path} holds {', '.join(bundle.precisions)}; TensorRT runs {', '.join(PRECISIONS)} on "
            f"{device.architecture}. Add one: lrsclip export {bundle.path} -o {bundle.path} --precision fp16"
        )
    return tuple(found)


def build_precision(
    trt: ModuleType,
    bundle: Bundle,
    precision: str,
    device: Device,
    options: BuildOptions,
    *,
    advance: Callable[[str, float], None] = lambda stage, share: None,
) -> Build:
    """Build the engines of one precision, hold them against fp32, and put them in place.

    Args:
        trt: The bindings.
        bundle: The bundle; it is not changed but for its folder ``engines``.
        precision: One of ``precisions_to_build``.
        device: Where they are built, and run.
        options: Limits and kinds of plan.
        advance: Called with a stage and the share of it that is done.

    Raises:
        BackendError: If TensorRT refuses, or nothing can be written.
        ParityError: If the engines do not answer like fp32; nothing is kept then.
    """
    content = bundle.content(precision)
    root = writable_folder(bundle.path, content)
    name = folder_name(device.info.architecture, str(trt.__version__), precision)
    patches = reference_patches(bundle)
    skipped = _skipped(bundle, precision, options, patches)
    towers = [tower for tower in ENGINE_TOWERS if tower not in skipped]
    draft = BuildRecord(
        architecture=device.info.architecture,
        device=device.info.name,
        tensorrt=str(trt.__version__),
        precision=precision,
        content=content,
        options=options,
        engines={},
        parity={},
    )

    def fill(work: Path) -> BuildRecord:
        engines: dict[str, EngineRecord] = {}
        cache = _timing_cache(root / name)
        for tower in towers:
            told = _stage(advance, f"{precision} {tower}")
            with device.current():
                engines[tower], cache = _build_engine(trt, bundle, draft, tower, work, cache, told)
        (work / TIMING_CACHE).write_bytes(cache)
        advance(f"{precision}: kernels", 0.0)
        try:
            write_cubins(work, device.info.architecture)
        except BackendError as error:
            skipped["kernels"] = str(error)
        advance(f"{precision}: against fp32", 0.0)
        record = replace(draft, engines=engines)
        fp32 = None if isinstance(patches, LrsclipError) else patches
        report, fused = _accepted(trt, bundle, record, work, device, fp32)
        engines = {tower: replace(engine, fused_attention=fused[tower]) for tower, engine in engines.items()}
        return replace(record, engines=engines, parity=report.to_dict())

    folder, record = write_build(root, name, fill)
    return Build(folder, record, ParityReport.from_dict(record.parity), skipped)


def _skipped(
    bundle: Bundle, precision: str, options: BuildOptions, patches: Rows | LrsclipError
) -> dict[str, str]:
    """Towers that the bundle lacks at the precision, and patches that nothing can be held against."""
    held = bundle.towers(precision)
    skipped = {
        tower: f"the bundle has no {graph_of(tower, options)} graph at {precision}"
        for tower in ENGINE_TOWERS
        if graph_of(tower, options) not in held
    }
    if isinstance(patches, LrsclipError):
        skipped.setdefault("dense", f"fp32 patches to hold it against need onnxruntime: {patches}")
    return skipped


def _build_engine(
    trt: ModuleType,
    bundle: Bundle,
    draft: BuildRecord,
    tower: str,
    work: Path,
    cache: bytes,
    advance: Callable[[str, float], None],
) -> tuple[EngineRecord, bytes]:
    """Write the plan of a tower; returns its record and the timing cache as it is then."""
    graph = bundle.graph_path(graph_of(tower, draft.options), draft.precision)
    profiles = profiles_for(tower, bundle.spec, draft.options)
    built = plan_from_onnx(trt, graph, profiles, draft.options, timing_cache=cache, advance=advance)
    path = work / f"{tower}.plan"
    path.write_bytes(built.plan)
    record = EngineRecord(
        plan=path.name,
        sha256=sha256_of_file(path),
        bytes=len(built.plan),
        graph=graph.name,
        onnx_sha256=bundle.files[graph.name].sha256,
        profiles=profiles,
        layers_file=f"{tower}.layers.json",
    )
    return record, built.timing_cache


def _accepted(
    trt: ModuleType, bundle: Bundle, record: BuildRecord, work: Path, device: Device, patches: Rows | None
) -> tuple[ParityReport, dict[str, bool | None]]:
    """Load every engine as a user would, keep what the inspector says, and compare.

    Returns:
        The report, and whether the attention of each tower became one kernel.

    Raises:
        ParityError: If they do not answer like fp32.
    """
    sessions: dict[str, EngineSession] = {}
    fused: dict[str, bool | None] = {}
    try:
        for tower, engine in record.engines.items():
            graph = bundle.path / engine.graph
            sessions[tower] = EngineSession(trt, Engine(work, record, engine, graph), device)
            layers = sessions[tower].layers()
            fused[tower] = fused_attention(layers)
            (work / engine.layers_file).write_text(json.dumps(layers, indent=1))
        report = accepted_report(probe_report(bundle, record.precision, sessions, patches=patches))
        return report, fused
    finally:
        for session in sessions.values():
            session.close()


def _timing_cache(folder: Path) -> bytes:
    """Of the last build for this device, library and precision, or nothing."""
    try:
        return (folder / TIMING_CACHE).read_bytes()
    except OSError:
        return b""


def _stage(advance: Callable[[str, float], None], stage: str) -> Callable[[str, float], None]:
    return lambda phase, share: advance(f"{stage}: {phase}", share)
