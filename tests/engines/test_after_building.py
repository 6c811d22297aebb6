"""What comes with engines: kernels beside them, a race, the inspector's word, the lean runtime."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from cuda_stub import CudaStub

from lrsclip_kernels import SOURCES
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cli import build as build_command
from lrsclip_rt.cuda import kernels
from lrsclip_rt.cuda.device import Device
from lrsclip_rt.cuda.kernels import cubin_for
from lrsclip_rt.cuda.streams import Stream
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import BackendError
from lrsclip_rt.tensorrt.bundle_building import Build, build_precision, shared_memory_limit_mib
from lrsclip_rt.tensorrt.engine_folders import Engine
from lrsclip_rt.tensorrt.engine_session import EngineSession
from lrsclip_rt.tensorrt.loading import is_lean, runtime_module
from lrsclip_rt.tensorrt.profiles import BuildOptions
from lrsclip_rt.tensorrt.racing import race


def build(host: Any, bundle: Bundle, precision: str = "fp16", **options: Any) -> Build:
    device = Device(host.stub.driver())
    try:
        return build_precision(host.module, bundle, precision, device, BuildOptions(**options))
    finally:
        device.close()


def session_of(host: Any, bundle: Bundle, made: Build) -> EngineSession:
    record = made.record.engines["image"]
    engine = Engine(made.folder, made.record, record, bundle.path / record.graph)
    return EngineSession(host.module, engine, Device(host.stub.driver()))


def test_kernels_lie_beside_the_engines_and_are_found_there(
    host: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(host, bundle)
    assert len(list(made.folder.glob("*-sm_87-*.cubin"))) == len(SOURCES)
    monkeypatch.setattr(kernels, "_cache_path", lambda source, architecture: None)

    def refuse(source: object, architecture: str) -> bytes:
        raise BackendError("no compiler")

    for source in SOURCES:
        assert cubin_for(source, "sm_87", refuse, near=made.folder) == b"\x7fELF"
        with pytest.raises(BackendError, match="no compiler"):
            cubin_for(source, "sm_90", refuse, near=made.folder)
    assert session_of(host, bundle, made).folder == made.folder


def test_without_a_compiler_engines_are_built_all_the_same_and_it_is_said(
    host: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, architecture: str) -> bytes:
        raise BackendError("there is neither NVRTC nor nvcc")

    monkeypatch.setattr("lrsclip_rt.cuda.kernels.compiled_cubin", refuse)
    made = build(host, bundle)
    assert made.skipped == {"kernels": "there is neither NVRTC nor nvcc"}
    assert list(made.folder.glob("*.cubin")) == []
    assert set(made.record.engines) == {"image", "dense", "text"}


def test_precisions_race_and_the_fastest_is_noted(host: Any, bundle: Bundle) -> None:
    result = CliRunner().invoke(build_command.command, [str(bundle.path), "--json"])
    assert result.exit_code == 0, result.output
    records = [json.loads(p.read_text()) for p in (bundle.path / "engines").glob("*/build.json")]
    assert {record["precision"] for record in records} == {"int8", "fp16"}
    first, second = (record["race"] for record in records)
    assert first == second
    assert (first["batch"], first["runs"], set(first["image_ms"])) == (32, 20, {"int8", "fp16"})
    assert first["fastest"] == min(first["image_ms"], key=first["image_ms"].get)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {row["precision"]: row["ms"] for row in rows if row["tower"] == "image"} == first["image_ms"]
    assert all(row["ms"] is None for row in rows if row["tower"] != "image")
    assert (host.stub.used_bytes, host.stub.open_handles, host.stub.contexts) == (0, 0, 0)
    # It is still a build that is found and runs.
    assert load(bundle, backend="tensorrt", precision="int8").embed_texts(["a ship"]).shape == (1, 16)


def test_one_precision_alone_does_not_race(host: Any, bundle: Bundle) -> None:
    made = build(host, bundle)
    assert made.record.race is None
    assert race(host.module, bundle, [made], Device(host.stub.driver())) is None


def test_what_the_inspector_says_of_attention_is_recorded(host: Any, bundle: Bundle) -> None:
    said = json.dumps({"Layers": [{"Name": "_gemm_mha_v2_myl0_7", "LayerType": "kgen"}]})
    assert build(host, bundle).record.engines["image"].fused_attention is None
    host.module.behaviours["EngineInspector.get_engine_information"] = lambda inspector, form: said
    made = build(host, bundle)
    assert {tower: engine.fused_attention for tower, engine in made.record.engines.items()} == {
        "image": True,
        "dense": True,
        "text": True,
    }
    assert json.loads((made.folder / "build.json").read_text())["engines"]["text"]["fused_attention"] is True


def test_rows_that_are_made_on_the_device_are_run_by_an_engine_where_they_lie(
    host: Any, bundle: Bundle
) -> None:
    made = build(host, bundle)
    session = session_of(host, bundle, made)
    pixels = np.random.default_rng(1).standard_normal((70, 3, 32, 32)).astype(np.float32)
    held = np.ascontiguousarray(pixels)
    each, runs = held[0].nbytes, []
    address = held.ctypes.data  # the stub's device memory is the host's

    def fill(some: range, to: int, stream: Stream) -> None:
        runs.append(len(some))
        stream.copy(address + some.start * each, to, len(some) * each)

    assert session.rows_per_run == 32
    dtype = session.inputs["pixels"].dtype
    assert dtype == "float32"
    np.testing.assert_array_equal(session.run_filled(70, fill), session.run({"pixels": pixels}))
    assert runs == [32, 32, 6]
    session.close()


def test_where_memory_is_shared_a_build_takes_a_quarter(stub: CudaStub) -> None:
    stub.configure(memory_bytes=8 << 30)
    device = Device(stub.driver())
    assert shared_memory_limit_mib(device) is None
    device.close()
    stub.set_integrated(True)
    device = Device(stub.driver())
    assert shared_memory_limit_mib(device) == 2048
    device.close()


def lean_runtime(monkeypatch: pytest.MonkeyPatch, version: str = "11.4.0") -> ModuleType:
    module = ModuleType("tensorrt_lean")
    module.__spec__ = ModuleSpec("tensorrt_lean", None)
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt_lean", module)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorrt" else find(name))
    return module


def test_the_lean_runtime_is_taken_where_tensorrt_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    module = lean_runtime(monkeypatch)
    assert runtime_module() is module
    assert is_lean(module)
    module.__version__ = "9.1.0"  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match=r"TensorRT 9\.1\.0 is not supported"):
        runtime_module()


def test_the_lean_runtime_refuses_plans_that_are_not_version_compatible(
    host: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(host, bundle)
    compatible = build(host, bundle, "int8", version_compatible=True)
    monkeypatch.setattr("lrsclip_rt.tensorrt.engine_session.is_lean", lambda trt: True)
    with pytest.raises(BackendError, match=r"needs all of TensorRT, .* fp16 --version-compatible"):
        session_of(host, bundle, made)
    session_of(host, bundle, compatible).close()


def test_images_are_resized_by_the_kernels_and_run_by_an_engine(
    host: Any, bundle: Bundle, kernel_images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(host, bundle)
    places = []

    def cubin(source: Any, architecture: str, near: Any = None) -> bytes:
        places.append(near)
        return kernel_images[source.name]

    monkeypatch.setattr("lrsclip_rt.cuda.device_resampling.cubin_for", cubin)
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 256, (height, 50, 3), dtype=np.uint8) for height in range(20, 60)]
    model = load(bundle, backend="tensorrt", precision="fp16")
    found = model.embed_images(images, batch_size=40)
    expected = load(bundle, backend="onnxruntime", precision="fp32").embed_images(images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    # 40 images, 32 of a run, two launches each; the kernels were looked for beside the engines.
    assert host.stub.kernel_launches == 4
    assert [place.parent for place in places] == [bundle.path / "engines"]
