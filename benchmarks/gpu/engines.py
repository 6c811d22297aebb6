"""TensorRT: engines are built and accepted, then timed as ONNX Runtime is."""

from __future__ import annotations

import shutil
import time
from typing import Any

import numpy as np

from benchmarks.gpu.job import Job
from benchmarks.gpu.steps import NotRun
from benchmarks.gpu.towers import image_flops, tower_rows
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.errors import LrsclipError

__all__ = ["engines"]


def engines(job: Job) -> None:
    """One precision after the other; a model whose engines were built is not built again."""
    if job.rehearsal:
        raise NotRun("TensorRT needs a GPU")
    from lrsclip_rt.backends.tensorrt_backend import open_tensorrt
    from lrsclip_rt.tensorrt.bundle_building import build_precision
    from lrsclip_rt.tensorrt.loading import tensorrt_module
    from lrsclip_rt.tensorrt.profiles import BuildOptions

    try:
        trt = tensorrt_module()
    except LrsclipError as error:
        raise NotRun(str(error)) from error
    rows: list[Any] = []
    settings: dict[str, Any] = {"tensorrt": str(trt.__version__)}
    for model in job.models:
        path = job.work / "engines" / model
        if not path.exists():
            shutil.copytree(job.bundle_path(model), path)
        bundle = Bundle.open(path)
        settings[model] = {"gflops_an_image": image_flops(bundle) / 1e9}
        start = time.perf_counter()
        build = build_precision(trt, bundle, "fp16", job.machine.device, BuildOptions(workspace_mib=8192))
        rows.append(
            {
                "what": "build",
                "model": model,
                "precision": "fp16",
                "seconds": time.perf_counter() - start,
                "report": build.report.to_dict(),
                "skipped": dict(build.skipped),
            }
        )
        print(f"{model}: fp16 built in {rows[-1]['seconds']:.0f} s, accepted")
        session = open_tensorrt(_request(bundle))
        info = session.inputs["pixels"]
        most = session.rows_per_run  # type: ignore[attr-defined]
        for batch in [n for n in (1, 8, 32, 128, 256) if n <= most]:
            shape = (batch, *(n or 1 for n in info.shape[1:]))
            session.run({"pixels": np.random.default_rng(0).standard_normal(shape).astype(info.dtype)})
            rows.append(
                tower_rows(
                    job,
                    f"image tower {model}",
                    "fp16 tensorrt",
                    session,
                    batch=batch,
                    rounds=10,
                    runs=1,
                )
            )
    job.record("gpu_engines", rows, settings)


def _request(bundle: Bundle) -> Any:
    from lrsclip_rt.backends import GraphRequest

    return GraphRequest(
        bundle.graph_path("image", "fp16"), "fp16", "cuda:0", None, content=bundle.content("fp16")
    )
