"""Bundles for the GPU, the proof that ONNX Runtime runs them there, and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.job import Job
from benchmarks.gpu.steps import NotRun
from lrsclip_rt.backends.onnxruntime_cuda import OnnxRuntimeCudaSession
from lrsclip_rt.backends.onnxruntime_provider import CudaOptions, provider_obstacle
from lrsclip_rt.benchmarking import BenchRow
from lrsclip_rt.bundle import BUILT_IN, Bundle
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.errors import DependencyError, LrsclipError
from lrsclip_rt.parity import GATES
from lrsclip_rt.pixels import pixels_from_array
from lrsclip_rt.probe import probe_from_bundle

__all__ = ["image_flops", "nothing", "prepare", "proof", "tower_rows", "towers"]

PRECISIONS = ("fp16", "fp32")


def prepare(job: Job) -> None:
    """fp16 beside fp32: of the built-in model, and of a ViT-B/16 with random weights."""
    for model in job.models:
        if not (job.bundle_path(model) / "bundle.json").exists():
            _export(job, model, job.bundle_path(model))
        print(f"{model}: {job.bundle_path(model)}")


def proof(job: Job) -> None:
    """A real graph ran on the provider, every node is there, and the towers answer as fp32 does."""
    _refuse_missing(job)
    rows: list[dict[str, Any]] = []
    for model in job.models:
        bundle = Bundle.open(job.bundle_path(model))
        probe = probe_from_bundle(bundle)
        pixels = np.stack([pixels_from_array(image, bundle.spec.pixel_spec) for image in probe.images])
        for precision in PRECISIONS:
            session = job.machine.session(bundle, "image", precision)
            kind = session.inputs["pixels"].dtype
            found = session.run({"pixels": np.ascontiguousarray(pixels, kind)})
            session.close()
            cosines = (found.astype(np.float64) * probe.image_embeddings).sum(axis=1)
            row = {"what": "image", "model": model, "precision": precision}
            rows.append({**row, "mean": float(cosines.mean()), "least": float(cosines.min())})
            print(f"{model:10} {precision} cosine {cosines.mean():.6f} mean, {cosines.min():.6f} least")
    job.record("ort_cuda_proof", rows, {"provider": job.machine.provider.name})
    gate = GATES["fp16"]
    if any(row["mean"] < gate.mean or row["least"] < gate.minimum for row in rows):
        raise SystemExit("a tower does not answer as fp32 does")


def towers(job: Job) -> None:
    """Image towers per batch: rows that lie on the device already, embeddings that come down."""
    _refuse_missing(job)
    rows: list[Any] = []
    settings: dict[str, Any] = {}
    for model in reversed(job.models):
        bundle = Bundle.open(job.bundle_path(model))
        settings[model] = {"gflops_an_image": image_flops(bundle) / 1e9}
        for precision in PRECISIONS:
            for graphs in (False, True):
                rows += _timed(job, model, bundle, precision, graphs=graphs)
                # Each record has all rows so far: what ends this step early costs only the rest.
                job.record("gpu_towers", rows, settings)
    if not any(isinstance(row, BenchRow) for row in rows):
        raise SystemExit("no tower could be timed")


def tower_rows(
    job: Job, what: str, contender: str, session: Any, *, batch: int, rounds: int, runs: int
) -> BenchRow:
    """Times of ``runs`` runs in a row; copies of one overlap the run of the next."""
    seconds = _wall(lambda: session.run_filled(batch * runs, nothing), rounds=rounds)
    row = BenchRow.of(what, contender, [one / runs for one in seconds], batch=batch)
    print(f"{what:24} {contender:34} batch {batch:4} {row.per_second:10.1f} images/s", flush=True)
    return row


def nothing(some: range, address: int, stream: Stream) -> None:
    """The input is what it was: values do not decide the speed of a tower, once they are not zero."""


def image_flops(bundle: Bundle) -> float:
    """Operations of a ViT's image tower for one image; 0 for a model of another kind."""
    from benchmarks.side_by_side.weights import CONFIGS

    config = CONFIGS.get(bundle.spec.name)
    if config is None:
        return 0.0
    tokens = config.grid**2 + 1
    width = config.image_width
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    patches = 2 * (tokens - 1) * 3 * config.patch_size**2 * width
    return float(config.image_layers * block + patches + 2 * width * config.embed_dim)


def _timed(job: Job, model: str, bundle: Bundle, precision: str, *, graphs: bool) -> list[Any]:
    """A row for each batch; one that fails says why, and ends this contender."""
    what = f"image tower {model}"
    contender = f"{precision} onnxruntime-cuda{', CUDA graph' if graphs else ''}"
    rounds = job.size(10, 2)
    rows: list[Any] = []
    for batch in (1, 8, 32, 128, 256) if not job.rehearsal else (1, 3):
        runs = job.size(max(4, 512 // batch), 2)
        try:
            session = job.machine.session(bundle, "image", precision, graphs=graphs, rows=batch)
            try:
                _fill_with_noise(session, batch)
                rows.append(tower_rows(job, what, contender, session, batch=batch, rounds=rounds, runs=runs))
            finally:
                session.close()
        except LrsclipError as error:
            print(f"{what} {contender}, batch {batch}: {error}", flush=True)
            return [*rows, {"what": what, "contender": contender, "batch": batch, "error": str(error)}]
    return rows


def _fill_with_noise(session: OnnxRuntimeCudaSession, batch: int) -> None:
    """A first run from the host: it leaves random pixels in the buffer that the timed runs read."""
    info = session.inputs["pixels"]
    shape = tuple(n or batch for n in info.shape)
    session.run({"pixels": np.random.default_rng(0).standard_normal(shape).astype(info.dtype)})


def _wall(work: Any, *, rounds: int) -> list[float]:
    from lrsclip_rt.benchmarking import interleaved_seconds

    return interleaved_seconds({"one": lambda number: work()}, rounds=rounds, warm_up=2)["one"]


def _refuse_missing(job: Job) -> None:
    obstacle = provider_obstacle(job.machine.device, CudaOptions(provider=job.machine.provider))
    if isinstance(obstacle, DependencyError):
        raise NotRun(str(obstacle))
    if obstacle is not None:
        raise SystemExit(str(obstacle))


def _export(job: Job, model: str, path: Path) -> None:
    """Export into a folder that appears whole."""
    from lrsclip_export.exporting import export_bundle

    path.parent.mkdir(parents=True, exist_ok=True)
    if model == "mini":
        export_bundle(BUILT_IN, path, precisions=("fp16",), overwrite=True)
        return
    import torch

    from benchmarks.side_by_side.weights import CONFIGS, random_state

    checkpoint = job.work / f"{model}.pt"
    torch.save(random_state(CONFIGS[model]), checkpoint)
    export_bundle(
        checkpoint, path, precisions=("fp32", "fp16"), name=model, allow_failed=True, overwrite=True
    )
    checkpoint.unlink()
