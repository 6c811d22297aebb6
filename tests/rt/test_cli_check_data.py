"""`lrsclip check --data`: what a precision costs on data sets, its gates, its record and its picture."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lrsclip_rt.backend_choice import candidates, choose
from lrsclip_rt.backends import BACKENDS, why_not
from lrsclip_rt.bundle import BUILT_IN, MANIFEST_FILE, Bundle
from lrsclip_rt.bundle_writer import BundleWriter, text_tower_copy
from lrsclip_rt.cli import info
from lrsclip_rt.cli.check import command
from lrsclip_rt.cli.info import collect_facts
from lrsclip_rt.errors import BackendError, BundleError, InputError, OutputExistsError
from lrsclip_rt.rendering import TEST_SEEDS, describe_long, describe_short, render_tile

pytestmark = pytest.mark.usefixtures("cache_home")

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "precision.md"
CLASSES = ("harbour", "forest", "residential", "sports_ground")
NEAR = ("--backend", "onnxruntime", "--threads", 1)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])


def rows_of(result: Result) -> dict[str, dict[str, Any]]:
    assert result.stdout, result.output + str(result.exception)
    return {f"{r['precision']} {r['backend']}": r for r in map(json.loads, result.stdout.splitlines())}


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered tiles twice: as captioned images with classes and splits, and as a labelled set."""
    root = tmp_path_factory.mktemp("tiles")
    (root / "pairs").mkdir()
    (root / "labelled").mkdir()
    lines, labels = [], [["image", "label"]]
    for number in range(16):
        name = CLASSES[number % len(CLASSES)]
        scene = render_tile(name, TEST_SEEDS[number], size=64)
        Image.fromarray(scene.pixels).save(root / "pairs" / f"{number}.png")
        Image.fromarray(scene.pixels).save(root / "labelled" / f"{number}.png")
        texts = {"short": [describe_short(scene)], "long": describe_long(scene)}
        split = "train" if number >= 12 else "val"
        lines.append(json.dumps({"image": f"{number}.png", "split": split, "class": name, **texts}))
        labels.append([f"{number}.png", name])
    (root / "pairs" / "pairs.jsonl").write_text("\n".join(lines))
    with (root / "labelled" / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(labels)
    record = {"classes": list(CLASSES), "templates": ["an aerial photo of {}."]}
    (root / "labelled" / "classes.json").write_text(json.dumps(record))
    return root


@pytest.fixture
def own_bundle(made_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_bundle, tmp_path / "own"))


def both(tiles: Path) -> tuple[object, ...]:
    return "--data", tiles / "pairs", "--data", tiles / "labelled", "--split", "val"


def with_thresholds(folder: Path, thresholds: dict[str, Any]) -> Path:
    record = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps({**record, "thresholds": thresholds}))
    return folder


def test_scores_of_each_set_are_held_against_fp32(made_bundle: Path, tiles: Path) -> None:
    result = run(made_bundle, *both(tiles), *NEAR)
    rows = rows_of(result)
    assert next(iter(rows)) == "fp32 onnxruntime"
    assert rows["fp32 onnxruntime"]["tasks"] is None
    assert rows["fp16 onnxruntime"]["status"] == "not run"
    tasks = rows["int8-cpu onnxruntime"]["tasks"]
    assert (tasks["precision"], tasks["backend"]) == ("int8-cpu", "onnxruntime")
    assert tasks["versions"]["onnxruntime"]
    pairs, labelled = tasks["sets"]
    assert (pairs["name"], pairs["split"], pairs["images"], pairs["failed"]) == ("pairs", "val", 12, 0)
    assert (labelled["name"], labelled["split"], labelled["images"]) == ("labelled", None, 16)
    assert f"{tiles / 'labelled'} names no split: all of its 16 images are used" in result.stderr
    assert [change["captions"] for change in pairs["retrieval"]] == ["short", "long"]
    assert [p["by"] for p in (*pairs["predictions"], *labelled["predictions"])] == ["class", "labels"]
    assert pairs["predictions"][0]["classes"] == labelled["predictions"][0]["classes"] == 4
    assert 0.9 < pairs["image"]["mean"] < 1
    assert sum(pairs["image"]["histogram"].values()) == pairs["image"]["rows"] == 12
    assert labelled["text"]["rows"] == 4


def test_the_numbers_are_those_of_the_evaluation_commands(made_bundle: Path, tiles: Path) -> None:
    from lrsclip_rt.cli.eval import command as evaluate

    def scores(kind: str, folder: str, precision: str, *more: str) -> dict[str, Any]:
        words = [kind, str(tiles / folder), "-b", str(made_bundle), "--precision", precision, *more]
        record: dict[str, Any] = json.loads(CliRunner().invoke(evaluate, words).stdout)
        return record

    row = rows_of(run(made_bundle, *both(tiles), *NEAR))["int8-cpu onnxruntime"]
    pairs, labelled = row["tasks"]["sets"]
    for side, precision in (("fp32", "fp32"), ("found", "int8-cpu")):
        expected = scores("retrieval", "pairs", precision, "--split", "val")
        for change in pairs["retrieval"]:
            known = expected[change["captions"]]
            assert change[side] == {key: known[key] for key in ("t2i", "i2t", "mR")}
        right = labelled["predictions"][0]["reference_right" if side == "fp32" else "found_right"]
        assert 100 * right / 16 == pytest.approx(scores("classify", "labelled", precision)["top1"])


def test_fp32_on_another_backend_is_held_against_onnxruntime(made_bundle: Path, tiles: Path) -> None:
    pytest.importorskip("openvino", reason="the second backend is openvino")
    rows = rows_of(run(made_bundle, *both(tiles), "--threads", 1))
    # What runs nowhere has one row with all reasons; a backend that cannot run a precision has none.
    assert set(rows) == {"fp32 onnxruntime", "fp32 openvino", "int8-cpu onnxruntime", "fp16 None"}
    tasks = rows["fp32 openvino"]["tasks"]
    assert tasks["passed"]
    assert tasks["sets"][0]["image"]["minimum"] > 0.99999


def test_a_worse_precision_fails_with_the_reason_in_words(
    tmp_path: Path, handmade: ModuleType, tiles: Path
) -> None:
    handmade.make_bundle(tmp_path / "b", extra={"int8-cpu": 0.8})
    result = run(tmp_path / "b", *both(tiles), *NEAR)
    assert result.exit_code == 1
    row = rows_of(result)["int8-cpu onnxruntime"]
    assert (row["status"], row["tasks"]["passed"]) == ("failed", False)
    assert "int8-cpu on onnxruntime: failed: " in result.stderr
    assert "pairs val: image cosine" in row["reason"]


def doubled_scale(bundle: Bundle, folder: Path) -> Bundle:
    """A copy of which the int8-cpu image tower has the scale of one weight doubled."""
    onnx = pytest.importorskip("onnx", reason="onnx says where the scale lies")
    graph = onnx.load(bundle.graph_path("image", "int8-cpu"), load_external_data=False).graph
    scale = next(t for t in graph.initializer if t.name.endswith("int8_scale") and "c_fc" in t.name)
    place = {entry.key: entry.value for entry in scale.external_data}
    start, length = int(place["offset"]), int(place["length"])
    with BundleWriter.extending(bundle, folder) as writer:
        weights = writer.folder / place["location"]
        content = bytearray(weights.read_bytes())
        numbers = np.frombuffer(bytes(content[start : start + length]), np.float32)
        content[start : start + length] = (2 * numbers).tobytes()
        weights.unlink()
        weights.write_bytes(bytes(content))
        return writer.finish()


@pytest.mark.skipif(
    not (BUILT_IN / MANIFEST_FILE).is_file(), reason="this checkout has no built-in bundle yet"
)
def test_one_doubled_scale_of_the_built_in_model_is_caught(tmp_path: Path, tiles: Path) -> None:
    good = Bundle.open()
    bad = doubled_scale(good, tmp_path / "bad")
    assert bad.passed("int8-cpu"), "its stored report knows nothing of the damage"
    words = ("--data", tiles / "pairs", *NEAR)
    assert run(good.path, *words).exit_code == 0
    result = run(bad.path, *words, "--record")
    assert result.exit_code == 1
    row = rows_of(result)["int8-cpu onnxruntime"]
    assert row["tasks"]["passed"] is False
    assert "pairs: top-1 agreement" in row["reason"]
    recorded = Bundle.open(bad.path)
    assert not recorded.passed("int8-cpu")
    assert [choice.precision for choice in candidates(recorded, precision="auto")].count("int8-cpu") == 0


def test_a_precision_that_breaks_off_has_failed_and_the_rest_goes_on(
    made_bundle: Path, tiles: Path, tmp_path: Path
) -> None:
    with BundleWriter.extending(Bundle.open(made_bundle), tmp_path / "b") as writer:
        weights = writer.folder / "image.int8-cpu.weights"
        size = weights.stat().st_size
        weights.unlink()
        weights.write_bytes(np.full(size // 4, np.nan, np.float32).tobytes())
        writer.finish()
    for words in (NEAR, (*both(tiles), *NEAR)):
        result = run(tmp_path / "b", *words)
        assert result.exit_code == 1, result.exception
        rows = rows_of(result)
        assert rows["fp32 onnxruntime"]["status"] == "passed"
        row = rows["int8-cpu onnxruntime"]
        assert (row["status"], row["tasks"]) == ("failed", None)
        assert "values that are not finite" in row["reason"]


def test_a_tightened_gate_is_the_one_that_counts(own_bundle: Path, tiles: Path) -> None:
    loose = rows_of(run(own_bundle, *both(tiles), *NEAR))["int8-cpu onnxruntime"]
    assert "cosine" not in (loose["reason"] or "")
    with_thresholds(own_bundle, {"int8-cpu": {"minimum": 0.9999999, "class_drop": 0.25}})
    result = run(own_bundle, *both(tiles), *NEAR)
    row = rows_of(result)["int8-cpu onnxruntime"]
    assert result.exit_code == 1
    assert "expected 0.99 mean, 1 least" in row["reason"]
    assert row["tasks"]["gate"]["class_drop"] == 0.25
    assert row["tasks"]["gate"]["mean_recall_drop"] == 0.5


@pytest.mark.parametrize(
    "values", [{"mean_recall_drop": 0.6}, {"labelled_drop": 5}, {"class_drop": None}, {"drop": 0.1}]
)
def test_a_bundle_that_loosens_a_gate_is_refused(own_bundle: Path, values: dict[str, Any]) -> None:
    with_thresholds(own_bundle, {"int8-cpu": values})
    with pytest.raises(BundleError, match=r"thresholds of bundle\.json: int8-cpu"):
        Bundle.open(own_bundle)


def test_images_that_cannot_be_read_are_listed_and_the_rest_goes_on(
    made_bundle: Path, tiles: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiles / "pairs", tmp_path / "pairs"))
    (folder / "3.png").write_bytes(b"no image")
    (folder / "5.png").unlink()
    result = run(made_bundle, "--data", folder, "--split", "val", *NEAR)
    assert result.exit_code == 1
    row = rows_of(result)["int8-cpu onnxruntime"]
    (one,) = row["tasks"]["sets"]
    assert (one["images"], one["failed"], one["predictions"][0]["images"]) == (10, 2, 10)
    assert "3.png" in result.stderr
    assert "5.png" in result.stderr
    assert "2 input(s) failed" in result.stderr
    for image in folder.glob("*.png"):
        image.write_bytes(b"no image")
    assert "none of the 16 images" in str(run(made_bundle, "--data", folder, *NEAR).exception)


def test_what_was_found_is_recorded_and_read_back(
    own_bundle: Path, tiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.read_bytes() for p in own_bundle.iterdir() if p.name != MANIFEST_FILE}
    assert collect_facts(own_bundle)["bundle"]["tasks"] == {}
    result = run(own_bundle, *both(tiles), *NEAR, "--record")
    found = rows_of(result)["int8-cpu onnxruntime"]["tasks"]
    said = "passed" if found["passed"] else "failed"
    assert f"recorded: int8-cpu on onnxruntime: {said}" in result.stderr
    assert {p.name: p.read_bytes() for p in own_bundle.iterdir() if p.name != MANIFEST_FILE} == before
    bundle = Bundle.open(own_bundle)
    assert bundle.record("int8-cpu").tasks["onnxruntime"].to_dict() == found
    assert bundle.record("int8-cpu").parity is not None
    assert bundle.record("fp32").tasks == {}
    facts = collect_facts(own_bundle)
    assert facts["bundle"]["tasks"] == {"int8-cpu": {"onnxruntime": found}}
    monkeypatch.setenv("COLUMNS", "250")
    info._print(facts)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "on data" in line]
    assert f"{said} on data" in line.lower()
    assert "pairs val: short mR" in line
    assert "of 16 right" in line
    # The copy that an archive keeps knows it too, and a bundle that is extended.
    copy = text_tower_copy(bundle, own_bundle.parent / "text", precisions=["int8-cpu"])
    assert copy.record("int8-cpu").tasks == bundle.record("int8-cpu").tasks


def test_a_setting_that_was_recorded_is_listed_and_judged_like_a_file(own_bundle: Path, tiles: Path) -> None:
    pytest.importorskip("openvino", reason="bf16 is a setting of openvino")
    if why_not(BACKENDS["openvino"], precision="bf16"):
        pytest.skip("this CPU does not compute in bf16")
    assert "bf16" not in Bundle.open(own_bundle).precisions
    result = run(own_bundle, *both(tiles), "--threads", 1, "--backend", "openvino", "--record")
    row = rows_of(result)["bf16 openvino"]
    bundle = Bundle.open(own_bundle)
    record = bundle.record("bf16")
    assert record.files == bundle.record("fp32").files
    assert record.tasks["openvino"].to_dict() == row["tasks"]
    assert bundle.passed("bf16", "openvino") == row["tasks"]["passed"]
    chosen = {choice.precision for choice in candidates(bundle, precision="auto")}
    assert ("bf16" in chosen) == row["tasks"]["passed"]


def test_a_recorded_failure_keeps_a_precision_out_of_auto(own_bundle: Path, tiles: Path) -> None:
    run(own_bundle, *both(tiles), *NEAR, "--record")
    with_thresholds(own_bundle, {})
    assert auto_precisions(own_bundle)[0] == "int8-cpu"
    # Judged by the numbers of the record under the gates of today.
    with_thresholds(own_bundle, {"int8-cpu": {"mean_recall_drop": 0}})
    record = json.loads((own_bundle / MANIFEST_FILE).read_text())
    change = record["precisions"]["int8-cpu"]["tasks"]["onnxruntime"]["sets"][0]["retrieval"][0]
    change["fp32"]["t2i"]["r1"] = 100.0
    (own_bundle / MANIFEST_FILE).write_text(json.dumps(record))
    assert not Bundle.open(own_bundle).passed("int8-cpu")
    assert "int8-cpu" not in auto_precisions(own_bundle)
    facts = collect_facts(own_bundle)["bundle"]
    assert facts["auto_precision"] == "fp32"
    assert facts["precisions"]["int8-cpu"]["passed"] is False
    assert facts["tasks"]["int8-cpu"]["onnxruntime"]["passed"] is False


def auto_precisions(folder: Path) -> list[str]:
    return [choice.precision for choice in candidates(Bundle.open(folder), precision="auto")]


def test_a_failure_on_one_backend_leaves_the_others(own_bundle: Path, tiles: Path) -> None:
    pytest.importorskip("openvino", reason="the second backend is openvino")
    run(own_bundle, *both(tiles), "--threads", 1, "--record")
    record = json.loads((own_bundle / MANIFEST_FILE).read_text())
    record["precisions"]["fp32"]["tasks"]["openvino"]["sets"][0]["image"]["minimum"] = 0.5
    (own_bundle / MANIFEST_FILE).write_text(json.dumps(record))
    bundle = Bundle.open(own_bundle)
    assert (bundle.passed("fp32", "onnxruntime"), bundle.passed("fp32", "openvino")) == (True, False)
    found = {asdict(c)["backend"] for c in candidates(bundle, precision="auto") if c.precision == "fp32"}
    assert found == {"onnxruntime"}
    # At fp32 too, unless openvino is asked for by name.
    assert [choice.backend for choice in candidates(bundle, precision="fp32")] == ["onnxruntime"]
    assert choose(bundle, backend="openvino", precision="fp32").backend == "openvino"
    # Asked for by name openvino has nothing left, and nothing takes its place.
    with pytest.raises(BackendError, match="openvino on cpu runs"):
        choose(bundle, backend="openvino", precision="auto")


def test_a_record_of_another_precision_is_refused(own_bundle: Path, tiles: Path) -> None:
    run(own_bundle, *both(tiles), *NEAR, "--record")
    record = json.loads((own_bundle / MANIFEST_FILE).read_text())
    record["precisions"]["fp16"]["tasks"] = record["precisions"]["int8-cpu"]["tasks"]
    (own_bundle / MANIFEST_FILE).write_text(json.dumps(record))
    with pytest.raises(BundleError, match="precision fp16: tasks: onnxruntime"):
        Bundle.open(own_bundle)


def test_the_picture_is_written_and_not_over_another(made_bundle: Path, tiles: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plots" / "cost.png"
    assert f"plot: {plot}" in run(made_bundle, *both(tiles), *NEAR, "--plot", plot).stderr
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
    words = (made_bundle, "--data", tiles / "pairs", *NEAR, "--plot", plot)
    assert isinstance(run(*words).exception, OutputExistsError)
    assert not isinstance(run(*words, "--overwrite").exception, OutputExistsError)


def test_the_commands_of_the_documentation_run(
    made_bundle: Path, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrsclip_rt.cli import cli

    shutil.copytree(made_bundle, tmp_path / "bundle")
    shutil.copytree(tiles, tmp_path / "data")
    shutil.copytree(tiles / "labelled", tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```sh\n(.*?)```", DOCUMENTATION.read_text(encoding="utf-8"), re.S)
    (block,) = [block for block in blocks if "lrsclip check" in block]
    for line in block.splitlines():
        words = shlex.split(line.partition(" #")[0])
        result = CliRunner().invoke(cli, words[1:])
        # A gate may fail on a made-up model; anything else is an error of ours.
        assert result.exit_code in (0, 1), line
        assert result.exception is None or isinstance(result.exception, SystemExit), line
    assert (tmp_path / "cost.png").is_file()
    assert "tasks" in json.loads((tmp_path / "bundle" / MANIFEST_FILE).read_text())["precisions"]["int8-cpu"]


def test_options_of_data_without_data_are_usage_mistakes(made_bundle: Path, tiles: Path) -> None:
    for words in (["--record"], ["--plot", "x.png"], ["--split", "val"]):
        result = run(made_bundle, *words)
        assert result.exit_code == 2
        assert "belongs to --data" in result.output
    result = run(made_bundle, "--images", tiles / "pairs", "--data", tiles / "pairs")
    assert result.exit_code == 2


def test_folders_that_are_no_data_sets_and_splits_that_are_none_are_named(
    made_bundle: Path, tiles: Path, tmp_path: Path
) -> None:
    assert "has no pairs.jsonl" in str(run(made_bundle, "--data", tmp_path).exception)
    unknown = run(made_bundle, "--data", tiles / "pairs", "--split", "test").exception
    assert isinstance(unknown, InputError)
    assert "splits found: train, val" in str(unknown)


def test_without_fp32_nothing_can_be_said_on_data(own_bundle: Path, tiles: Path) -> None:
    record = json.loads((own_bundle / MANIFEST_FILE).read_text())
    del record["precisions"]["fp32"]
    record["default_precision"] = "int8-cpu"
    (own_bundle / MANIFEST_FILE).write_text(json.dumps(record))
    error = run(own_bundle, *both(tiles), *NEAR).exception
    assert isinstance(error, (BackendError, BundleError))
    assert "fp32" in str(error)


def test_several_backends_check_the_probe_one_after_the_other(made_bundle: Path) -> None:
    rows = rows_of(run(made_bundle, "--backend", "onnxruntime", "--backend", "onnxruntime"))
    assert list(rows) == ["fp16 onnxruntime", "fp32 onnxruntime", "int8-cpu onnxruntime"]


def test_the_tables_for_people_hold_the_costs(
    made_bundle: Path, tiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("lrsclip_rt.cli.output.wants_json", lambda as_json: as_json)
    monkeypatch.setattr("lrsclip_rt.cli.check.wants_json", lambda as_json: as_json)
    words = [str(word) for word in (made_bundle, *both(tiles), *NEAR)]
    try:
        command.main(words, standalone_mode=False)
    finally:
        shown = capsys.readouterr().out
    assert "on data, against fp32 on onnxruntime" in shown
    (line,) = [line for line in shown.splitlines() if "pairs val" in line]
    assert "int8-cpu onnxruntime" in line
    assert "of 12" in line


def test_the_built_in_model_keeps_its_gates_on_real_images(data_dir: Path, tmp_path: Path) -> None:
    lines = (data_dir / "aid_rsicd" / "pairs.jsonl").read_text().splitlines()
    held_out = [line for line in lines if json.loads(line)["split"] == "val"][::30]
    (tmp_path / "aid").mkdir()
    (tmp_path / "aid" / "images").symlink_to(data_dir / "aid_rsicd" / "images")
    (tmp_path / "aid" / "pairs.jsonl").write_text("\n".join(held_out))
    result = run(BUILT_IN, "--data", tmp_path / "aid", "--data", data_dir / "rsscn7_dev", *NEAR)
    assert result.exit_code == 0, result.output
    aid, rsscn7 = rows_of(result)["int8-cpu onnxruntime"]["tasks"]["sets"]
    assert aid["images"] == len(held_out)
    assert aid["image"]["mean"] > 0.9999
    assert rsscn7["predictions"][0]["lost"] <= 1
