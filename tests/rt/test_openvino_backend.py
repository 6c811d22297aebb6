"""OpenVINO gives ONNX Runtime's answers, and its cache can be damaged without changing one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from lrsclip_rt.backends import BACKENDS, open_graph, why_not
from lrsclip_rt.backends import compiled_cache as cache
from lrsclip_rt.backends import openvino_backend as backend
from lrsclip_rt.bundle import BUILT_IN
from lrsclip_rt.cpu import CpuInfo, cpu_info
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import BackendError, BundleError, DependencyError
from lrsclip_rt.parity import TRIMMING_TOLERANCE, Embeddings, compare, cosine_rows

HAS_BF16 = bool({"avx512-bf16", "amx-bf16"} & set(cpu_info().instructions))
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU does not compute in bf16")
pytestmark = pytest.mark.usefixtures("cache_home")

Rows = NDArray[np.float32]


@pytest.fixture(params=["mini", "tiny"])
def real_bundle(request: pytest.FixtureRequest) -> Path:
    """The built-in model (a convolutional stem, a token map) and a tiny ViT."""
    if request.param == "mini":
        return BUILT_IN
    path: Path = request.getfixturevalue("tiny_bundle")
    return path


def texts_of_all_lengths(number: int) -> list[str]:
    words = "ship port tree field road house river tank plane beach".split()
    rng = np.random.default_rng(number)
    return [" ".join(rng.choice(words, n)) for n in np.linspace(1, 246, number).astype(int)]


def random_pixels(model: Embedder, number: int) -> Rows:
    size = model.spec.image_size
    return np.random.default_rng(number).standard_normal((number, 3, size, size), dtype=np.float32)


# Answers


@needs_openvino
def test_fp32_gives_the_answers_of_onnxruntime_for_any_batch_and_length(real_bundle: Path) -> None:
    theirs = load(real_bundle, backend="onnxruntime", precision="fp32", threads=1)
    ours = load(real_bundle, backend="openvino", precision="fp32", threads=1)
    for number in (1, 3, 17):
        texts = texts_of_all_lengths(number)
        assert cosine_rows(ours.embed_texts(texts), theirs.embed_texts(texts)).min() > 0.99999
        pixels = random_pixels(ours, number)
        assert cosine_rows(ours.embed_pixels(pixels), theirs.embed_pixels(pixels)).min() > 0.99999
    patches = random_pixels(ours, 2)
    assert cosine_rows(ours.dense_pixels(patches), theirs.dense_pixels(patches)).min() > 0.99999
    batch = ours.tokenizer.encode_batch(texts_of_all_lengths(5))
    trimmed, fixed = ours.embed_tokens(batch), ours.embed_tokens(batch, fixed=True)
    assert np.abs(trimmed - fixed).max() <= TRIMMING_TOLERANCE


@needs_openvino
@needs_bf16
def test_bf16_is_a_setting_of_the_fp32_files_and_within_its_gate() -> None:
    fp32 = load(backend="openvino", precision="fp32", threads=1)
    bf16 = load(precision="bf16", threads=1)
    assert (bf16.backend, bf16.bundle.passed("bf16")) == ("openvino", False)
    texts, pixels = texts_of_all_lengths(4), random_pixels(fp32, 3)
    reference = Embeddings(fp32.embed_pixels(pixels), fp32.embed_texts(texts))
    worse = Embeddings(bf16.embed_pixels(pixels), bf16.embed_texts(texts))
    report = compare(reference, worse, precision="bf16")
    assert report.image is not None
    assert report.text is not None
    assert report.image.reaches(report.gate)
    assert report.text.reaches(report.gate)
    assert report.image.mean < 0.999999


@needs_openvino
def test_int8_runs_a_symmetric_quantised_graph(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (16, 8)).astype(np.int8)
    scales = rng.uniform(0.01, 0.02, 8).astype(np.float32)
    constants = {"s": np.float32(0.05), "z": np.int8(0), "w": codes, "ws": scales, "wz": np.zeros(8, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        helper.make_node("MatMul", ["d", "wd"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", k]) for n, k in (("x", 16), ("y", 8)))
    initial = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "q.onnx")
    values = rng.standard_normal((5, 16)).astype(np.float32)
    found = open_graph(tmp_path / "q.onnx", backend="openvino", precision="int8", threads=1).run(
        {"x": values}
    )
    quantised = np.clip(np.rint(values / np.float32(0.05)), -128, 127) * 0.05
    np.testing.assert_allclose(found, quantised @ (codes * scales), atol=1e-4)


@needs_openvino
def test_a_bundle_that_holds_int8_runs_it_on_openvino(handmade: ModuleType, tmp_path: Path) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", extra={"int8": 0.02})
    model = load(bundle, precision="int8", threads=1)
    assert model.backend == "openvino"
    cosine = (model.embed_texts("a ship") * load(bundle, threads=1).embed_texts("a ship")).sum()
    assert 0.99 < cosine < 0.999999


@needs_openvino
@needs_bf16
def test_int8_bf16_is_a_setting_of_the_int8_files(handmade: ModuleType, tmp_path: Path) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", extra={"int8": 0.02})
    models = [load(bundle, precision=name, threads=1) for name in ("int8", "int8-bf16")]
    assert [model.backend for model in models] == ["openvino", "openvino"]
    pixels = random_pixels(models[0], 1)
    int8, lower = (model.embed_pixels(pixels)[0] for model in models)
    assert float(int8 @ lower) > 0.99
    assert not np.array_equal(int8, lower)
    assert not bundle.passed("int8-bf16")


# What cannot run


@needs_openvino
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8-cpu"}, "runs int8-bf16, int8, bf16, fp32, not int8-cpu .*onnxruntime"),
        ({"precision": "fp16"}, "not fp16"),
        ({"device": "cuda:0"}, "openvino runs on cpu in this version, not on cuda:0"),
    ],
)
def test_what_openvino_cannot_run_is_refused_by_name(
    made_bundle: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        load(made_bundle, backend="openvino", **options)  # type: ignore[arg-type]


@needs_openvino
def test_int8_is_refused_until_the_bundle_holds_it(made_bundle: Path) -> None:
    with pytest.raises(BundleError, match="not int8"):
        load(made_bundle, backend="openvino", precision="int8")


@needs_openvino
def test_bf16_is_refused_by_name_where_the_cpu_has_none(
    made_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = CpuInfo("Old CPU", "x86_64", 1, ("avx2", "avx512"))
    monkeypatch.setattr(backend, "cpu_info", lambda: old)
    for name in ("openvino", "auto"):
        with pytest.raises(BackendError, match=r"avx512-bf16 or amx-bf16; Old CPU has avx2, avx512\. Use"):
            load(made_bundle, backend=name, precision="bf16")
    assert "Use --precision int8" in str(why_not(BACKENDS["openvino"], precision="int8-bf16"))
    assert why_not(BACKENDS["openvino"], precision="fp32") is None


@needs_openvino
@needs_bf16
def test_a_graph_that_would_run_in_another_precision_is_refused(
    made_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = backend._settings
    monkeypatch.setattr(backend, "_settings", lambda hint, threads: real("bf16", threads=threads))
    with pytest.raises(BackendError, match=r"would run in bf16 .*, not in f32 as fp32 needs"):
        open_graph(made_bundle / "image.fp32.onnx", backend="openvino", threads=1)


def run_without(library: str, code: str) -> list[str]:
    program = f"""
import importlib.util, sys
sys.modules[{library!r}] = None
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == {library!r} else find(name, *a)
import lrsclip_rt as lrs
{code}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def test_without_openvino_the_error_names_the_extra(made_bundle: Path) -> None:
    code = f"""
for options in ({{"backend": "openvino"}}, {{"precision": "bf16"}}):
    try:
        lrs.load({str(made_bundle)!r}, **options)
    except lrs.errors.DependencyError as error:
        print(error)
print(lrs.load({str(made_bundle)!r}).backend)
"""
    missing = str(DependencyError.of("openvino", extra="openvino"))
    assert run_without("openvino", code) == [missing, missing, "onnxruntime"]


@needs_openvino
def test_without_onnxruntime_auto_takes_openvino(made_bundle: Path) -> None:
    code = f"""
model = lrs.load({str(made_bundle)!r}, threads=1)
print(model.backend, model.embed_texts("a ship").shape)
"""
    assert run_without("onnxruntime", code) == ["openvino (1, 16)"]


@needs_openvino
def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x00\x01 no graph")
    with pytest.raises(BackendError, match=r"bad\.onnx cannot be loaded by openvino 20"):
        open_graph(tmp_path / "bad.onnx", backend="openvino")


@needs_openvino
def test_a_graph_with_two_outputs_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    x, y, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xyz")
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Mul", ["x", "x"], ["z"])]
    graph = helper.make_graph(nodes, "g", [x], [y, z])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(BackendError, match=r"two\.onnx has 2 outputs, expected one"):
        open_graph(tmp_path / "two.onnx", backend="openvino")


# Sessions


@needs_openvino
@pytest.mark.parametrize("tower", ["image", "dense", "text", "text-248"])
def test_a_session_says_of_itself_what_onnxruntime_says(made_bundle: Path, tower: str) -> None:
    path = made_bundle / f"{tower}.fp32.onnx"
    ours, theirs = (open_graph(path, backend=name, threads=1) for name in ("openvino", "onnxruntime"))
    assert dict(ours.inputs) == dict(theirs.inputs)
    assert ours.output == theirs.output


@needs_openvino
@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"tokens": np.ones((1, 248), np.int32)}, "got the inputs tokens, expected eot, tokens"),
        (
            {"tokens": np.ones((1, 5), np.int32), "eot": np.ones(1, np.int32)},
            r"tokens is int32 \(1, 5\), expected int32 \(None, 248\)",
        ),
        ({"tokens": np.ones((1, 248), np.int64), "eot": np.ones(1, np.int32)}, "tokens is int64"),
        ({"tokens": np.ones((1, 248), np.int32), "eot": np.ones((1, 1), np.int32)}, "eot is int32"),
    ],
)
def test_inputs_that_are_not_the_graphs_are_refused(
    made_bundle: Path, feeds: dict[str, NDArray[Any]], message: str
) -> None:
    session = open_graph(made_bundle / "text-248.fp32.onnx", backend="openvino", threads=1)
    session.run({"tokens": np.ones((1, 248), np.int32), "eot": np.ones(1, np.int32)})
    with pytest.raises(BackendError, match=r"text-248\.fp32\.onnx failed in openvino: " + message):
        session.run(feeds)


@needs_openvino
def test_an_answer_survives_the_next_run(made_bundle: Path) -> None:
    session = open_graph(made_bundle / "image.fp32.onnx", backend="openvino", threads=1)
    pixels = np.random.default_rng(0).standard_normal((2, 1, 3, 32, 32), dtype=np.float32)
    first = session.run({"pixels": pixels[0]})
    kept = first.copy()
    assert np.abs(session.run({"pixels": pixels[1]}) - kept).max() > 0.01
    np.testing.assert_array_equal(first, kept)
    assert first.flags.c_contiguous
    assert first.flags.owndata


@needs_openvino
def test_threads_may_share_a_session(made_bundle: Path) -> None:
    session = open_graph(made_bundle / "image.fp32.onnx", backend="openvino", threads=1)
    pixels = np.random.default_rng(1).standard_normal((6, 4, 3, 32, 32), dtype=np.float32)
    expected = [session.run({"pixels": batch}) for batch in pixels]
    wrong: list[int] = []
    start = threading.Barrier(len(pixels))

    def work(index: int) -> None:
        start.wait()
        for _ in range(20):
            if not np.allclose(session.run({"pixels": pixels[index]}), expected[index], atol=1e-6):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(pixels))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 1 <= len(session._idle) <= len(pixels)  # type: ignore[attr-defined]


@needs_openvino
def test_threads_are_those_asked_for_and_the_process_is_not_pinned(made_bundle: Path) -> None:
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    session = open_graph(made_bundle / "image.fp32.onnx", backend="openvino", threads=1)
    session.run({"pixels": np.zeros((1, 3, 32, 32), np.float32)})
    compiled = session._compiled  # type: ignore[attr-defined]
    found = {name: compiled.get_property(name) for name in backend._settings("f32", threads=1)}
    assert found.pop("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert found == {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    assert before is None or os.sched_getaffinity(0) == before


# The cache of compiled graphs


@pytest.fixture
def compile_count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a file was compiled so far; everything else is OpenVINO's own."""
    core, compiled = backend._core(), []

    class Counting:
        def compile_model(self, *arguments: Any) -> Any:
            compiled.append(arguments)
            return core.compile_model(*arguments)

        def import_model(self, *arguments: Any) -> Any:
            return core.import_model(*arguments)

    monkeypatch.setattr(backend, "_core", Counting)
    return lambda: len(compiled)


def answers(bundle: Path, content: str | None, *, threads: int = 1) -> Rows:
    """Rows that depend on weights all over the file."""
    session = open_graph(bundle / "text.fp32.onnx", backend="openvino", threads=threads, content=content)
    tokens = np.linspace(0, 49407, 64).astype(np.int32)[None]
    return session.run({"tokens": tokens, "eot": np.array([63], np.int32)})


def cached_files(cache_home: Path) -> list[Path]:
    return sorted((cache_home / "lrsclip-rt" / "openvino").glob("*"))


@needs_openvino
def test_a_second_start_compiles_nothing_and_answers_the_same(
    made_bundle: Path, compile_count: Callable[[], int], cache_home: Path
) -> None:
    first = answers(made_bundle, "a")
    assert (compile_count(), len(cached_files(cache_home))) == (1, 1)
    np.testing.assert_array_equal(answers(made_bundle, "a"), first)
    assert compile_count() == 1
    answers(made_bundle, "b")
    answers(made_bundle, "a", threads=2)
    assert (compile_count(), len(cached_files(cache_home))) == (3, 3)
    answers(made_bundle, None)
    assert (compile_count(), len(cached_files(cache_home))) == (4, 3)


def flipped(content: bytes) -> bytes:
    """Weights with their lowest bits turned: a graph that loads, and answers something else."""
    changed = bytearray(content)
    for place in range(len(content) // 4, len(content) * 3 // 4, 2):
        changed[place] ^= 1
    return bytes(changed)


def vouched_rubbish(content: bytes) -> bytes:
    import hashlib

    return cache._MAGIC + hashlib.sha256(b"rubbish").digest() + b"rubbish"


@needs_openvino
@pytest.mark.parametrize(
    "damage",
    [flipped, vouched_rubbish, lambda c: c[: len(c) // 2], lambda c: b"", lambda c: os.urandom(len(c))],
    ids=["flipped", "vouched rubbish", "torn", "empty", "random"],
)
def test_a_damaged_cache_is_compiled_again_and_mended(
    made_bundle: Path,
    compile_count: Callable[[], int],
    cache_home: Path,
    damage: Callable[[bytes], bytes],
) -> None:
    first = answers(made_bundle, "a")
    (path,) = cached_files(cache_home)
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        np.testing.assert_array_equal(answers(made_bundle, "a"), first)
    assert compile_count() == 2


@needs_openvino
def test_a_cache_that_cannot_be_written_only_costs_time(
    made_bundle: Path, compile_count: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    np.testing.assert_array_equal(answers(made_bundle, "a"), answers(made_bundle, "a"))
    assert compile_count() == 2


@needs_openvino
def test_another_version_of_a_file_is_not_answered_from_the_cache(
    handmade: ModuleType, tmp_path: Path
) -> None:
    colour = np.full((8, 8, 3), 200, np.uint8)
    rows = [
        load(
            handmade.make_bundle(tmp_path / "b", seed=seed, overwrite=True), backend="openvino", threads=1
        ).embed_images(colour)
        for seed in (0, 1, 0)
    ]
    assert np.abs(rows[0] - rows[1]).max() > 0.01
    np.testing.assert_array_equal(rows[0], rows[2])


def test_the_oldest_make_room_and_what_is_too_large_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "cache" / f"{name}.compiled" for name in "abc"]
    for age, path in enumerate(paths):
        cache.write_compiled(path, b"x" * 100)
        os.utime(path, (1000 + age, 1000 + age))
    assert cache.read_compiled(paths[0]) == b"x" * 100
    room = 3 * paths[0].stat().st_size
    monkeypatch.setattr(cache, "_MAX_TOTAL_BYTES", room)
    cache.write_compiled(tmp_path / "cache" / "d.compiled", b"y" * 100)
    left = {path.stem for path in (tmp_path / "cache").iterdir()}
    assert left == {"a", "c", "d"}
    monkeypatch.setattr(cache, "_MAX_BYTES", 99)
    cache.write_compiled(tmp_path / "cache" / "e.compiled", b"z" * 100)
    assert cache.read_compiled(tmp_path / "cache" / "e.compiled") is None


# Commands


def rows_of(stdout: str) -> dict[str, dict[str, Any]]:
    return {row["precision"]: row for row in map(json.loads, stdout.splitlines())}


@needs_openvino
def test_check_recomputes_on_the_backend_that_is_named(made_bundle: Path) -> None:
    from lrsclip_rt.cli.check import command

    result = CliRunner().invoke(command, [str(made_bundle), "--backend", "openvino", "--threads", "1"])
    assert result.exit_code == 0, result.output
    rows = rows_of(result.stdout)
    assert (rows["fp32"]["status"], rows["fp32"]["backend"]) == ("passed", "openvino")
    assert rows["int8-cpu"]["status"] == "not run"
    assert set(rows) - {"bf16"} == {"fp32", "int8-cpu", "fp16"}
    assert ("bf16" in rows) == HAS_BF16
    if HAS_BF16:
        assert (rows["bf16"]["status"], rows["bf16"]["backend"]) == ("passed", "openvino")
        assert "bf16: not in bundle.json" in result.stderr
    by_default = CliRunner().invoke(command, [str(made_bundle), "--threads", "1"])
    assert set(rows_of(by_default.stdout)) == {"fp32", "int8-cpu", "fp16"}


@needs_openvino
def test_check_on_openvino_fails_where_the_stored_answers_are_others(
    handmade: ModuleType, tmp_path: Path
) -> None:
    import hashlib

    from lrsclip_rt.cli.check import command

    bundle = handmade.make_bundle(tmp_path / "b")
    with np.load(bundle.probe_path) as arrays:
        probe = dict(arrays)
    probe["text_embeddings"] = np.roll(probe["text_embeddings"], 1, axis=0)
    np.savez(bundle.probe_path, **probe)
    content = bundle.probe_path.read_bytes()
    record = json.loads((bundle.path / "bundle.json").read_text())
    record["files"]["probe.npz"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (bundle.path / "bundle.json").write_text(json.dumps(record))
    result = CliRunner().invoke(command, [str(bundle.path), "--backend", "openvino", "--threads", "1"])
    assert result.exit_code == 1
    assert "fp32: failed: text cosine" in result.stderr


@needs_openvino
def test_bench_holds_both_backends_side_by_side(made_bundle: Path) -> None:
    from lrsclip_rt.cli.bench import command

    arguments = "--precision fp32 --backend onnxruntime,openvino --rounds 1 --files 2 --batch 2 --threads 1"
    result = CliRunner().invoke(command, ["-b", str(made_bundle), *arguments.split()])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout.splitlines()[-1])
    towers = {"fp32 onnxruntime", "fp32 openvino"}
    decoder_and_resizer = {"pillow", "numpy"}
    assert {row["contender"] for row in record["results"]} == towers | decoder_and_resizer
    assert all(row["passed"] for row in record["results"] if "passed" in row)
