"""ONNX Runtime on GPUs: the flow on a device made for the host, and what is said where there is none.

ONNX Runtime itself is real here; its CPU provider stands for CUDA's and takes the same bound addresses.
"""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_stub import CudaStub
from host_device import HOST, HostDevice

from lrsclip_rt.backends import BACKENDS, GraphRequest, backend_on, choose_backend, why_not
from lrsclip_rt.backends import onnxruntime_provider as providers
from lrsclip_rt.backends.onnxruntime_backend import OnnxRuntimeSession
from lrsclip_rt.backends.onnxruntime_cuda import OnnxRuntimeCudaSession
from lrsclip_rt.backends.onnxruntime_provider import CUDA, CudaOptions, provider_obstacle, provider_options
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cuda.memory import DeviceBuffer, PinnedBuffer
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.errors import BackendError, DependencyError, DeviceMemoryError

ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is what is tested")


def opened(gpu: HostDevice, bundle: Bundle, tower: str, **options: object) -> OnnxRuntimeCudaSession:
    path = bundle.graph_path(tower, "fp32")
    return OnnxRuntimeCudaSession(GraphRequest(path, "fp32", "cuda:0", 1), gpu.device, gpu.options(**options))


def pixels_of(session: OnnxRuntimeCudaSession, count: int, seed: int = 0) -> np.ndarray:
    shape = session.inputs["pixels"].shape[1:]
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


@pytest.mark.parametrize("rows_per_run", [None, 1, 3])
def test_batches_of_any_size_come_back_in_order(
    gpu: HostDevice, bundle: Bundle, rows_per_run: int | None
) -> None:
    session = opened(gpu, bundle, "image", rows_per_run=rows_per_run)
    plain = OnnxRuntimeSession(bundle.graph_path("image", "fp32"), threads=1)
    assert (session.inputs, session.output) == (plain.inputs, plain.output)
    for count in (7, 1, 3, 7):
        pixels = pixels_of(session, count, count)
        np.testing.assert_allclose(
            session.run({"pixels": pixels}), plain.run({"pixels": pixels}), rtol=0, atol=1e-6
        )
    session.close()


def test_texts_of_any_length_come_back(gpu: HostDevice, bundle: Bundle) -> None:
    session = opened(gpu, bundle, "text")
    plain = OnnxRuntimeSession(bundle.graph_path("text", "fp32"), threads=1)
    for count, length in ((2, 9), (1, 248), (5, 3), (2, 9)):
        feeds = {
            "tokens": np.random.default_rng(length).integers(1, 40, (count, length), dtype=np.int32),
            "eot": np.full(count, length - 1, np.int32),
        }
        np.testing.assert_allclose(session.run(feeds), plain.run(feeds), rtol=0, atol=1e-6)
    session.close()


def test_rows_that_are_made_on_the_device_are_run_where_they_lie(gpu: HostDevice, bundle: Bundle) -> None:
    session = opened(gpu, bundle, "image", rows_per_run=4)
    pixels = pixels_of(session, 10)
    with gpu.device.current():
        pinned, there = PinnedBuffer(gpu.driver, pixels.nbytes), DeviceBuffer(gpu.driver, pixels.nbytes)
    pinned.view(np.float32, pixels.shape)[...] = pixels
    session.stream.upload(pinned, there, pixels.nbytes)
    each, runs = pixels[0].nbytes, []

    def fill(some: range, address: int, stream: Stream) -> None:
        runs.append(len(some))
        stream.copy(there.address + some.start * each, address, len(some) * each)

    found = session.run_filled(len(pixels), fill)
    np.testing.assert_allclose(found, session.run({"pixels": pixels}), rtol=0, atol=1e-6)
    assert runs == [4, 4, 2]
    texts = opened(gpu, bundle, "text")
    with pytest.raises(BackendError, match="takes tokens, eot: only one can be filled"):
        texts.run_filled(1, fill)
    for one in (pinned, there):
        one.free()
    texts.close()
    session.close()


def test_a_batch_that_does_not_fit_is_halved_once_with_a_warning(
    gpu: HostDevice, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    session = opened(gpu, bundle, "image")
    pixels = pixels_of(session, 3)
    each = pixels[0].nbytes + 4 * bundle.spec.embed_dim
    gpu.stub.configure(memory_bytes=gpu.stub.used_bytes + 200 * each)
    with caplog.at_level(logging.WARNING):
        found = session.run({"pixels": pixels})
    assert [record.message[:57] for record in caplog.records] == [
        "image.fp32.onnx does not fit at batch 256: going on with "
    ]
    assert session.rows_per_run == 128
    plain = OnnxRuntimeSession(bundle.graph_path("image", "fp32"), threads=1)
    np.testing.assert_allclose(found, plain.run({"pixels": pixels}), rtol=0, atol=1e-6)
    session.close()
    for options, free in (({}, 20), ({"rows_per_run": 40}, 20)):
        gpu.stub.configure(memory_bytes=gpu.stub.used_bytes + free * each)
        session = opened(gpu, bundle, "image", **options)
        with pytest.raises(DeviceMemoryError, match=r"does not fit at batch \d+: .* MiB are free"):
            session.run({"pixels": pixels})
        session.close()


def test_inputs_that_do_not_fit_are_named(gpu: HostDevice, bundle: Bundle) -> None:
    session = opened(gpu, bundle, "image")
    pixels = pixels_of(session, 2)
    for feeds in ({}, {"pixels": pixels, "more": pixels}):
        with pytest.raises(BackendError, match=r"got the inputs .* expected pixels"):
            session.run(feeds)
    for wrong in (pixels.astype(np.float16), pixels[:, :2], pixels[:0], pixels[0]):
        with pytest.raises(BackendError, match=r"pixels is float\d+ \(.*\), expected float32 \(None, 3,"):
            session.run({"pixels": wrong})
    session.close()


def test_a_node_that_would_run_elsewhere_is_an_error_and_shapes_are_not() -> None:
    def session(*nodes: tuple[str, str]) -> SimpleNamespace:
        parts = [
            SimpleNamespace(ep_name=where, get_nodes=lambda op=op: [SimpleNamespace(op_type=op)])
            for where, op in nodes
        ]
        return SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)

    here, cpu = CUDA.name, "CPUExecutionProvider"
    providers.refuse_nodes_elsewhere(session((here, "MatMul")), "x", CUDA)
    providers.refuse_nodes_elsewhere(session((here, "MatMul"), (cpu, "Shape"), (cpu, "Slice")), "x", CUDA)
    for nodes in ((cpu, "MatMul"), (cpu, "Slice")):
        with pytest.raises(BackendError, match=f"would run {nodes[1]} on the CPU, expected everything on"):
            providers.refuse_nodes_elsewhere(session((here, "Add"), nodes), "x", CUDA)
    with pytest.raises(BackendError, match="cannot tell where the nodes of a graph run"):
        providers.refuse_nodes_elsewhere(SimpleNamespace(), "x", CUDA)


def test_the_real_session_says_where_its_nodes_run(gpu: HostDevice, bundle: Bundle) -> None:
    session = opened(gpu, bundle, "image")
    with pytest.raises(BackendError, match=r"would run .*MatMul.* on the CPU"):
        providers.refuse_nodes_elsewhere(session._session, "image.fp32.onnx", CUDA)
    session.close()


def test_the_provider_is_proved_by_a_run(gpu: HostDevice) -> None:
    assert provider_obstacle(gpu.device, gpu.options()) is None
    refused = provider_obstacle(gpu.device, CudaOptions())
    if "CUDAExecutionProvider" in ort.get_available_providers():
        assert isinstance(refused, BackendError)
    else:
        assert isinstance(refused, DependencyError)
        assert "was built for CPUs alone. Replace it: pip uninstall onnxruntime, then" in str(refused)


def test_the_provider_is_told_our_stream_and_what_bounds_its_memory(gpu: HostDevice) -> None:
    with gpu.device.current():
        stream = Stream(gpu.driver)
        told = provider_options(gpu.device, stream, CudaOptions(memory_mib=512, graphs=True))
        assert told == {
            "device_id": "0",
            "user_compute_stream": str(stream.handle),
            "do_copy_in_default_stream": "1",
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
            "enable_cuda_graph": "1",
            "gpu_mem_limit": str(512 << 20),
        }
        assert "gpu_mem_limit" not in provider_options(gpu.device, stream, CudaOptions())
        stream.free()


def test_onnxruntime_on_a_gpu_is_a_backend_of_its_own(
    stub: CudaStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrsclip_rt.cuda.driver.cuda_driver", stub.driver)
    assert backend_on("onnxruntime", "CUDA:1") == "onnxruntime-cuda"
    assert backend_on("tensorrt", "cuda:0") == "tensorrt"
    backend = BACKENDS["onnxruntime-cuda"]
    monkeypatch.setattr(
        "lrsclip_rt.backends.onnxruntime_cuda.provider_obstacle",
        lambda device, options: provider_obstacle(device, CudaOptions(provider=HOST)),
    )
    assert choose_backend("onnxruntime", precision="fp16", device="cuda:0") is backend
    assert choose_backend("onnxruntime", precision="fp32") is BACKENDS["onnxruntime"]
    assert "slower than fp16 there" in str(why_not(backend, precision="int8"))


def test_without_a_gpu_or_the_wheel_each_is_one_line(stub: CudaStub, monkeypatch: pytest.MonkeyPatch) -> None:
    from lrsclip_rt.cuda.driver import Driver

    backend = BACKENDS["onnxruntime-cuda"]
    monkeypatch.setattr("lrsclip_rt.cuda.driver.cuda_driver", lambda: Driver("libcuda-not-there.so"))
    assert "no NVIDIA driver here" in str(backend.obstacle())
    monkeypatch.setattr("lrsclip_rt.cuda.driver.cuda_driver", stub.driver)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused = backend.obstacle()
    assert isinstance(refused, DependencyError)
    assert str(refused).startswith("onnxruntime-gpu is not installed. Install it with: pip install 'lrsclip")
