"""TensorRT: engines are built and accepted, then timed as ONNX Runtime is."""

from __future__ import annotations

import shutil
import time
from typing import Any

import numpy as np

from benchmarks.gpu.job import Job
from benchmarks.gpu.steps import NotRun
from benchmarks.gpu.towers import image_flops, tower_rows
from benchmarks.side_by_side.preparation import write_rendered_pairs
from lrsclip_rt.benchmarking import BenchRow
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.errors import LrsclipError

__all__ = ["engines"]


def engines(job: Job) -> None:
    """Every precision that the device runs, one model after the other; then which one is fastest."""
    if job.rehearsal:
        for model in job.models:
            print(f"{model}: {', '.join(_with_quantised(job, model).precisions)}")
        raise NotRun("TensorRT needs a GPU")
    from lrsclip_rt.tensorrt.bundle_building import build_precision, precisions_to_build
    from lrsclip_rt.tensorrt.loading import tensorrt_module
    from lrsclip_rt.tensorrt.profiles import BuildOptions
    from lrsclip_rt.tensorrt.racing import noted_race, race

    try:
        trt = tensorrt_module()
    except LrsclipError as error:
        raise NotRun(str(error)) from error
    device = job.machine.device
    rows: list[Any] = []
    settings: dict[str, Any] = {"tensorrt": str(trt.__version__), "calibration": "rendered tiles"}
    for model in job.models:
        bundle = _with_quantised(job, model)
        settings[model] = {"gflops_an_image": image_flops(bundle) / 1e9}
        builds = []
        for precision in precisions_to_build(bundle, (), device.info):
            start = time.perf_counter()
            row: dict[str, Any] = {"what": "build", "model": model, "precision": precision}
            try:
                build = build_precision(
                    trt, bundle, precision, device, BuildOptions(workspace_mib=8192, image_batch=256)
                )
            except LrsclipError as error:
                # One precision that this TensorRT cannot build leaves the others to be measured.
                rows.append({**row, "error": str(error)})
                print(f"{model}: {precision}: {error}")
                continue
            row["seconds"] = time.perf_counter() - start
            rows.append({**row, "report": build.report.to_dict(), "skipped": dict(build.skipped)})
            print(f"{model}: {precision} built in {row['seconds']:.0f} s, accepted")
            builds.append(build)
            rows += _timed(job, bundle, model, precision)
        outcome = race(trt, bundle, builds, device)
        if outcome is not None:
            noted_race(builds, outcome)
            rows.append({"what": "race", "model": model, **outcome})
    job.record("gpu_engines", rows, settings)
    if not any("seconds" in row for row in rows):
        raise SystemExit("no engine could be built; the lines above say why")


def _with_quantised(job: Job, model: str) -> Bundle:
    """A copy of the bundle that holds int8 and fp8 too; a copy that is there is taken as it is."""
    from lrsclip_export.exporting import export_bundle

    path = job.work / "engines" / model
    if path.exists():
        return Bundle.open(path)
    folder = job.work / "calibration"
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write_rendered_pairs(part, checked=1).rename(folder)
    return export_bundle(
        job.bundle_path(model), path, precisions=("int8", "fp8"), calibration=folder, allow_failed=True
    )


def _timed(job: Job, bundle: Bundle, model: str, precision: str) -> list[BenchRow]:
    """The image tower at several batches up to the engine's largest."""
    from lrsclip_rt.backends import GraphRequest
    from lrsclip_rt.backends.tensorrt_backend import open_tensorrt

    graph = bundle.graph_path("image", precision)
    session = open_tensorrt(GraphRequest(graph, precision, "cuda:0", None, content=bundle.content(precision)))
    info = session.inputs["pixels"]
    rows = []
    for batch in [n for n in (1, 8, 32, 128, 256) if n <= session.rows_per_run]:  # type: ignore[attr-defined]
        shape = (batch, *(n or 1 for n in info.shape[1:]))
        session.run({"pixels": np.random.default_rng(0).standard_normal(shape).astype(info.dtype)})
        what, contender = f"image tower {model}", f"{precision} tensorrt"
        rows.append(tower_rows(job, what, contender, session, batch=batch, rounds=10, runs=1))
    return rows
