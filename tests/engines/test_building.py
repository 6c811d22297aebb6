"""From ONNX files to engines that are kept, found again and run, on the recording double of two versions.

What is proven: the order of the calls, their arguments, the flow of every byte and each refusal. What is not:
that a GPU builds or runs any of it.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from lrsclip_rt.backends import GraphRequest
from lrsclip_rt.backends.tensorrt_backend import open_tensorrt
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.checking import check_bundle
from lrsclip_rt.cli import build as build_command
from lrsclip_rt.cli import info
from lrsclip_rt.cuda.device import Device, DeviceInfo
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import BackendError, DeviceMemoryError, ParityError
from lrsclip_rt.tensorrt.bundle_building import Build, build_precision, precisions_to_build
from lrsclip_rt.tensorrt.engine_folders import Engine, Target, find_engine
from lrsclip_rt.tensorrt.engine_session import EngineSession
from lrsclip_rt.tensorrt.profiles import BuildOptions


def built(host: Any, bundle: Bundle, precision: str = "fp16", **options: Any) -> Build:
    device = Device(host.stub.driver())
    try:
        return build_precision(host.module, bundle, precision, device, BuildOptions(**options))
    finally:
        device.close()


def target_of(host: Any, bundle: Bundle, **changes: str) -> Target:
    facts = {"precision": "fp16", "architecture": "sm_87", "tensorrt": host.module.__version__, **changes}
    return Target(bundle.path, content=bundle.content(facts["precision"]), **facts)


def engine_of(host: Any, bundle: Bundle, tower: str = "image") -> Engine:
    return find_engine(target_of(host, bundle), tower)


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 32, 32)).astype(np.float32)


def test_engines_are_accepted_kept_and_recorded(host: Any, bundle: Bundle) -> None:
    before = (bundle.path / "bundle.json").read_bytes()
    build = built(host, bundle)
    version = host.module.__version__
    assert build.folder == bundle.path / "engines" / f"sm_87-trt{version}-fp16"
    assert build.report.passed
    assert build.report.dense_passed
    assert build.skipped == {}
    record = json.loads((build.folder / "build.json").read_text())
    assert (record["architecture"], record["tensorrt"], record["precision"]) == ("sm_87", version, "fp16")
    assert set(record["engines"]) == {"image", "dense", "text"}
    assert record["engines"]["image"]["onnx_sha256"] == bundle.files["image.fp16.onnx"].sha256
    assert json.loads((build.folder / "image.layers.json").read_text()) == ["one", "two"]
    assert (build.folder / "timing.cache").read_bytes() == b"timed"
    assert sorted(path.name for path in build.folder.parent.iterdir()) == [build.folder.name]
    assert (bundle.path / "bundle.json").read_bytes() == before
    # All of the device's memory was given back, and every stream, event and graph.
    assert (host.stub.used_bytes, host.stub.open_handles, host.stub.contexts) == (0, 0, 0)


def test_the_network_is_strongly_typed_with_a_profile_for_each_length(host: Any, bundle: Bundle) -> None:
    built(host, bundle, workspace_mib=64, version_compatible=True, strip=True)
    calls = host.module
    flag = 1 << int(calls.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert calls.called("Builder.create_network") == [(flag,)] * 3
    shapes = [call for call in calls.called("IOptimizationProfile.set_shape") if call[0] == "tokens"]
    assert shapes == [
        ("tokens", (1, length), (8, length), (batch, length))
        for length, batch in ((32, 128), (64, 64), (128, 32), (248, 16))
    ]
    assert ("pixels", (1, 3, 32, 32), (32, 3, 32, 32), (32, 3, 32, 32)) in calls.called(
        "IOptimizationProfile.set_shape"
    )
    flags = {flag.name for (flag,) in calls.called("IBuilderConfig.set_flag")}
    assert flags == {"VERSION_COMPATIBLE", "STRIP_PLAN"}
    pools = {(pool.name, size) for pool, size in calls.called("IBuilderConfig.set_memory_pool_limit")}
    assert pools == {("WORKSPACE", 64 << 20), ("TACTIC_DRAM", 64 << 20)}
    assert calls.called("IBuilderConfig.create_timing_cache") == [(b"",), (b"timed",), (b"timed",)]
    # A stripped plan gets its weights from the ONNX file, and host code only where it was asked for.
    assert len(calls.called("Refitter.refit_cuda_engine")) == 3
    assert calls.called("Runtime.engine_host_code_allowed") == [(True,)] * 3


def test_without_options_nothing_is_limited_and_no_code_of_a_plan_is_run(host: Any, bundle: Bundle) -> None:
    built(host, bundle)
    assert host.module.called("IBuilderConfig.set_flag") == []
    assert host.module.called("IBuilderConfig.set_memory_pool_limit") == []
    assert host.module.called("Runtime.engine_host_code_allowed") == [(False,)] * 3
    assert host.module.called("Refitter.refit_cuda_engine") == []


def test_the_backend_answers_like_onnx_runtime_on_the_same_file(host: Any, bundle: Bundle) -> None:
    built(host, bundle)
    ours = load(bundle, backend="tensorrt", precision="fp16")
    fp32 = load(bundle, backend="onnxruntime", precision="fp32")
    texts = ["a ship", "tanks " * 50, "a field " * 50, "a river " * 90, "a road " * 300]
    for _ in range(3):
        np.testing.assert_allclose(ours.embed_pixels(pixels(70)), fp32.embed_pixels(pixels(70)), atol=1e-3)
        np.testing.assert_allclose(ours.dense_pixels(pixels(3)), fp32.dense_pixels(pixels(3)), atol=1e-3)
        batch = ours.tokenizer.encode_batch(texts)
        rows = ours.embed_tokens(batch)
        np.testing.assert_allclose(rows, fp32.embed_tokens(batch), atol=1e-3)
        np.testing.assert_allclose(ours.embed_tokens(batch, fixed=True), rows, atol=1e-5)
    profiles = host.module.called("IExecutionContext.set_optimization_profile_async")
    assert {index for index, _ in profiles} == {0, 1, 2, 3}
    assert host.launches > 0


def test_a_graph_is_captured_when_a_batch_comes_twice_and_dropped_when_another_comes(
    host: Any, bundle: Bundle
) -> None:
    built(host, bundle)
    session = EngineSession(host.module, engine_of(host, bundle), Device(host.stub.driver()))
    expected = load(bundle, backend="onnxruntime", precision="fp32").embed_pixels(pixels(5))
    launches = []
    for count in (4, 4, 4, 5, 5, 4, 4):
        before = host.launches
        rows = session.run({"pixels": pixels(5)[:count]})
        # A graph of four rows would leave the fifth as it was.
        np.testing.assert_allclose(rows, expected[:count], atol=1e-3)
        launches.append(host.launches - before)
    assert launches == [0, 1, 1, 0, 1, 0, 1]
    assert [host.shapes_of[graph][0] for graph in sorted(host.shapes_of)][-3:] == [4, 5, 4]
    addresses = host.module.called("IExecutionContext.set_tensor_address")
    assert len([name for name, _ in addresses if name == "pixels"]) - 2 * 1 <= 1
    session.close()
    assert host.stub.used_bytes == 0


def test_what_cannot_be_captured_runs_call_by_call_and_says_so(
    host: Any, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    built(host, bundle)
    session = EngineSession(host.module, engine_of(host, bundle), Device(host.stub.driver()))
    host.stub.fail_captures(True)
    first = session.run({"pixels": pixels(2)})
    with caplog.at_level(logging.WARNING):
        assert session.run({"pixels": pixels(2)}).tolist() == first.tolist()
        assert session.run({"pixels": pixels(2)}).tolist() == first.tolist()
    assert [record.message for record in caplog.records if "captured" in record.message] != []
    assert host.launches == 0


def test_a_failed_run_leaves_nothing_in_the_next_result(host: Any, bundle: Bundle) -> None:
    built(host, bundle)
    session = EngineSession(host.module, engine_of(host, bundle), Device(host.stub.driver()))
    expected = session.run({"pixels": pixels(40)})
    execute, times = host.module.behaviours["IExecutionContext.execute_async_v3"], iter([True, False])
    host.module.behaviours["IExecutionContext.execute_async_v3"] = lambda c, s: next(times) and execute(c, s)
    with pytest.raises(BackendError, match="TensorRT refused the run: TensorRT gave no reason"):
        session.run({"pixels": pixels(40)[::-1].copy()})
    host.module.behaviours["IExecutionContext.execute_async_v3"] = execute
    assert session.run({"pixels": pixels(40)[:4]}).shape == (4, 16)
    assert session.run({"pixels": pixels(40)}).tolist() == expected.tolist()


def test_engines_that_do_not_answer_like_fp32_are_not_kept(host: Any, bundle: Bundle) -> None:
    noise = np.random.default_rng(3)
    host.spoil = lambda rows: rows + noise.normal(0, 0.3, rows.shape).astype(np.float32)
    with pytest.raises(ParityError, match=r"do not answer like fp32 .*expected 0\.9995 mean"):
        built(host, bundle)
    assert list((bundle.path / "engines").iterdir()) == []
    assert host.stub.used_bytes == 0


def test_a_rebuild_that_fails_leaves_the_engines_that_were_there(host: Any, bundle: Bundle) -> None:
    folder = built(host, bundle).folder
    before = (folder / "build.json").read_bytes()
    host.spoil = lambda rows: -rows
    with pytest.raises(ParityError):
        built(host, bundle)
    assert (folder / "build.json").read_bytes() == before
    host.spoil = lambda rows: rows
    host.module.calls.clear()
    built(host, bundle)
    # What was timed before is not timed again.
    assert host.module.called("IBuilderConfig.create_timing_cache")[0] == (b"timed",)


def test_an_engine_for_another_gpu_or_version_is_refused_with_the_command_that_mends_it(
    host: Any, bundle: Bundle
) -> None:
    version = host.module.__version__
    built(host, bundle)
    with pytest.raises(BackendError) as refused:
        find_engine(target_of(host, bundle, architecture="sm_90"), "image")
    assert str(refused.value) == (
        f"image.plan was built for sm_87, TensorRT {version}; this device is sm_90, TensorRT {version}. "
        f"Rebuild it here: lrsclip build {bundle.path} --precision fp16"
    )
    with pytest.raises(BackendError, match=r"this device is sm_87, TensorRT 11\.9\.0\. Rebuild it here"):
        find_engine(target_of(host, bundle, tensorrt="11.9.0"), "image")
    with pytest.raises(BackendError, match=r"there is no int8 engine of image for sm_87, .*Build it here"):
        find_engine(target_of(host, bundle, precision="int8"), "image")


def test_a_version_compatible_engine_runs_on_later_versions_and_never_on_earlier_ones(
    host: Any, bundle: Bundle
) -> None:
    built(host, bundle, version_compatible=True)
    assert find_engine(target_of(host, bundle, tensorrt="11.9.0"), "image").record.plan == "image.plan"
    with pytest.raises(BackendError, match="was built for sm_87, TensorRT"):
        find_engine(target_of(host, bundle, tensorrt="10.2.9"), "image")


def test_an_engine_of_other_weights_is_refused(host: Any, bundle: Bundle) -> None:
    built(host, bundle)
    target = target_of(host, bundle)
    other = Target(target.bundle, "fp16", "0" * 64, target.architecture, target.tensorrt)
    with pytest.raises(BackendError, match="was built from other fp16 files than the bundle holds now"):
        find_engine(other, "image")


def test_a_plan_that_was_changed_is_not_run(host: Any, bundle: Bundle) -> None:
    folder = built(host, bundle).folder
    plan = folder / "image.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"!")
    with pytest.raises(BackendError, match=r"image.plan was changed or damaged .*Rebuild it: lrsclip build"):
        EngineSession(host.module, engine_of(host, bundle), Device(host.stub.driver()))
    plan.unlink()
    with pytest.raises(BackendError, match=r"image.plan cannot be read: No such file"):
        EngineSession(host.module, engine_of(host, bundle), Device(host.stub.driver()))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('"format_version": 1', '"format_version": 9', "format_version 9"),
        ('"plan": "image.plan"', '"plan": "../../image.fp32.onnx"', "no name of a file beside it"),
        ('"strip": false', '"strip": 1', "options are"),
        ('"architecture"', '"arch"', "lacks the key 'architecture'"),
        ('"maximum": 32', '"maximum": -32', "maximum must be a whole number"),
    ],
)
def test_a_damaged_record_is_refused_by_its_path(
    host: Any, bundle: Bundle, before: str, after: str, said: str
) -> None:
    path = built(host, bundle).folder / "build.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(BackendError, match=r"build.json cannot be used: .*and build again") as refused:
        engine_of(host, bundle)
    assert said in str(refused.value)


def test_where_the_bundle_cannot_be_written_engines_lie_in_the_cache(
    host: Any, bundle: Bundle, cache_home: Path
) -> None:
    (bundle.path / "engines").write_text("in the way")
    build = built(host, bundle)
    assert build.folder.is_relative_to(cache_home)
    assert bundle.content("fp16")[:32] in build.folder.parts
    assert engine_of(host, bundle).folder == build.folder


def test_the_batch_is_halved_once_where_memory_does_not_suffice(
    host: Any, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    built(host, bundle)
    host.scratch_bytes_per_row = 1_000_000
    host.stub.configure(memory_bytes=20_000_000)
    session = EngineSession(host.module, engine_of(host, bundle), Device(host.stub.driver()))
    with caplog.at_level(logging.WARNING):
        rows = session.run({"pixels": pixels(40)})
    assert "image.plan does not fit at batch 32: going on with 16" in caplog.text
    fp32 = load(bundle, backend="onnxruntime", precision="fp32")
    np.testing.assert_allclose(rows, fp32.embed_pixels(pixels(40)), atol=1e-3)
    session.close()
    assert host.stub.used_bytes == 0

    host.stub.configure(memory_bytes=10_000_000)
    session = EngineSession(host.module, engine_of(host, bundle), Device(host.stub.driver()))
    with pytest.raises(DeviceMemoryError, match=r"image.plan does not fit at batch 16: .* MiB are free"):
        session.run({"pixels": pixels(1)})
    session.close()
    assert host.stub.used_bytes == 0


def test_a_batch_that_was_named_is_never_halved(host: Any, bundle: Bundle) -> None:
    built(host, bundle)
    host.scratch_bytes_per_row = 1_000_000
    host.stub.configure(memory_bytes=10_000_000)
    session = EngineSession(host.module, engine_of(host, bundle), Device(host.stub.driver()), batch=16)
    with pytest.raises(DeviceMemoryError, match="does not fit at batch 16"):
        session.run({"pixels": pixels(1)})
    session = EngineSession(host.module, engine_of(host, bundle), Device(host.stub.driver()), batch=4)
    assert session.run({"pixels": pixels(9)}).shape == (9, 16)


@pytest.mark.parametrize(
    "feeds",
    [
        {"pixels": pixels(2).astype(np.float64)},
        {"pixels": pixels(2)[..., :16]},
        {"pixels": pixels(0)},
        {"tokens": np.zeros((1, 8), np.int32), "eot": np.zeros(1, np.int32)},
    ],
)
def test_inputs_that_are_not_the_engines_are_refused(
    host: Any, bundle: Bundle, feeds: dict[str, np.ndarray]
) -> None:
    built(host, bundle)
    session = EngineSession(host.module, engine_of(host, bundle), Device(host.stub.driver()))
    with pytest.raises(BackendError, match=r"image.plan failed in tensorrt: .*expected"):
        session.run(feeds)


def test_static_text_builds_one_length_that_answers_for_every_text(host: Any, bundle: Bundle) -> None:
    build = built(host, bundle, static_text=True)
    assert build.record.engines["text"].graph == "text-248.fp16.onnx"
    assert [profile.length for profile in build.record.engines["text"].profiles] == [248]
    ours = load(bundle, backend="tensorrt", precision="fp16")
    fp32 = load(bundle, backend="onnxruntime", precision="fp32")
    np.testing.assert_allclose(ours.embed_texts(["a ship"]), fp32.embed_texts(["a ship"]), atol=1e-3)


def test_engines_take_batches_of_the_size_that_was_asked_for(host: Any, bundle: Bundle) -> None:
    build = built(host, bundle, image_batch=5)
    most = {tower: engine.profiles[0].maximum for tower, engine in build.record.engines.items()}
    assert (most["image"], most["dense"]) == (5, 5)
    assert build.record.options.image_batch == 5
    ours = load(bundle, backend="tensorrt", precision="fp16")
    fp32 = load(bundle, backend="onnxruntime", precision="fp32")
    np.testing.assert_allclose(ours.embed_pixels(pixels(7)), fp32.embed_pixels(pixels(7)), atol=1e-3)


def test_check_holds_the_engines_against_fp32_like_any_backend(host: Any, bundle: Bundle) -> None:
    built(host, bundle)
    found = {one.precision: one for one in check_bundle(bundle, backend="tensorrt").results}
    assert (found["fp16"].status, found["fp16"].backend) == ("passed", "tensorrt")
    assert found["fp16"].report.dense is None  # fp32 does not run there, and the probe stores no patches
    assert (found["fp32"].status, found["int8"].status) == ("not run", "failed")
    assert "there is no int8 engine" in found["int8"].reason


def test_info_lists_the_engines_of_a_bundle_and_says_when_they_are_old(host: Any, bundle: Bundle) -> None:
    folder = built(host, bundle).folder
    (row,) = info.collect_facts(bundle.path)["bundle"]["engines"]
    assert (row["precision"], row["architecture"], row["current"]) == ("fp16", "sm_87", True)
    record = folder / "build.json"
    record.write_text(record.read_text().replace(bundle.content("fp16"), "0" * 64))
    (row,) = info.collect_facts(bundle.path)["bundle"]["engines"]
    assert row["current"] is False
    assert info._engine_line(row).endswith("image, dense, text, from other files than the bundle holds now")
    record.write_text("{}")
    rows = info.collect_facts(bundle.path)["bundle"]["engines"]
    assert all("build.json cannot be used" in row["error"] for row in rows)


def test_several_threads_may_share_an_engine(host: Any, bundle: Bundle) -> None:
    built(host, bundle)
    session = EngineSession(host.module, engine_of(host, bundle), Device(host.stub.driver()))
    inputs = [pixels(40) * (i + 1) for i in range(8)]
    expected = [session.run({"pixels": one}).tolist() for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: session.run({"pixels": one}).tolist(), inputs))
    assert found == expected


def test_a_graph_outside_a_bundle_is_refused(host: Any, bundle: Bundle) -> None:
    request = GraphRequest(bundle.path / "image.fp16.onnx", "fp16", "cuda", None)
    with pytest.raises(BackendError, match="as part of its bundle only"):
        open_tensorrt(request)


def test_a_file_that_does_not_parse_is_refused_with_the_parsers_words(host: Any, bundle: Bundle) -> None:
    host.module.behaviours["OnnxParser.parse_from_file"] = lambda parser, path: False
    host.module.behaviours["OnnxParser.num_errors"] = lambda parser: 1
    host.module.behaviours["ParserError.desc"] = lambda error: "no importer for Resize"
    with pytest.raises(BackendError, match=r"cannot read image.fp16.onnx: no importer for Resize"):
        built(host, bundle)


def test_a_build_that_fails_says_what_tensorrt_logged(host: Any, bundle: Bundle) -> None:
    def fail(builder: Any, network: Any, config: Any) -> None:
        logger = builder._state["arguments"][0]
        logger.log(host.module.ILogger.Severity.ERROR, "Could not find any implementation")

    host.module.behaviours["Builder.build_serialized_network"] = fail
    with pytest.raises(BackendError, match=r"made no engine of image.fp16.onnx: Could not find any"):
        built(host, bundle)
    assert list((bundle.path / "engines").iterdir()) == []


def test_precisions_are_those_asked_for_or_all_that_this_gpu_runs(bundle: Bundle) -> None:
    orin, hopper = DeviceInfo(0, "Orin", (8, 7)), DeviceInfo(0, "H200", (9, 0))
    assert precisions_to_build(bundle, [], orin) == ("int8", "fp16")
    assert precisions_to_build(bundle, ["fp16", "fp16"], orin) == ("fp16",)
    with pytest.raises(BackendError, match="fp8 needs a GPU of sm_89 or newer, this one is sm_87"):
        precisions_to_build(bundle, ["fp8"], orin)
    with pytest.raises(ValueError, match="holds the precisions fp16, fp32, int8, not fp8"):
        precisions_to_build(bundle, ["fp8"], hopper)
    with pytest.raises(BackendError, match="TensorRT runs int8, fp8, fp16, not fp32"):
        precisions_to_build(bundle, ["fp32"], hopper)


def test_the_command_builds_and_prints_a_row_for_each_engine(host: Any, bundle: Bundle) -> None:
    result = CliRunner().invoke(build_command.command, [str(bundle.path), "--precision", "fp16", "--json"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["tower"] for row in rows] == ["image", "dense", "text"]
    assert "fp16 image: Building ..." in result.stderr
    assert host.stub.contexts == 0


def test_the_command_refuses_a_bundle_without_a_precision_for_gpus(
    host: Any, handmade: Any, tmp_path: Path
) -> None:
    made = handmade.make_bundle(tmp_path / "cpu", extra={"int8-cpu": 0.01})
    result = CliRunner().invoke(build_command.command, [str(made.path)])
    assert isinstance(result.exception, BackendError)
    assert "holds fp32, int8-cpu; TensorRT runs int8, fp8, fp16 on sm_87. Add one: lrsclip export" in str(
        result.exception
    )
