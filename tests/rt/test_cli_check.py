from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lrsclip_rt.cli.check import command
from lrsclip_rt.errors import BackendError, BundleError, InputError

pytestmark = pytest.mark.usefixtures("cache_home")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])


def rows_of(result: Result) -> dict[str, dict]:
    return {row["precision"]: row for row in map(json.loads, result.stdout.splitlines())}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(12):
        Image.new("RGB", (40, 40), tuple(rng.integers(0, 256, 3).tolist())).save(folder / f"{i:02}.png")
    return folder


def test_a_good_bundle_passes_and_what_cannot_run_is_named_not_passed(made_bundle: Path) -> None:
    result = run(made_bundle)
    assert result.exit_code == 0, result.output
    rows = rows_of(result)
    assert {name: row["status"] for name, row in rows.items()} == {
        "fp32": "passed", "int8-cpu": "passed", "fp16": "not run"
    }  # fmt: skip
    assert "meant for GPUs" in rows["fp16"]["reason"]
    assert rows["fp16"]["report"] is None
    assert "fp16: not run: " in result.stderr
    assert rows["fp32"]["inputs"] == "probe"
    assert rows["int8-cpu"]["report"]["n_texts"] == 3
    assert rows["int8-cpu"]["report"]["dense"]["mean"] > 0.99
    assert rows["fp32"]["report"]["image"]["minimum"] > 0.999999
    assert rows["fp32"]["short_vs_fixed_text"] <= 1e-6


def test_a_precision_below_its_gate_fails_with_its_numbers(tmp_path: Path, handmade: ModuleType) -> None:
    handmade.make_bundle(tmp_path / "b", extra={"int8-cpu": 0.8})
    result = run(tmp_path / "b")
    assert result.exit_code == 1
    rows = rows_of(result)
    assert rows["int8-cpu"]["status"] == "failed"
    assert rows["fp32"]["status"] == "passed"
    assert "int8-cpu: failed: " in result.stderr
    assert "expected 0.99 mean, 0.97 least, 95 % top-1" in result.stderr


def test_a_stored_report_that_lies_does_not_help(tmp_path: Path, handmade: ModuleType) -> None:
    good = handmade.make_bundle(tmp_path / "good", extra={"int8-cpu": 0.001})
    bad = handmade.make_bundle(tmp_path / "bad", extra={"int8-cpu": 0.8})
    record = json.loads((bad.path / "bundle.json").read_text())
    record["precisions"]["int8-cpu"]["parity"] = good.record("int8-cpu").parity.to_dict()
    (bad.path / "bundle.json").write_text(json.dumps(record))
    assert rows_of(run(bad.path))["int8-cpu"]["status"] == "failed"


def test_fp32_must_repeat_the_stored_answers(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b")
    with np.load(bundle.probe_path) as arrays:
        probe = dict(arrays)
    probe["text_embeddings"] = np.roll(probe["text_embeddings"], 1, axis=0)
    np.savez(bundle.probe_path, **probe)
    assert isinstance(run(bundle.path).exception, BundleError)
    record = json.loads((bundle.path / "bundle.json").read_text())
    import hashlib

    content = bundle.probe_path.read_bytes()
    record["files"]["probe.npz"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (bundle.path / "bundle.json").write_text(json.dumps(record))
    result = run(bundle.path)
    assert result.exit_code == 1
    assert "fp32: failed: text cosine" in result.stderr


def test_text_graphs_that_differ_fail(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b")
    worse = tmp_path / "worse"
    worse.mkdir()
    handmade.write_graphs(worse, "fp32", handmade.Weights.seeded(noise=1e-4))
    from lrsclip_rt.bundle_writer import BundleWriter

    with BundleWriter(tmp_path / "c", bundle.spec, bundle.source) as writer:
        for name in bundle.files:
            shutil.copy(bundle.path / name, writer.folder / name)
        # The short graph gets weights of its own that are a little worse.
        model = (worse / "text.fp32.onnx").read_bytes()
        (writer.folder / "text.fp32.onnx").write_bytes(
            model.replace(b"text.fp32.weights", b"text.alt_.weights")
        )
        shutil.copy(worse / "text.fp32.weights", writer.folder / "text.alt_.weights")
        files = [*bundle.record("fp32").files, "text.alt_.weights"]
        writer.add_precision("fp32", files=files, parity=None)
        writer.finish()
    result = run(tmp_path / "c")
    assert result.exit_code == 1
    assert "the short and the fixed text graph differ" in result.stderr


def test_every_file_is_hashed_again_whatever_the_stamps_say(
    tmp_path: Path, handmade: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = handmade.make_bundle(tmp_path / "b")
    weights = bundle.path / "image.fp32.weights"
    content = bytearray(weights.read_bytes())
    content[5] ^= 1
    weights.write_bytes(bytes(content))
    # A stamp that vouches for the damaged file: opening would believe it.
    monkeypatch.setattr("lrsclip_rt.bundle.sha256_with_stamp", lambda path: bundle.files[path.name].sha256)
    result = run(bundle.path)
    assert isinstance(result.exception, BundleError)
    assert "image.fp32.weights has sha256" in str(result.exception)


def test_own_images_take_the_probes_place(made_bundle: Path, photos: Path) -> None:
    result = run(made_bundle, "--images", photos)
    assert result.exit_code == 0, result.output
    rows = rows_of(result)
    assert rows["int8-cpu"]["inputs"] == "images"
    assert rows["int8-cpu"]["report"]["n_images"] == 12
    assert rows["fp32"]["inputs"] == "probe"
    limited = rows_of(run(made_bundle, "--images", photos, "--limit", 5))
    assert limited["int8-cpu"]["report"]["n_images"] == 5


def test_own_images_that_fail_are_listed_with_status_1(
    made_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "03.png").write_bytes(b"no image")
    result = run(made_bundle, "--images", photos)
    assert result.exit_code == 1
    assert rows_of(result)["int8-cpu"]["report"]["n_images"] == 11
    assert "03.png" in result.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    assert isinstance(run(made_bundle, "--images", empty).exception, InputError)
    (empty / "only.png").write_bytes(b"no image")
    assert isinstance(run(made_bundle, "--images", empty).exception, InputError)


def test_a_bundle_of_which_nothing_runs_here_is_an_error(made_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made_bundle, tmp_path / "b"))
    record = json.loads((folder / "bundle.json").read_text())
    record["precisions"] = {"fp16": record["precisions"]["fp16"]}
    record["default_precision"] = "fp16"
    (folder / "bundle.json").write_text(json.dumps(record))
    result = run(folder)
    assert isinstance(result.exception, BackendError)
    assert "no precision of" in str(result.exception)


def test_without_fp32_the_stored_answers_are_the_yardstick(
    made_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made_bundle, tmp_path / "b"))
    record = json.loads((folder / "bundle.json").read_text())
    del record["precisions"]["fp32"]
    record["default_precision"] = "int8-cpu"
    (folder / "bundle.json").write_text(json.dumps(record))
    result = run(folder)
    assert result.exit_code == 0, result.output
    report = rows_of(result)["int8-cpu"]["report"]
    assert report["image"]["mean"] < 0.999999
    assert report["dense"] is None
    assert isinstance(run(folder, "--images", photos).exception, BundleError)


def test_the_exported_tiny_model_repeats_itself(tiny_bundle: Path) -> None:
    rows = rows_of(run(tiny_bundle, "--threads", 1))
    assert rows["fp32"]["status"] == "passed"
    assert rows["fp32"]["short_vs_fixed_text"] <= 1e-6
    assert rows["int8-cpu"]["report"]["text"]["mean"] > 0.9


def test_the_table_for_people_fits_80_columns(
    made_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("lrsclip_rt.cli.output.wants_json", lambda as_json: as_json)
    monkeypatch.setattr("lrsclip_rt.cli.check.wants_json", lambda as_json: as_json)
    command.main([str(made_bundle), "--threads", "1"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    (fp32,) = [line for line in lines if "fp32" in line]
    assert "1.00000/1.0000" in fp32
    (int8,) = [line for line in lines if "int8-cpu" in line]
    assert "passed" in int8
    assert "100.0" in int8
    (fp16,) = [line for line in lines if "fp16" in line]
    assert "not run" in fp16


def test_the_fixed_text_graph_of_a_precision_has_to_pass_too(tmp_path: Path, handmade: ModuleType) -> None:
    from lrsclip_rt.bundle_writer import BundleWriter

    bundle = handmade.make_bundle(tmp_path / "b", extra={"int8-cpu": 0.001})
    worse = tmp_path / "worse"
    worse.mkdir()
    handmade.write_graphs(worse, "int8-cpu", handmade.Weights.seeded(noise=0.9))
    with BundleWriter.extending(bundle, tmp_path / "c") as writer:
        graph = writer.folder / "text-248.int8-cpu.onnx"
        content = graph.read_bytes().replace(b"text.int8-cpu.weights", b"text.int8-bad.weights")
        graph.unlink()
        graph.write_bytes(content)
        shutil.copy(worse / "text.int8-cpu.weights", writer.folder / "text.int8-bad.weights")
        record = bundle.record("int8-cpu")
        files = [*record.files, "text.int8-bad.weights"]
        writer.add_precision("int8-cpu", files=files, parity=record.parity)
        writer.finish()
    rows = rows_of(run(tmp_path / "c"))
    assert rows["int8-cpu"]["status"] == "failed"
    assert "text cosine" in rows["int8-cpu"]["reason"]


def test_a_tighter_gate_of_the_bundle_is_the_one_that_counts(made_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made_bundle, tmp_path / "b"))
    record = json.loads((folder / "bundle.json").read_text())
    record["thresholds"] = {"int8-cpu": {"mean": 0.999999}}
    (folder / "bundle.json").write_text(json.dumps(record))
    result = run(folder)
    assert result.exit_code == 1
    assert rows_of(result)["int8-cpu"]["report"]["gate"]["mean"] == 0.999999
