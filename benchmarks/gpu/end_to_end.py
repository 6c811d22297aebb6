"""From image files and from a scene that lies on the device to embeddings, beside the tower alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.job import Job
from benchmarks.gpu.towers import nothing
from lrsclip_kernels import RESAMPLE
from lrsclip_rt.benchmarking import BenchRow
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cuda.device_resampling import DeviceResampler
from lrsclip_rt.cuda.device_windows import embed_windows
from lrsclip_rt.cuda.memory import DeviceBuffer
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.image_stream import stream_decoded
from lrsclip_rt.model_timing import write_jpegs
from lrsclip_rt.raster import scene_from_array
from lrsclip_rt.resample_plan import BufferWindow, PixelBuffer, square_resize
from lrsclip_rt.tiles import Window, tile_grid

__all__ = ["end_to_end"]


def end_to_end(job: Job) -> None:
    """Files, a scene that is read, and a scene on the device; fp16 on ONNX Runtime."""
    model = job.models[-1]
    bundle = Bundle.open(job.bundle_path(model))
    batch, precision = job.size(256, 3), "fp16"
    session = job.machine.session(bundle, "image", precision, rows=batch)
    info = session.inputs["pixels"]
    shape = (batch, *(n or 1 for n in info.shape[1:]))
    session.run({"pixels": np.random.default_rng(0).standard_normal(shape).astype(info.dtype)})
    with job.machine.device.current():
        resampler = DeviceResampler(
            job.machine.device, bundle.spec.pixel_spec, info.dtype, module=job.machine.module(RESAMPLE)
        )
    side = job.size(10_000, 200)
    windows = tile_grid(side, side, size=job.size(256, 48), overlap=0.25)
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    rounds = job.size(5, 1)
    works: dict[str, tuple[Callable[[], object], int]] = {
        "tower alone": (lambda: session.run_filled(len(windows), nothing), len(windows)),
    }
    scene = scene_from_array(pixels)
    works["scene from the host"] = (
        lambda: embed_windows(session, resampler, scene, windows, size=bundle.spec.image_size, fill=False),
        len(windows),
    )
    resident, fill = _resident(job, pixels, windows, bundle.spec.image_size, resampler, session.stream)
    works["scene on the device"] = (lambda: session.run_filled(len(windows), fill), len(windows))
    files = write_files(job)
    works["JPEG files"] = (lambda: _files(session, resampler, files, batch), len(files))
    rows = [_row(name, work, items, rounds, model) for name, (work, items) in works.items()]
    with job.machine.device.current():
        resampler.free()
        resident.free()
    session.close()
    job.record("gpu_end_to_end", rows, {"model": model, "precision": precision, "batch": batch})


def write_files(job: Job) -> list[Path]:
    """JPEG files of their own folder, written once."""
    folder = job.work / "jpegs"
    count = job.size(1024, 4)
    found = sorted(folder.glob("*.jpg"))
    if len(found) == count:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    return write_jpegs(folder, count)


def _resident(
    job: Job, pixels: Any, windows: list[Window], size: int, resampler: DeviceResampler, stream: Stream
) -> tuple[DeviceBuffer, Any]:
    """The whole scene on the device, and what makes rows of its windows."""
    from lrsclip_rt.cuda.memory import PinnedBuffer

    driver = job.machine.device.driver
    with job.machine.device.current():
        scene, pinned = DeviceBuffer(driver, pixels.nbytes), PinnedBuffer(driver, pixels.nbytes)
        pinned.view(np.uint8, pixels.shape)[...] = pixels
        stream.upload(pinned, scene, pixels.nbytes)
        stream.synchronize()
        pinned.free()
    height, width = pixels.shape[:2]
    buffer = PixelBuffer(scene.address, height, width, 3 * width, 3, (0, 1, 2))
    items = [BufferWindow(buffer, w, square_resize(w.height, w.width, size)) for w in windows]

    def fill(some: range, address: int, own: Stream) -> None:
        resampler.enqueue_windows(items[some.start : some.stop], address, own)

    return scene, fill


def _files(session: Any, resampler: DeviceResampler, files: list[Path], batch: int) -> None:
    done = 0
    for part in stream_decoded(((path, path) for path in files), batch_size=batch):
        images = part.images

        def fill(some: range, address: int, stream: Stream, images: Any = images) -> None:
            resampler.enqueue_images(images[some.start : some.stop], address, stream)

        done += len(session.run_filled(len(images), fill))
    assert done == len(files)


def _row(name: str, work: Callable[[], object], items: int, rounds: int, model: str) -> BenchRow:
    seconds = []
    for number in range(-1, rounds):
        start = time.perf_counter()
        work()
        if number >= 0:
            seconds.append(time.perf_counter() - start)
    row = BenchRow.of(f"{name}, {model}", "fp16 onnxruntime-cuda", seconds, batch=items)
    print(f"{row.what:34} {row.per_second:10.1f} images/s", flush=True)
    return row
