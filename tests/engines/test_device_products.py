"""Images, scenes, archives and heat maps on a device made for the host, held against the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from host_device import HostDevice
from numpy.typing import NDArray

from lrsclip_rt.archive import Producer
from lrsclip_rt.archive.records import SegmentRecord
from lrsclip_rt.archive.scanning import best_rows
from lrsclip_rt.archive.segments import Segment, int8_from_rows
from lrsclip_rt.backends import GraphRequest
from lrsclip_rt.backends.onnxruntime_cuda import OnnxRuntimeCudaSession
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cuda.device_fusion import DeviceFusion
from lrsclip_rt.cuda.device_images import DeviceImages
from lrsclip_rt.cuda.device_resampling import DeviceResampler
from lrsclip_rt.cuda.device_search import DeviceRows
from lrsclip_rt.cuda.device_windows import bands_from_windows, embed_windows
from lrsclip_rt.cuda.memory import DeviceBuffer, PinnedBuffer
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import BackendError, InputError
from lrsclip_rt.localization.hann import hann_means, spans_on_grid
from lrsclip_rt.localization.strips import windows_from_strips
from lrsclip_rt.localization.windows import selo_windows
from lrsclip_rt.pixels import PixelSpec, pixels_from_array
from lrsclip_rt.raster import scene_from_array
from lrsclip_rt.tiles import Window, tile_grid


def images_of(sizes: list[tuple[int, int]], seed: int = 0) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_images_of_any_size_become_what_the_reference_makes_of_them(gpu: HostDevice, dtype: str) -> None:
    spec = PixelSpec(32)
    batches = [
        images_of([(40, 70), (33, 32), (200, 31)]),
        images_of([(90, 64)] * 5, 1),
        images_of([(7, 9)], 2),
    ]
    with gpu.device.current():
        stream, resampler = Stream(gpu.driver), DeviceResampler(gpu.device, spec, dtype)
        for images in batches:
            shape = (len(images), 3, 32, 32)
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            output, answer = DeviceBuffer(gpu.driver, size), PinnedBuffer(gpu.driver, size)
            resampler.enqueue_images(images, output.address, stream)
            stream.download(output, answer, size)
            stream.synchronize()
            expected = np.stack([pixels_from_array(image, spec) for image in images]).astype(dtype)
            assert answer.view(dtype, shape).tobytes() == expected.tobytes()
            output.free()
            answer.free()
        resampler.free()
        stream.free()
    assert gpu.stub.kernel_launches == 2 * len(batches)


def test_another_input_than_the_models_is_refused(gpu: HostDevice) -> None:
    with pytest.raises(InputError, match="input is int32, expected float32 or float16"):
        DeviceResampler(gpu.device, PixelSpec(32), "int32")


def exact_rows(count: int, dim: int, seed: int) -> NDArray[np.float16]:
    """Few and small multiples of 1/16: sums are exact, and many rows tie."""
    return (np.random.default_rng(seed).integers(-2, 3, (count, dim)) / 16).astype(np.float16)


def segment_of(rows: NDArray[np.float16]) -> Segment:
    """Rows as the archive's search takes them."""
    codes, scale = int8_from_rows(rows)
    none = np.zeros(len(rows), np.int64)
    record = SegmentRecord(1, 0, len(rows), Producer("fp16", "made"))
    boxes = np.zeros((len(rows), 4))
    return Segment(record, rows, codes, scale, boxes, none, none, none.astype(np.int32))


@pytest.mark.parametrize("k", [1, 10, 300])
def test_resident_rows_are_searched_as_the_archive_searches_them(gpu: HostDevice, k: int) -> None:
    rows, queries = exact_rows(2500, 24, 1), exact_rows(5, 24, 2).astype(np.float32)
    passing = np.random.default_rng(3).random(2500) < 0.3
    resident = DeviceRows(gpu.device, [rows[:1000], rows[1000:]])
    for marks in (None, passing, None):
        found = resident.search(queries, k, passing=marks)
        expected = best_rows([segment_of(rows)], queries, k, passing=None if marks is None else [marks])
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.rows.tolist() == theirs.rows.tolist()
            assert mine.scores.tolist() == theirs.scores.tolist()
    resident.close()


def test_int8_rows_rank_by_their_whole_sums(gpu: HostDevice) -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((1500, 32)).astype(np.float16)
    queries = rng.standard_normal((3, 32)).astype(np.float16)
    codes, scales = int8_from_rows(rows)
    asked, asked_scales = int8_from_rows(queries)
    resident = DeviceRows(gpu.device, [codes], scales=[scales])
    assert (len(resident), resident.bytes) == (1500, 1500 * 36)
    found = resident.search(queries.astype(np.float32), 20)
    resident.close()
    sums = (asked.astype(np.int64) @ codes.astype(np.int64).T).astype(np.float32)
    scores = sums * scales * asked_scales[:, None]
    for mine, of_query in zip(found, scores, strict=True):
        order = np.lexsort((np.arange(1500), -of_query))[:20]
        assert mine.rows.tolist() == order.tolist()
        assert mine.scores.tolist() == of_query[order].tolist()


def test_rows_and_queries_that_do_not_fit_are_refused(gpu: HostDevice) -> None:
    rows = exact_rows(10, 16, 0)
    for wrong in ([], [rows[:, :12]], [rows.astype(np.float32)], [rows, rows[:, :8]]):
        with pytest.raises(InputError, match=r"expected \(n, D\) float16, D a multiple of 8"):
            DeviceRows(gpu.device, wrong)
    with pytest.raises(InputError, match="expected one for each"):
        DeviceRows(gpu.device, [rows.astype(np.int8)], scales=[np.ones(9, np.float32)])
    resident = DeviceRows(gpu.device, [rows])
    with pytest.raises(InputError, match="must agree in D"):
        resident.search(np.zeros((1, 8), np.float32), 1)
    with pytest.raises(InputError, match="one for each"):
        resident.search(np.zeros((1, 16), np.float32), 1, passing=np.ones(3, bool))
    with pytest.raises(InputError, match="shared memory, sm_87 has"):
        resident.search(np.zeros((1, 16), np.float32), 1 << 20)
    resident.close()


@pytest.mark.parametrize("texts", [1, 9])
def test_maps_are_fused_as_on_the_host(gpu: HostDevice, texts: int) -> None:
    windows = selo_windows(700, 900)[:-3]
    grid = spans_on_grid(windows, height=700, width=900, rows=70, cols=50)
    fusion = DeviceFusion(gpu.device, grid)
    for seed in range(2):
        scores = np.random.default_rng(seed).normal(0.2, 0.1, (len(windows), texts)).astype(np.float32)
        np.testing.assert_allclose(fusion.means(scores), hann_means(grid, scores), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match=r"expected \(N, T\)"):
        fusion.means(scores[1:])
    fusion.close()


def image_session(gpu: HostDevice, bundle: Bundle, **options: object) -> OnnxRuntimeCudaSession:
    request = GraphRequest(bundle.graph_path("image", "fp32"), "fp32", "cuda:0", 1)
    return OnnxRuntimeCudaSession(request, gpu.device, gpu.options(**options))


def test_windows_of_a_scene_are_embedded_as_from_strips(gpu: HostDevice, bundle: Bundle) -> None:
    pixels = images_of([(300, 210)], 5)[0]
    scene = scene_from_array(pixels)
    windows = [
        *tile_grid(300, 210, size=64, overlap=0.25),
        Window(3, 10, 200, 250),
        Window(0, 290, 9, 10),
        Window(0, 0, 210, 300),
    ]
    session = image_session(gpu, bundle, rows_per_run=7)
    size = session.inputs["pixels"].shape[2]
    assert size is not None
    spec = PixelSpec(size, bundle.spec.mean, bundle.spec.std)
    expected = np.empty((len(windows), bundle.spec.embed_dim), np.float32)
    for index, cut in windows_from_strips(scene, windows, fill=False):
        expected[index] = session.run({"pixels": pixels_from_array(cut, spec)[None]})[0]
    with gpu.device.current():
        resampler = DeviceResampler(gpu.device, spec, "float32")
    for band_bytes in (1, 80 * 210 * 3, 1 << 20):
        found = embed_windows(
            session, resampler, scene, windows, size=size, fill=False, band_bytes=band_bytes
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    with gpu.device.current():
        resampler.free()
    session.close()


def test_every_window_lies_in_its_band_and_bands_follow_one_another() -> None:
    windows = [Window(0, row, 10, height) for row, height in ((0, 100), (50, 10), (55, 80), (0, 5), (200, 4))]
    for limit in (1, 3000, 1 << 20):
        bands = bands_from_windows(windows, 10, band_bytes=limit)
        assert sorted(n for band in bands for n in band.numbers) == list(range(5))
        assert [band.top for band in bands] == sorted(band.top for band in bands)
        for band in bands:
            for window in (windows[n] for n in band.numbers):
                assert band.top <= window.row_off <= window.row_off + window.height <= band.bottom


@pytest.fixture
def on_host(gpu: HostDevice, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostDevice]:
    """The backend's own way to open a graph, on the device made for the host."""
    opened: list[OnnxRuntimeCudaSession] = []

    def open_here(request: GraphRequest) -> OnnxRuntimeCudaSession:
        opened.append(OnnxRuntimeCudaSession(request, gpu.device, gpu.options()))
        return opened[-1]

    class Kept(DeviceImages):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            images.append(self)

    images: list[DeviceImages] = []
    monkeypatch.setattr("lrsclip_rt.cuda.device_images.DeviceImages", Kept)
    monkeypatch.setattr("lrsclip_rt.backends.onnxruntime_cuda.open_onnxruntime_cuda", open_here)
    monkeypatch.setattr("lrsclip_rt.backends.onnxruntime_cuda.onnxruntime_cuda_obstacle", lambda: None)
    monkeypatch.setattr("lrsclip_rt.backends.tensorrt_backend.has_gpu", lambda: True)
    yield gpu
    for one in images:
        one.close()
    for session in opened:
        session.close()


def test_a_model_on_a_gpu_resizes_there_and_answers_as_on_the_cpu(
    on_host: HostDevice, bundle: Bundle
) -> None:
    model = load(bundle, backend="onnxruntime", precision="fp32", device="cuda:0")
    assert model.backend == "onnxruntime-cuda"
    plain = load(bundle, backend="onnxruntime", precision="fp32")
    images = images_of([(40, 70), (33, 32), (200, 31), (32, 32), (1, 9)])
    np.testing.assert_allclose(model.embed_images(images), plain.embed_images(images), rtol=0, atol=1e-6)
    assert on_host.stub.kernel_launches == 2
    batch = next(model.stream_images([(0, b"no image"), (1, images[0])], batch_size=1))
    assert (batch.keys, batch.embeddings.shape[0], len(batch.failures)) == ([], 0, 1)
    texts = ["a ship", "a harbour with many ships"]
    np.testing.assert_allclose(model.embed_texts(texts), plain.embed_texts(texts), rtol=0, atol=1e-6)


def test_windows_of_a_scene_are_one_call_on_either_device(on_host: HostDevice, bundle: Bundle) -> None:
    scene = scene_from_array(images_of([(150, 130)], 9)[0])
    windows = tile_grid(150, 130, size=50, overlap=0.25)
    found = []
    for backend in ("onnxruntime-cuda", "onnxruntime"):
        seen: list[tuple[int, int]] = []
        model = load(bundle, backend=backend, precision="fp32")
        rows = model.embed_windows(scene, windows, progress=lambda *told, seen=seen: seen.append(told))
        assert seen[-1] == (len(windows), len(windows))
        assert model.embed_windows(scene, []).shape == (0, model.dim)
        found.append(rows)
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-6)
    assert on_host.stub.kernel_launches > 0


def test_a_scene_is_localized_as_on_the_cpu(on_host: HostDevice, bundle: Bundle) -> None:
    from lrsclip_rt.localization.pipeline import localize_scene

    pixels = images_of([(200, 260)], 10)[0]
    maps = []
    for backend in ("onnxruntime-cuda", "onnxruntime"):
        model = load(bundle, backend=backend, precision="fp32")
        told: list[tuple[int, int]] = []
        scene = scene_from_array(pixels)
        found = localize_scene(
            model, scene, ["a ship"], mode="fast", progress=lambda *two, told=told: told.append(two)
        )
        assert told[-1][0] == told[-1][1] == len(found.embedding)
        maps.append(found.embedding)
    assert maps[0].windows == maps[1].windows
    np.testing.assert_allclose(maps[0].embeddings, maps[1].embeddings, rtol=0, atol=1e-6)
    assert on_host.stub.kernel_launches > 0


def test_without_a_compiler_images_are_resized_on_the_cpu_with_a_warning(
    on_host: HostDevice, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(source: object, architecture: str, near: Path | None = None) -> bytes:
        raise BackendError("the kernels cannot be compiled")

    monkeypatch.setattr("lrsclip_rt.cuda.device_resampling.cubin_for", refuse)
    model = load(bundle, backend="onnxruntime-cuda", precision="fp32")
    plain = load(bundle, backend="onnxruntime", precision="fp32")
    images = images_of([(40, 70), (33, 32)])
    for _ in range(2):
        np.testing.assert_allclose(model.embed_images(images), plain.embed_images(images), rtol=0, atol=1e-6)
    assert [record.message for record in caplog.records] == [
        "images are resized on the CPU, to the same bytes: the kernels cannot be compiled"
    ]
    assert on_host.stub.kernel_launches == 0


def test_bench_adds_energy_where_it_can_be_read_and_says_why_not(
    on_host: HostDevice, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrsclip_rt.cli import bench

    class Meter:
        source = "a made meter"

        def start(self) -> None:
            pass

        def stop(self) -> float:
            return 12.0

        def close(self) -> None:
            closed.append(True)

    closed: list[bool] = []
    monkeypatch.setattr("lrsclip_rt.cuda.driver.cuda_driver", lambda: on_host.driver)
    options = ["-b", str(bundle.path), "--precision", "fp32", "--backend", "onnxruntime-cuda"]
    # The device is made here: a process of its own, which a start is, would not have it.
    options += ["--batch", "2", "--files", "2", "--rounds", "1", "--no-starts"]
    asked: list[str | None] = []

    def meter(bus: str | None) -> Meter:
        asked.append(bus)
        return Meter()

    monkeypatch.setattr("lrsclip_rt.energy.energy_meter", meter)
    monkeypatch.setattr("lrsclip_rt.model_timing.time.perf_counter", _Ticks())
    result = CliRunner().invoke(bench.command, options)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout.splitlines()[-1])["results"]
    (row,) = [row for row in rows if "joules_an_image" in row]
    assert row["joules_an_image"] * row["images"] == pytest.approx(12.0)
    assert (row["contender"], row["source"]) == ("fp32 onnxruntime-cuda", "a made meter")
    assert (asked, closed) == (["0000:01:00.0"], [True])

    def refuse(bus: str | None) -> Meter:
        raise BackendError("energy is not readable here: there are no sensors")

    monkeypatch.setattr("lrsclip_rt.energy.energy_meter", refuse)
    result = CliRunner().invoke(bench.command, options)
    assert result.exit_code == 0
    assert "energy is not readable here: there are no sensors" in result.stderr


class _Ticks:
    """A clock by which each look takes half a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now
